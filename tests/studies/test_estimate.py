"""Intervals: against textbook numbers, and by drawing samples whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.studies.estimate import difference_of, mean_of


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


def test_what_seeds_share_leaves_no_spread_in_a_difference() -> None:
    found = difference_of([11.0, 21.0, 41.0], [10.0, 20.0, 40.0])
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="one of each for every seed"):
        difference_of([1.0], [1.0, 2.0])


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_of([])
