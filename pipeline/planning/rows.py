"""What a plan is made of: rows under titles, and numbers as people read them.

    Row(name="weights", value=bytes_text(499_360_000), note="float32")
    sys.stdout.write(plan_text([Section(title="memory of a rank", rows=(row,))]))

Sizes and counts are in units of 1000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_BYTE_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")
_COUNT_UNITS = ("", "thousand", "million", "billion", "trillion")
_FLOP_UNITS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the plan: what, how much, and in which terms."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Some lines of the plan under a title."""

    title: str
    rows: tuple[Row, ...]


def plan_text(sections: Sequence[Section]) -> str:
    """Return the plan as text, its columns aligned."""
    rows = [row for section in sections for row in section.rows]
    names, values = max(len(row.name) for row in rows), max(len(row.value) for row in rows)
    lines = []
    for section in sections:
        lines += ["", section.title]
        lines += [f"  {row.name:<{names}}  {row.value:>{values}}  {row.note}".rstrip() for row in section.rows]
    return "\n".join(lines[1:]) + "\n"


def bytes_text(size_bytes: float) -> str:
    """Return a size in its unit: 16_400_000_000 is "16.4 GB"."""
    return _in_units(size_bytes, _BYTE_UNITS)


def count_text(count: float) -> str:
    """Return a number in words: 124_840_000 is "125 million", 950 is "950"."""
    return _in_units(count, _COUNT_UNITS)


def flop_text(flop: float) -> str:
    """Return a number of floating-point operations: 749e6 is "749 MFLOP"."""
    return _in_units(flop, _FLOP_UNITS)


def duration_text(seconds: float) -> str:
    """Return a time in its unit: 0.0431 is "43.1 ms", 90 is "90 s", 7200 is "2 h", 10 days are "10 d"."""
    for size_s, unit, least in ((86_400, "d", 2), (3600, "h", 1), (60, "min", 2), (1, "s", 1)):
        if seconds >= size_s * least:
            return f"{_short(seconds / size_s)} {unit}"
    return f"{_short(seconds * 1e3)} ms" if seconds >= 1e-3 else f"{_short(seconds * 1e6)} us"


def times_text(ratio: float) -> str:
    """Return a ratio: 2.53 is "2.53 x"."""
    return f"{_short(ratio)} x"


def _in_units(amount: float, units: Sequence[str]) -> str:
    amount, units = float(amount), list(units)
    while amount >= 999.5 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.3g} {units[0]}".rstrip()


def _short(number: float) -> str:
    """Return three digits without an exponent."""
    return f"{number:,.0f}" if math.isfinite(number) and number >= 999.5 else f"{number:.3g}"
