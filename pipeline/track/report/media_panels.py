"""Pictures and tables of a run inside its page, as many as there is room for: the newest of each name first.

    body = pictures_panel(run.media, room_bytes=3_000_000)
    body = tables_panel(run.media, room_bytes=800_000)

What has no room, or is not what it says it is, is named, with the file to look at.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from pipeline.track.media import Kind, Medium
from pipeline.track.report.markup import note, table
from pipeline.track.report.text import escaped, title_of
from pipeline.track.report.thinning import evenly

PNG_START = b"\x89PNG\r\n\x1a\n"
MAX_TABLE_ROWS = 1_000
# Of one picture over time so many steps, first and last among them.
MOST_STEPS = 12


def by_name(media: Sequence[Medium], kind: Kind) -> dict[str, list[Medium]]:
    """Return the media of a kind, by name, each in the order of its steps."""
    found: dict[str, list[Medium]] = {}
    for medium in sorted(media, key=lambda medium: medium.step):
        if medium.kind is kind:
            found.setdefault(medium.name, []).append(medium)
    return found


def pictures_panel(media: Sequence[Medium], *, room_bytes: int) -> str:
    """Return the pictures' HTML, empty where there are none; it has at most about `room_bytes` bytes."""
    named = {
        name: [found[place] for place in evenly(len(found), most=MOST_STEPS)]
        for name, found in by_name(media, Kind.picture).items()
    }
    ages = range(max(map(len, named.values()), default=0))
    newest_first = [found[-1 - age] for age in ages for found in named.values() if age < len(found)]
    shown: dict[str, list[tuple[Medium, str]]] = {}
    left_out = []
    for medium in newest_first:
        image = _image(medium)
        if image is None or len(image) > room_bytes:
            left_out.append(_why_left_out(medium, is_sound=image is not None))
            continue
        room_bytes -= len(image)
        shown.setdefault(medium.name, []).append((medium, image))
    figures = (_figure(name, sorted(found, key=lambda pair: pair[0].step)) for name, found in shown.items())
    body = f'<div class="pictures">{"".join(figures)}</div>' if shown else ""
    return body + _left_out(left_out)


def tables_panel(media: Sequence[Medium], *, room_bytes: int, without: Sequence[str] = ()) -> str:
    """Return the newest table of each name as HTML, empty where there are none."""
    parts, left_out = [], []
    for name, found in by_name(media, Kind.table).items():
        if name in without:
            continue
        newest = found[-1]
        body = table_body(newest)
        if body is None or len(body) > room_bytes:
            left_out.append(_why_left_out(newest, is_sound=body is not None))
            continue
        room_bytes -= len(body)
        parts.append(
            f'<h4>{escaped(title_of(name))} <span class="k soft">{escaped(name)}</span></h4>'
            f'<p class="soft">{escaped(newest.caption)} (step {newest.step:,})</p>{body}'
        )
    return "".join(parts) + _left_out(left_out)


def table_body(medium: Medium) -> str | None:
    """Return a table's HTML, of a long one its first rows; None where the file is not what it should be."""
    try:
        columns, rows = medium.table()
    except (OSError, ValueError):
        return None
    rows = [[_plain(value) for value in row] for row in rows]
    body = table([str(column) for column in columns], rows[:MAX_TABLE_ROWS])
    if len(rows) > MAX_TABLE_ROWS:
        body += note(f"The first {MAX_TABLE_ROWS:,} of {len(rows):,} rows; all are in {medium.path}")
    return body


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str) else str(value)


def _image(medium: Medium) -> str | None:
    """Return the picture's element, None where the file is no PNG."""
    try:
        content = medium.path.read_bytes()
    except OSError:
        return None
    if not content.startswith(PNG_START) or content[12:16] != b"IHDR" or len(content) < 33:
        return None
    width, height = struct.unpack(">II", content[16:24])
    data = base64.b64encode(content).decode()
    alt = escaped(medium.caption or medium.name)
    return f'<img width="{width}" height="{height}" alt="{alt}" src="data:image/png;base64,{data}"'


def _figure(name: str, found: Sequence[tuple[Medium, str]]) -> str:
    last = len(found) - 1
    hidden = ["" if place == last else " hidden" for place in range(len(found))]
    images = "".join(f"{image}{state}>" for (_, image), state in zip(found, hidden, strict=True))
    captions = "".join(
        f"<figcaption{state}>{escaped(_caption(medium))}</figcaption>"
        for (medium, _), state in zip(found, hidden, strict=True)
    )
    slider = (
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="{escaped(name)}: step">' if last else ""
    )
    title = f'<h4>{escaped(title_of(name))} <span class="k soft">{escaped(name)}</span></h4>'
    return f'<figure class="picture">{title}{slider}{images}{captions}</figure>\n'


def _caption(medium: Medium) -> str:
    """Return the caption, with the step before it where it does not say it itself."""
    if medium.caption.lower().startswith(f"step {medium.step}"):
        return medium.caption
    return f"Step {medium.step:,}. {medium.caption}"


def _why_left_out(medium: Medium, *, is_sound: bool) -> str:
    why = "has no room here" if is_sound else f"is no {medium.kind.value}"
    return f"{medium.name} of step {medium.step:,} {why}: {medium.path}"


def _left_out(lines: Sequence[str]) -> str:
    return "".join(note(f"Left out: {line}") for line in lines[:20]) + (
        note(f"And {len(lines) - 20:,} more.") if len(lines) > 20 else ""
    )
