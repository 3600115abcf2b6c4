"""Tables and lists of cells that are HTML already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = (), bars: int | None = None
) -> str:
    """Return a table of cells that are HTML already; columns in `numbers` are set right, the one of `bars` is drawn."""
    right = set(numbers)

    def kind(column: int) -> str:
        return ' class="n"' if column in right else ' class="share"' if column == bars else ""

    top = "".join(f'<th scope="col"{kind(column)}>{cell}</th>' for column, cell in enumerate(head))
    body = "".join(
        f"<tr>{''.join(f'<td{kind(column)}>{cell}</td>' for column, cell in enumerate(row))}</tr>" for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def bullets(rows: Iterable[str]) -> str:
    """Return the entries of a list."""
    return "".join(f"<li>{row}</li>" for row in rows)
