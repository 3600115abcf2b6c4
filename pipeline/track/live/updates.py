"""What of a run is new since a page last asked.

    update = read_update(folder / "metrics.jsonl", cursor="")               # all rows, thinned out
    update = read_update(folder / "metrics.jsonl", cursor=update.cursor)    # the rows since then

A cursor says how far a file was read: which file, how many bytes, and a checksum of the last of them. A run that goes
on after a kill writes its file anew without the rows after its checkpoint; the cursor no longer fits then, and the page
is given everything again. So each step is shown once, and nothing is kept between two calls.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.track.report.thinning import picked
from pipeline.track.run_reading import Series, series_of
from pipeline.track.step_rows import parse

# Points of one curve that a page is given at once; a screen has no more columns.
MOST_POINTS = 2000
CHECKED_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """New rows of a run; `is_whole`: they replace what was read before."""

    cursor: str
    is_whole: bool
    series: dict[str, Series]


def read_update(path: Path, *, cursor: str) -> Update:
    """Return the whole rows that a file of rows has after the cursor, or all of them where the cursor does not fit."""
    try:
        stream = path.open("rb")
    except OSError:
        return Update(cursor="", is_whole=True, series={})
    with stream:
        inode = os.fstat(stream.fileno()).st_ino
        start = _fitting_start(stream, inode, cursor)
        is_whole = start is None
        stream.seek(start or 0)
        content = stream.read()
        content = content[: content.rfind(b"\n") + 1]
        end = (start or 0) + len(content)
        series = series_of(row for line in content.splitlines() if (row := parse(line.decode(errors="replace"))))
        if is_whole:
            series = {key: _thinned(one) for key, one in series.items()}
        return Update(cursor=f"{inode}-{end}-{_checksum(stream, end)}", is_whole=is_whole, series=series)


def _thinned(series: Series) -> Series:
    places = picked(series.values, most=MOST_POINTS)
    return Series(steps=[series.steps[place] for place in places], values=[series.values[place] for place in places])


def _fitting_start(stream: BinaryIO, inode: int, cursor: str) -> int | None:
    """Return the offset that a cursor names, or None where it is not of this file as it is now."""
    try:
        known_inode, offset, checksum = map(int, cursor.split("-"))
    except ValueError:
        return None
    is_there = known_inode == inode and 0 <= offset <= os.fstat(stream.fileno()).st_size
    return offset if is_there and _checksum(stream, offset) == checksum else None


def _checksum(stream: BinaryIO, end: int) -> int:
    """Return the checksum of the bytes before `end`."""
    start = max(0, end - CHECKED_BYTES)
    stream.seek(start)
    return zlib.crc32(stream.read(end - start))
