"""Charts as inline SVG: no library, no script. Colours come from the page's style, so they follow light and dark.

    line_chart([Series(name="train", values=[900, 400, 30])], title="...", x_label="class by rank", y_label="samples")

Splits differ by colour and by dashes; a tone of one hue stands for a count. Every mark says its numbers on hovering.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_prep.card.sizes import EDGES, SizeHistogram
from data_prep.card.text import counted, escaped, percent, short

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 46
MAX_POINTS = 400
DASHES = ("", "7 3", "2 3", "9 3 2 3")
# The heat map's square and the bars on its sides.
SQUARE, SIDE_BARS, GAP = 330, 56, 6
LEAST_TONE = 0.2

Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A named line: `values` at 1, 2, 3, ..."""

    name: str
    values: Sequence[int]


def line_chart(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> str:
    """Draw falling lines over a rank; the y axis is logarithmic where they span more than a factor of 20."""
    positive = [value for line in series for value in line.values if value > 0]
    highest, num_ranks = max(positive, default=1), max((len(line.values) for line in series), default=1)
    logarithmic = highest > 20 * min(positive, default=1)
    lowest = 10.0 ** math.floor(math.log10(min(positive))) if logarithmic else 0.0
    ticks = log_ticks(lowest, highest) if logarithmic else linear_ticks(highest)
    top = 1.1 * highest if logarithmic else ticks[-1]
    ticks = [tick for tick in ticks if tick <= top]
    y = _scale(lowest, top, start=HEIGHT - BOTTOM, end=TOP, logarithmic=logarithmic)
    x = _scale(1, max(2, num_ranks), start=LEFT, end=WIDTH - RIGHT)
    x_ticks = [1.0, *(tick for tick in linear_ticks(num_ranks) if 1 < tick <= num_ranks)]
    parts = [_y_axis(ticks, y, label=y_label + (", log scale" if logarithmic else "")), _x_axis(x_ticks, x, x_label)]
    for number, line in enumerate(series):
        points = [
            f"{x(rank + 1):.1f},{y(line.values[rank]):.1f}"
            for rank in _thinned(len(line.values))
            if line.values[rank] > 0 or not logarithmic
        ]
        style = f'class="line c{number % 4}" stroke-dasharray="{DASHES[number % 4]}"'
        parts.append(f'<polyline {style} points="{" ".join(points)}"/>')
    return _svg(parts, title=title) + legend([line.name for line in series])


def bar_chart(values: Sequence[int], *, title: str, x_label: str, y_label: str, labels: Sequence[str]) -> str:
    """Draw one bar a value."""
    ticks = linear_ticks(max(values, default=1))
    y = _scale(0, max(ticks[-1], max(values, default=1)), start=HEIGHT - BOTTOM, end=TOP)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(values))
    every = math.ceil(len(values) / 16)
    parts = [_y_axis(ticks, y, label=y_label)]
    for number, (value, label) in enumerate(zip(values, labels, strict=True)):
        left, top = LEFT + (number + 0.1) * step, y(value)
        told = f"{label}: {value:,} of {sum(values):,} ({percent(value, sum(values))})"
        parts.append(_rect(left, top, 0.8 * step, HEIGHT - BOTTOM - top, told=told))
        if number % every == 0:
            parts.append(_text(left + 0.4 * step, HEIGHT - BOTTOM + 18, label))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, kind="label"))
    return _svg(parts, title=title)


def size_chart(
    sizes: SizeHistogram, *, title: str, octaves: tuple[int, int], mark: tuple[int, int] | None = None
) -> str:
    """Draw a heat map of width by height on logarithmic axes, with the counts of each alone on its sides.

    Args:
        sizes: at least one image.
        octaves: the axes reach from 2^octaves[0] to 2^octaves[1] pixels.
        mark: (width, height) to which the images were brought, drawn as two dashed lines.
    """
    low, high = octaves
    left, bottom = LEFT, SIDE_BARS + GAP + SQUARE
    x = _scale(2.0**low, 2.0**high, start=left, end=left + SQUARE, logarithmic=True)
    y = _scale(2.0**low, 2.0**high, start=bottom, end=SIDE_BARS + GAP, logarithmic=True)
    greatest, total = max(sizes.cells.values()), sizes.num_images
    parts = []
    for octave in range(low, high + 1):
        label = f"{2**octave:,}"
        parts.append(f'<path class="grid" d="M{x(2.0**octave):.1f} {SIDE_BARS + GAP}V{bottom}"/>')
        parts.append(f'<path class="grid" d="M{left} {y(2.0**octave):.1f}H{left + SQUARE}"/>')
        if (octave - low) % (2 if high - low > 6 else 1) == 0:
            parts.append(_text(x(2.0**octave), bottom + 18, label))
            parts.append(_text(left - 8, y(2.0**octave) + 4, label, anchor="end"))
    for (width_bin, height_bin), count in sorted(sizes.cells.items()):
        (x0, x1), (y0, y1) = _ends(width_bin, x), _ends(height_bin, y)
        told = f"{bin_text(width_bin)} × {bin_text(height_bin)} pixels: {counted(count, 'image')}"
        tone = LEAST_TONE + (1 - LEAST_TONE) * (math.log(count) / math.log(greatest) if greatest > 1 else 1)
        parts.append(_rect(x0, y1, x1 - x0, y0 - y1, told=told, opacity=tone))
    parts += _side_bars(sizes, axis=0, scale=x, total=total) + _side_bars(sizes, axis=1, scale=y, total=total)
    if mark:
        told = f"<title>stored at {mark[0]} × {mark[1]} pixels</title>"
        parts.append(f'<path class="mark" d="M{x(mark[0]):.1f} {SIDE_BARS + GAP}V{bottom}">{told}</path>')
        parts.append(f'<path class="mark" d="M{left} {y(mark[1]):.1f}H{left + SQUARE}">{told}</path>')
    parts.append(_text(left + SQUARE / 2, bottom + 38, "width, pixels", kind="label"))
    parts.append(_text(14, bottom - SQUARE / 2, "height, pixels", kind="label", turned=True))
    parts.append(_tone_legend(greatest, top=bottom + 52))
    return _svg(parts, title=title, width=left + SQUARE + GAP + SIDE_BARS + 4, height=bottom + 78)


def legend(names: Sequence[str]) -> str:
    """Return the key of a chart's lines."""
    rows = "".join(
        f'<li><svg width="34" height="12" aria-hidden="true"><path class="line c{number % 4}" stroke-dasharray='
        f'"{DASHES[number % 4]}" d="M1 6H33"/></svg>{escaped(name, limit=60)}</li>'
        for number, name in enumerate(names)
    )
    return f'<ul class="legend">{rows}</ul>'


def bin_text(number: int) -> str:
    """Return the sizes of a bin, as in 64–75."""
    if number == len(EDGES) - 1:
        return f"{EDGES[-1]:,} and more"
    first, last = EDGES[number], EDGES[number + 1] - 1
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"


def linear_ticks(highest: float) -> list[float]:
    """Return 0 and four to nine round steps up to at least `highest`."""
    if highest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(highest))
    step = next(power * part for part in (0.1, 0.2, 0.25, 0.5, 1, 2) if highest <= 6 * power * part)
    step = max(1.0, step)
    return [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]


def log_ticks(lowest: float, highest: float) -> list[float]:
    """Return powers of ten from at most `lowest` to at least `highest`, not more than about seven."""
    first, last = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
    return [10.0**power for power in range(first, last + 1, max(1, (last - first + 6) // 7))]


def _scale(low: float, high: float, *, start: float, end: float, logarithmic: bool = False) -> Scale:
    """Return the map of [low, high] onto [start, end], cut off outside."""
    bend = math.log if logarithmic else float

    def place(value: float) -> float:
        value = min(max(value, low), high)
        return start + (bend(value) - bend(low)) / (bend(high) - bend(low)) * (end - start)

    return place


def _thinned(length: int) -> list[int]:
    """Return all of range(length), or MAX_POINTS of them, the first ones densely, as lines fall fastest there."""
    if length <= MAX_POINTS:
        return list(range(length))
    even = [number * (length - 1) // (MAX_POINTS // 2) for number in range(MAX_POINTS // 2 + 1)]
    return sorted({*even, *(int(length ** (number / (MAX_POINTS // 2))) - 1 for number in range(MAX_POINTS // 2))})


def _ends(number: int, scale: Scale) -> tuple[float, float]:
    """Return where a bin starts and ends on an axis; the last one has the width of the others."""
    upper = EDGES[number + 1] if number + 1 < len(EDGES) else EDGES[-1] * 2**0.25
    return scale(EDGES[number]), scale(upper)


def _side_bars(sizes: SizeHistogram, *, axis: int, scale: Scale, total: int) -> list[str]:
    counts: dict[int, int] = {}
    for cell, count in sizes.cells.items():
        counts[cell[axis]] = counts.get(cell[axis], 0) + count
    parts = []
    for number, count in sorted(counts.items()):
        start, end = sorted(_ends(number, scale))
        length = max(1.0, SIDE_BARS * count / max(counts.values()))
        side = ("width", "height")[axis]
        told = f"{side} {bin_text(number)} pixels: {counted(count, 'image')} ({percent(count, total)})"
        if axis == 0:
            parts.append(_rect(start, SIDE_BARS - length, end - start, length, told=told, kind="side"))
        else:
            parts.append(_rect(LEFT + SQUARE + GAP, start, length, end - start, told=told, kind="side"))
    return parts


def _tone_legend(greatest: int, *, top: float) -> str:
    """Return the scale of tones, logarithmic from 1 to the greatest count of a cell."""
    steps = 12 if greatest > 1 else 1
    parts = [
        _rect(
            LEFT + 12 * step,
            top,
            12,
            12,
            opacity=LEAST_TONE + (1 - LEAST_TONE) * (step / (steps - 1) if steps > 1 else 1),
        )
        for step in range(steps)
    ]
    numbers = f"1 to {greatest:,} images a cell, log scale" if greatest > 1 else "1 image a cell"
    return "".join(parts) + _text(LEFT + 12 * steps + 8, top + 11, numbers, anchor="start")


def _y_axis(ticks: Sequence[float], scale: Scale, *, label: str) -> str:
    parts = []
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {scale(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 8, scale(tick) + 4, short(tick), anchor="end"))
    return "".join(parts) + _text(14, (TOP + HEIGHT - BOTTOM) / 2, label, kind="label", turned=True)


def _x_axis(ticks: Sequence[float], scale: Scale, label: str) -> str:
    parts = [f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>']
    for tick in ticks:
        parts.append(f'<path class="axis" d="M{scale(tick):.1f} {HEIGHT - BOTTOM}v4"/>')
        parts.append(_text(scale(tick), HEIGHT - BOTTOM + 18, short(tick)))
    return "".join(parts) + _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, label, kind="label")


def _rect(
    left: float, top: float, width: float, height: float, *, told: str = "", opacity: float = 1, kind: str = "bar"
) -> str:
    inner = f"<title>{escaped(told)}</title>" if told else ""
    shade = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
    place = f'x="{left:.1f}" y="{top:.1f}" width="{max(0.5, width):.1f}" height="{max(0.0, height):.1f}"'
    return f'<rect class="{kind}" {place}{shade}>{inner}</rect>'


def _text(x: float, y: float, text: str, *, anchor: str = "middle", kind: str = "tick", turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escaped(text)}</text>'


def _svg(parts: Sequence[str], *, title: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    label = escaped(title, limit=600)
    return (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )
