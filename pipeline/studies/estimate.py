"""Estimates with their intervals: what a study concludes from several seeds.

    mean_of([53.1, 53.4, 53.8])                     # Estimate(value=53.43, low=52.54, high=54.33, n=3)
    difference_of([53.1, 53.4], [40.4, 40.6])       # seed by seed, so that what seeds share is left out

Intervals are of 95 %, Student's: honest for three seeds, and wide.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom; beyond the table that of the last.
STUDENT_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value, the ends of its 95 % interval, and the number of seeds behind it; one seed has no interval (nan)."""

    value: float
    low: float
    high: float
    n: int


def mean_of(values: Sequence[float]) -> Estimate:
    """Return the mean over seeds with Student's interval.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("values: at least one wanted")
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Estimate(value=mean, low=math.nan, high=math.nan, n=1)
    half = STUDENT_95[min(n - 1, len(STUDENT_95)) - 1] * statistics.stdev(values) / math.sqrt(n)
    return Estimate(value=mean, low=mean - half, high=mean + half, n=n)


def difference_of(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Return the mean of first - second, paired seed by seed.

    Raises:
        ValueError: not as many values of each.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values: one of each for every seed wanted")
    return mean_of([a - b for a, b in zip(first, second, strict=True)])
