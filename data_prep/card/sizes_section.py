"""The section on the widths and heights of images, in the source and as stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from data_prep.card.charts import bin_text, size_chart
from data_prep.card.facts import CardFacts
from data_prep.card.sizes import EDGES, SizeHistogram
from data_prep.card.text import counted, percent


def image_sizes(facts: CardFacts) -> str:
    before, after = facts.sizes_before, facts.sizes_after
    known = [sizes for sizes in (before, after) if sizes is not None and sizes.cells]
    octaves = _octaves(known)
    mark = (facts.packed.width, facts.packed.height) if facts.packed else None
    if before is None:
        first = "<p>Not recorded.</p>"
    else:
        first = _size_panel(before, title="Sizes in the source", octaves=octaves, mark=mark)
    second = _size_panel(after, title="Sizes as stored", octaves=octaves, mark=None)
    if before is not None and mark is not None:
        second += _enlarged(before, side=min(mark))
    return (
        f'<div class="columns"><div><h3>Before: in the source</h3>{first}</div>'
        f"<div><h3>After: as stored</h3>{second}</div></div>"
    )


def _size_panel(sizes: SizeHistogram, *, title: str, octaves: tuple[int, int], mark: tuple[int, int] | None) -> str:
    if not sizes.widths or not sizes.heights:
        return "<p>No images.</p>"
    (low_width, high_width), (low_height, high_height) = sizes.widths, sizes.heights
    if low_width == high_width and low_height == high_height:
        return f"<p>All {sizes.num_images:,} images: {low_width} × {low_height} pixels.</p>"
    shorter = _median_bin((min(cell), count) for cell, count in sizes.cells.items())
    text = (
        f"{counted(sizes.num_images, 'image')}: widths {low_width:,} to {high_width:,}, heights {low_height:,} to"
        f" {high_height:,} pixels. The median shorter side is {bin_text(shorter)} pixels."
    )
    marked = " Dashed: the stored size." if mark else ""
    return f"<p>{text}{marked}</p>" + size_chart(sizes, title=f"{title}. {text}", octaves=octaves, mark=mark)


def _octaves(histograms: Sequence[SizeHistogram]) -> tuple[int, int]:
    """Return the powers of two between which all sizes lie, at least two octaves apart."""
    bins = [number for sizes in histograms for cell in sizes.cells for number in cell]
    low = EDGES[min(bins)].bit_length() - 1
    high = (EDGES[max(bins)]).bit_length()
    return (low, high) if high - low >= 2 else (max(0, low - 1), high + 1)


def _median_bin(counts: Iterable[tuple[int, int]]) -> int:
    in_order = sorted(counts)
    half, seen = sum(count for _, count in in_order) / 2, 0
    for number, count in in_order:
        seen += count
        if seen >= half:
            return number
    raise ValueError("no counts")


def _enlarged(sizes: SizeHistogram, *, side: int) -> str:
    """Say how many images had to be enlarged to `side`; exact where that is a bin's edge."""
    below = sum(
        count for cell, count in sizes.cells.items() if min(cell) + 1 < len(EDGES) and EDGES[min(cell) + 1] <= side
    )
    if not below:
        return ""
    at_least = "" if side in EDGES else "At least "
    ends = "was enlarged." if below == 1 else "were enlarged."
    share = percent(below, sizes.num_images)
    return (
        f"<p>{at_least}{counted(below, 'image')} ({share}) had a shorter side under {side} pixels in the source and"
        f" {ends}</p>"
    )
