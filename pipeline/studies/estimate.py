"""Estimates with their intervals: what a study concludes from several seeds.

    mean_of([53.1, 53.4, 53.8])                     # Estimate(value=53.43, low=52.54, high=54.33, n=3)
    difference_of([53.1, 53.4], [40.4, 40.6])       # seed by seed, so that what seeds share is left out
    slope_of([1, 2, 4, 8], [[1.0, 0.5, 0.25, 0.12], [1.1, 0.49, 0.26, 0.13]])     # of log y over log x, a curve a seed

Intervals are of 95 %: Student's for means, so they are honest for three seeds and wide; percentiles of a bootstrap over
seeds for slopes (Efron 1979), drawn by a hash of the data's length, so the same runs give the same interval.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom; beyond the table that of the last.
STUDENT_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
RESAMPLES = 2000


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


def slope_of(x: Sequence[float], curves: Sequence[Sequence[float]]) -> Estimate:
    """Return the slope of log y over log x, fitted by least squares to the mean of log y over seeds.

    Args:
        x: over 0, at least two different ones.
        curves: for each seed its y over 0, as many as x.
    """
    log_x = np.log(np.asarray(x, dtype=np.float64))
    log_y = np.log(np.asarray(curves, dtype=np.float64))
    return bootstrapped(log_y, lambda some: float(np.polyfit(log_x, some.mean(axis=0), 1)[0]))


def bootstrapped(
    per_seed: npt.NDArray[np.float64], statistic: Callable[[npt.NDArray[np.float64]], float], *, seed: int = 0
) -> Estimate:
    """Return a statistic of all seeds' rows with the interval of its bootstrap over them.

    Args:
        per_seed: a row a seed.
        statistic: of rows like these; what it returns that is not finite is left out of the interval.
    """
    n = len(per_seed)
    if n == 1:
        return Estimate(value=statistic(per_seed), low=math.nan, high=math.nan, n=1)
    draws = np.random.default_rng((seed, n)).integers(0, n, size=(RESAMPLES, n))
    values = np.array([statistic(per_seed[rows]) for rows in draws])
    low, high = np.percentile(values[np.isfinite(values)], [2.5, 97.5])
    return Estimate(value=statistic(per_seed), low=float(low), high=float(high), n=n)
