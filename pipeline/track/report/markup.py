"""Pieces of HTML that pages are made of. Whatever is passed in as text comes out escaped.

table(["class", "top1_frac"], [["cat", 0.41], ["dog", 0.38]])
tiles([Tile(name="accuracy", value="42.50 %", more="at step 390")])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.track.report.text import NONE, escaped, value_text
from pipeline.track.run_reading import finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a page: `body` is HTML."""

    anchor: str
    title: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    name: str
    value: str
    more: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A table's cell that is shown otherwise than it is sorted."""

    text: str
    value: float | None = None


def tiles(shown: Iterable[Tile]) -> str:
    cells = (
        f"<div><dt>{escaped(tile.name)}</dt><dd>{escaped(tile.value)}"
        + (f"<small>{escaped(tile.more)}</small>" if tile.more else "")
        + "</dd></div>"
        for tile in shown
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def note(text: str, *, is_warning: bool = False) -> str:
    return f'<p class="note{" warn" if is_warning else ""}">{escaped(text, limit=3_000)}</p>'


def notes(texts: Iterable[str]) -> str:
    return "".join(note(text) for text in texts)


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of two columns without a head: names and what they are."""
    lines = (
        f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(value, limit=3_000)}</td></tr>' for name, value in rows
    )
    return f"<table><tbody>{''.join(lines)}</tbody></table>"


def code(text: str) -> str:
    return f'<pre tabindex="0">{escaped(text, limit=100_000)}</pre>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table that sorts by a click on a column's head.

    A number is shown by the unit that its column's name ends with, and sorted by what it is.
    """
    rows = [list(row) for row in rows]
    numeric = [_is_numeric([row[place] for row in rows if place < len(row)]) for place in range(len(columns))]
    heads = "".join(
        f'<th scope="col"{_class(is_number)}><button type="button">{escaped(name, limit=80)}</button></th>'
        for name, is_number in zip(columns, numeric, strict=True)
    )
    lines = "".join(f"<tr>{''.join(_cells(columns, row, numeric))}</tr>\n" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table class="sortable"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _cells(columns: Sequence[str], row: Sequence[Any], numeric: Sequence[bool]) -> Iterable[str]:
    for name, value, is_number in zip(columns, row, numeric, strict=False):
        if isinstance(value, Cell):
            shown, sorted_by = value.text, value.value
        elif _is_number(value):
            shown, sorted_by = value_text(name, value), finite(value)
        else:
            shown, sorted_by = (NONE if value is None else str(value)), None
        by = f' data-value="{"" if sorted_by is None else f"{sorted_by:.9g}"}"' if is_number else ""
        yield f"<td{_class(is_number)}{by}>{escaped(shown)}</td>"


def _class(is_number: bool) -> str:
    return ' class="n"' if is_number else ""


def _is_numeric(values: Sequence[Any]) -> bool:
    """Return whether a column's values are numbers, as far as there are any."""
    told = [value for value in values if value is not None]
    return bool(told) and all(_is_number(value) or isinstance(value, Cell) for value in told)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
