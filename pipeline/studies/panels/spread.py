"""A series of a study's figure: at each place the mean over seeds, and the lowest and the highest of them.

spread_series([64, 256], [[0.1, 0.3], [0.2, 0.4]], label="width")        # y [0.2, 0.3], low [0.1, 0.2], high [0.3, 0.4]
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pipeline.track.plots import Series


def spread_series(
    x: Sequence[float],
    values: Sequence[Sequence[float]],
    *,
    label: str,
    geometric: bool = False,
    line: bool = True,
    markers: bool = True,
    colour: int | None = None,
) -> Series:
    """Return the series of several seeds.

    Args:
        values: at each place of x, one of each seed.
        geometric: take the geometric mean: for an axis in logarithms, where one high seed would lift the other mean.
        label, line, markers, colour: as of `Series`.
    """
    mean = statistics.geometric_mean if geometric else statistics.fmean
    return Series(
        label=label,
        x=x,
        y=[mean(found) for found in values],
        low=[min(found) for found in values],
        high=[max(found) for found in values],
        line=line,
        markers=markers,
        colour=colour,
    )
