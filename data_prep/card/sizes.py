"""Image sizes counted in fixed bins, a quarter of an octave wide: small, exact, and the same in any order.

    sizes = SizeHistogram()
    sizes.add(500, 375)                         # width, height
    sizes.merge(SizeHistogram.from_plain(of_another_worker))
    sizes.to_plain()                            # {"widths": [...], "heights": [...], "cells": [[31, 29, 1], ...]}

Widths and heights are counted together, so that the counts of shapes, of the shorter side and of either alone follow.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

# Bin k holds EDGES[k] <= pixels < EDGES[k + 1]; the last one all above. Whole octaves are edges.
EDGES = tuple(sorted({round(2 ** (quarter / 4)) for quarter in range(4 * 16 + 1)}))


@dataclass(slots=True)
class SizeHistogram:
    """Counts of (width bin, height bin), and the least and greatest width and height, None before the first image."""

    cells: dict[tuple[int, int], int] = field(default_factory=dict)
    widths: tuple[int, int] | None = None
    heights: tuple[int, int] | None = None

    @property
    def num_images(self) -> int:
        return sum(self.cells.values())

    def add(self, width: int, height: int) -> None:
        """Count one image of `width` x `height` pixels, each at least 1."""
        if width < 1 or height < 1:
            raise ValueError(f"an image of {width}x{height} pixels: at least 1x1 wanted")
        self._count((bisect_right(EDGES, width) - 1, bisect_right(EDGES, height) - 1), 1)
        self._extend((width, width), (height, height))

    def add_many(self, widths: npt.NDArray[Any], heights: npt.NDArray[Any]) -> None:
        """Count images given as columns of equal length."""
        if len(widths) == 0:
            return
        least = (int(widths.min()), int(heights.min()))
        if min(least) < 1:
            raise ValueError(f"images of {least[0]} by {least[1]} pixels: at least 1 wanted")
        bins = [np.searchsorted(EDGES, column, side="right") - 1 for column in (widths, heights)]
        codes, counts = np.unique(bins[0] * len(EDGES) + bins[1], return_counts=True)
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            self._count(divmod(code, len(EDGES)), count)
        self._extend((least[0], int(widths.max())), (least[1], int(heights.max())))

    def merge(self, other: SizeHistogram) -> None:
        """Add all that another one has counted."""
        for cell, count in other.cells.items():
            self._count(cell, count)
        if other.widths and other.heights:
            self._extend(other.widths, other.heights)

    def to_plain(self) -> dict[str, Any]:
        """Return the histogram as JSON has it, equal for equal counts."""
        cells = [[*cell, count] for cell, count in sorted(self.cells.items())]
        return {"widths": list(self.widths or ()), "heights": list(self.heights or ()), "cells": cells}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> SizeHistogram:
        """Return the histogram that `to_plain` gave.

        Raises:
            ValueError: it is not of that form.
        """
        try:
            cells = {(width_bin, height_bin): count for width_bin, height_bin, count in plain["cells"]}
            widths, heights = (tuple(plain[name]) or None for name in ("widths", "heights"))
            numbers = [number for cell, count in cells.items() for number in (*cell, count)]
            numbers += [*(widths or ()), *(heights or ())]
            sound = all(type(number) is int and number >= 0 for number in numbers)
            sound &= all(max(cell) < len(EDGES) for cell in cells)
            sound &= all(side is None or len(side) == 2 for side in (widths, heights))
            if not sound or bool(cells) != bool(widths) or bool(cells) != bool(heights):
                raise ValueError(f"cells {plain['cells']!r}, widths {widths}, heights {heights}")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a histogram of sizes ({error!r})") from None
        return cls(cells=cells, widths=widths, heights=heights)

    def _count(self, cell: tuple[int, int], count: int) -> None:
        self.cells[cell] = self.cells.get(cell, 0) + count

    def _extend(self, widths: tuple[int, int], heights: tuple[int, int]) -> None:
        old_widths, old_heights = self.widths or widths, self.heights or heights
        self.widths = (min(widths[0], old_widths[0]), max(widths[1], old_widths[1]))
        self.heights = (min(heights[0], old_heights[0]), max(heights[1], old_heights[1]))
