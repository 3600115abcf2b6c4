"""Estimates with their intervals: what a study concludes from several seeds.

    mean_of([53.1, 53.4, 53.8])                     # Estimate(value=53.43, low=52.54, high=54.33, n=3)
    difference_of([53.1, 53.4], [40.4, 40.6])       # seed by seed, so that what seeds share is left out
    slope_of([1, 2, 4], [[8, 4.1, 2], [8, 3.9, 2]], log=True)   # of each seed's line, here an exponent: about -1
    bootstrap_of(points, exponent_of, seed=0)       # a band for what has no formula

Intervals are of 95 %, Student's: honest for three seeds, and wide. The bootstrap's are percentiles (Efron 1979, doi
10.1214/aos/1176344552): they want some ten samples at least to be honest.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")
# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom; beyond the table that of the last.
STUDENT_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value, the ends of its 95 % interval, and the number of seeds behind it.

    One seed has no interval (nan), and neither have several of which one has no value.
    """

    value: float
    low: float
    high: float
    n: int


def mean_of(values: Sequence[float]) -> Estimate:
    """Return the mean over seeds with Student's interval; nan where a value is not finite: no mean is known.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("values: at least one wanted")
    n = len(values)
    if not all(map(math.isfinite, values)):
        return Estimate(value=math.nan, low=math.nan, high=math.nan, n=n)
    mean = statistics.fmean(values)
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


def slope_of(x: Sequence[float], y_by_seed: Sequence[Sequence[float]], *, log: bool = False) -> Estimate:
    """Return the mean over seeds of the slope of each seed's least-squares line.

    Args:
        x: where was measured, at least two different values.
        y_by_seed: of each seed one value at each of x.
        log: take logarithms of both first, so that the slope is the exponent of a power law; all must be over 0.

    Raises:
        ValueError: fewer than two different x, rows of another length, or a value that has no logarithm.
    """
    if len(set(x)) < 2:
        raise ValueError(f"x={list(x)}: at least two different values wanted")
    if any(len(row) != len(x) for row in y_by_seed):
        raise ValueError(f"y_by_seed: {len(x)} values of each seed wanted")
    if log and min(*x, *(value for row in y_by_seed for value in row)) <= 0:
        raise ValueError("log: values over 0 wanted")
    change = math.log if log else float
    places = [change(value) for value in x]
    return mean_of([statistics.linear_regression(places, [change(value) for value in row]).slope for row in y_by_seed])


def bootstrap_of(
    samples: Sequence[T], statistic: Callable[[Sequence[T]], float], *, seed: int, num_draws: int = 1000
) -> Estimate:
    """Return a statistic of all samples, with the percentile interval of its values on samples drawn with replacement.

    Draws on which it is not a number (a fit that does not exist there) are left out of the interval.

    Raises:
        ValueError: no samples, or no draw has a value.
    """
    if not samples:
        raise ValueError("samples: at least one wanted")
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(samples), size=(num_draws, len(samples)))
    values = np.array([statistic([samples[place] for place in draw]) for draw in draws])
    values = values[np.isfinite(values)]
    if not len(values):
        raise ValueError("statistic: it has no value on any draw")
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(value=statistic(samples), low=float(low), high=float(high), n=len(samples))
