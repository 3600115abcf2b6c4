"""Intervals: against textbook numbers, and by drawing samples whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.studies.estimate import bootstrap_of, difference_of, mean_of, slope_of
from pipeline.studies.verdict import Check


def test_the_interval_of_a_mean_is_students() -> None:
    # Mean 4, standard deviation 2, 3 values: 4 +- 4.303 * 2 / sqrt(3).
    found = mean_of([2.0, 4.0, 6.0])
    assert (found.value, found.n) == (4.0, 3)
    assert (found.low, found.high) == pytest.approx((4 - 4.9687, 4 + 4.9687), abs=1e-3)


def test_intervals_of_means_hold_the_truth_in_95_of_100_cases() -> None:
    rng = np.random.default_rng(5)
    for n in (2, 3, 5, 40):
        held = [(e.low < 1.0 < e.high) for e in (mean_of(rng.normal(1.0, 3.0, n).tolist()) for _ in range(4000))]
        assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_one_seed_has_a_value_and_no_interval() -> None:
    found = mean_of([3.0])
    assert found.value == 3.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize("missing", [math.nan, math.inf])
def test_of_seeds_of_which_one_has_no_value_nothing_is_known(missing: float) -> None:
    found = mean_of([3.0, missing, 4.0])
    assert all(map(math.isnan, (found.value, found.low, found.high)))
    assert found.n == 3
    assert not Check(claim="x", statistic="x", estimate=found, above=0.0).passes


def test_what_seeds_share_leaves_no_spread_in_a_difference() -> None:
    found = difference_of([11.0, 21.0, 41.0], [10.0, 20.0, 40.0])
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="one of each for every seed"):
        difference_of([1.0], [1.0, 2.0])


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_of([])


def test_the_slope_of_a_power_law_is_its_exponent_whatever_its_factor() -> None:
    x = [1.0, 2.0, 8.0, 100.0]
    found = slope_of(x, [[3.0 * value**-1.5 for value in x], [0.2 * value**-1.5 for value in x]], log=True)
    assert (found.value, found.low, found.high, found.n) == pytest.approx((-1.5, -1.5, -1.5, 2))


def test_the_slope_is_that_of_least_squares_and_its_interval_that_of_seeds() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=20)
    rows = rng.normal(size=(4, 20)) + 2.0 * x
    slopes = [float(np.polyfit(x, row, 1)[0]) for row in rows]
    expected = mean_of(slopes)
    found = slope_of(x.tolist(), rows.tolist())
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_what_has_no_slope_is_refused() -> None:
    with pytest.raises(ValueError, match="two different values"):
        slope_of([2.0, 2.0], [[1.0, 2.0]])
    with pytest.raises(ValueError, match="2 values of each seed"):
        slope_of([1.0, 2.0], [[1.0]])
    with pytest.raises(ValueError, match="over 0"):
        slope_of([1.0, 2.0], [[1.0, 0.0]], log=True)


def test_the_bootstraps_interval_of_a_mean_is_that_of_its_known_spread() -> None:
    # Of 400 normal values of deviation 3 the mean has deviation 0.15.
    values = np.random.default_rng(2).normal(5.0, 3.0, 400).tolist()
    found = bootstrap_of(values, lambda some: sum(some) / len(some), seed=0)
    assert found.value == pytest.approx(sum(values) / 400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.15, rel=0.15)
    assert found == bootstrap_of(values, lambda some: sum(some) / len(some), seed=0)


def test_the_bootstrap_leaves_out_draws_without_a_value() -> None:
    found = bootstrap_of([1.0, 2.0, 3.0], lambda some: max(some) if len(set(some)) > 1 else math.nan, seed=0)
    assert (found.low, found.high, found.n) == (2.0, 3.0, 3)
    with pytest.raises(ValueError, match="no value on any draw"):
        bootstrap_of([1.0], lambda some: math.nan, seed=0)
