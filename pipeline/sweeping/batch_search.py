"""The search for the largest batch that fits: doubled until it does not, then halved in between.

    found = search(first=64, most=50_000, multiple=2, tolerance_frac=0.0, fits=lambda size: size <= 1000)
    found.largest, found.too_large      # 1000, 1002

Memory grows with the batch, so what fits is an interval from below; that is all the search assumes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer.

    Attributes:
        largest: the largest size that was tried and fits; None: not even the smallest possible.
        too_large: the smallest size that was tried and does not fit; None: all up to the limit fit.
    """

    largest: int | None
    too_large: int | None


def search(*, first: int, most: int, multiple: int, tolerance_frac: float, fits: Callable[[int], bool]) -> Found:
    """Return the largest multiple of `multiple` up to `most` that fits.

    Args:
        first: where to begin; brought into range and to a multiple.
        tolerance_frac: the search may end when the answer is known to be within this share below what is possible.
        fits: tries a size. It is asked once a size; log2(most / first) + log2(1 / tolerance_frac) times or so.

    Raises:
        ValueError: `most` is below `multiple`.
    """
    if most < multiple:
        raise ValueError(f"most={most}: at least multiple={multiple} wanted")
    # From here on in units of `multiple`.
    limit = most // multiple
    size = min(max(1, first // multiple), limit)
    largest, too_large = 0, limit + 1
    while size > largest and size < too_large:
        if fits(size * multiple):
            largest = size
        else:
            too_large = size
        if too_large > limit:
            size = min(2 * size, limit)
        elif largest == 0:
            size = size // 2
        else:
            gap = too_large - largest
            size = largest if gap <= 1 or gap - 1 <= tolerance_frac * largest else largest + gap // 2
    return Found(
        largest=largest * multiple if largest else None,
        too_large=too_large * multiple if too_large <= limit else None,
    )
