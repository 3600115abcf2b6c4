"""The noise scale's arithmetic: against covariances, all draws of a small set, and simulated bands."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pipeline.training.noise_scale import (
    LEAST,
    WINDOW_LEAST,
    WINDOW_MOST,
    Measurement,
    in_window,
    noise_scale,
    ratio_band,
    student_quantile,
)


def measured(gradients_BD: np.ndarray, *, part: int = 1, step: int = 0) -> Measurement:
    """Return what a step with these gradients of samples measures, its parts being runs of `part` samples."""
    parts_PD = gradients_BD.reshape(-1, part, gradients_BD.shape[1]).mean(axis=1)
    return Measurement(
        step=step,
        small_images=part,
        small_sq=float((parts_PD**2).sum(axis=1).mean()),
        big_images=len(gradients_BD),
        big_sq=float((gradients_BD.mean(axis=0) ** 2).sum()),
    )


def at(step: int, *, trace: float = 1.0, signal_sq: float = 1.0) -> Measurement:
    """Return the measurement of batches of 4 that has these two terms."""
    return Measurement(
        step=step, small_images=1, small_sq=signal_sq + trace, big_images=4, big_sq=signal_sq + trace / 4
    )


def test_of_single_samples_the_trace_is_that_of_the_sample_covariance() -> None:
    gradients_BD = np.random.default_rng(0).normal(size=(32, 5))
    trace = np.trace(np.cov(gradients_BD.T))
    assert measured(gradients_BD).trace == pytest.approx(trace)
    mean_sq = (gradients_BD.mean(axis=0) ** 2).sum()
    assert measured(gradients_BD).signal_sq == pytest.approx(mean_sq - trace / 32)


@pytest.mark.parametrize("part", [1, 2])
def test_over_all_draws_of_a_batch_both_terms_are_right_on_average(part: int) -> None:
    """All 4^4 batches of four out of four samples."""
    samples_ND = np.random.default_rng(1).normal(size=(4, 3)) + 1
    draws = [measured(samples_ND[list(chosen)], part=part) for chosen in itertools.product(range(4), repeat=4)]
    assert np.mean([draw.trace for draw in draws]) == pytest.approx(np.trace(np.cov(samples_ND.T, ddof=0)))
    assert np.mean([draw.signal_sq for draw in draws]) == pytest.approx((samples_ND.mean(axis=0) ** 2).sum())


@pytest.mark.parametrize(("small", "big"), [(0, 4), (4, 4), (8, 4)])
def test_a_part_as_large_as_the_batch_measures_nothing(small: float, big: float) -> None:
    with pytest.raises(ValueError, match="below big_images"):
        Measurement(step=0, small_images=small, small_sq=1, big_images=big, big_sq=1)


def test_the_scale_is_the_ratio_of_averages_and_lies_in_its_band() -> None:
    rng = np.random.default_rng(2)
    steps = [at(step, trace=rng.normal(100, 5), signal_sq=rng.normal(2, 1)) for step in range(50)]
    scale = noise_scale(steps)
    assert scale is not None
    assert scale.images is not None
    assert scale.images == pytest.approx(
        np.mean([step.trace for step in steps]) / np.mean([step.signal_sq for step in steps])
    )
    assert scale.low < scale.images < scale.high < math.inf
    assert scale.low < 50 < scale.high
    assert scale.measurements == 50


def test_where_the_signal_may_be_zero_there_is_no_scale_and_the_band_is_open() -> None:
    rng = np.random.default_rng(3)
    scale = noise_scale([at(step, trace=rng.normal(100, 5), signal_sq=rng.normal(0.1, 1)) for step in range(40)])
    assert scale is not None
    assert (scale.images, scale.high) == (None, math.inf)
    # All that can be said: |G|^2 is not above what its average and spread allow.
    assert 100 / 0.6 < scale.low < 100 / 0.1


def test_a_signal_below_zero_by_chance_still_has_a_band() -> None:
    rng = np.random.default_rng(4)
    low, high = ratio_band(rng.normal(100, 5, size=30).tolist(), rng.normal(-3, 1, size=30).tolist())
    assert 100 / 1 < low < 100 / 0.1
    assert high == math.inf


def test_a_spread_below_zero_by_rounding_is_none() -> None:
    scale = noise_scale([at(step, trace=-1e-9, signal_sq=0.3 + 1e-9 * step) for step in range(20)])
    assert scale is not None
    assert (scale.images, scale.low, scale.high) == (0, 0, 0)


@pytest.mark.parametrize(("num", "signal", "held_frac"), [(6, 3.0, 0.95), (20, 1.0, 0.95), (200, 0.1, 0.975)])
def test_the_band_holds_the_true_ratio_as_often_as_it_says(num: int, signal: float, held_frac: float) -> None:
    """With terms that depend on each other; of a signal within its spread of 0, the band misses on one side alone."""
    rng, held, trials = np.random.default_rng(5), 0, 800
    for _ in range(trials):
        bottoms = rng.normal(signal, 1, size=num)
        tops = rng.normal(100, 20, size=num) - 10 * (bottoms - signal)
        low, high = ratio_band(tops.tolist(), bottoms.tolist())
        held += low <= 100 / signal <= high
    assert held / trials == pytest.approx(held_frac, abs=0.024)  # three standard deviations of so many trials


def test_of_few_measurements_nothing_is_said() -> None:
    assert noise_scale([]) is None
    assert noise_scale([at(step) for step in range(LEAST - 1)]) is None
    assert noise_scale([at(step) for step in range(LEAST)]) is not None


@pytest.mark.parametrize(("freedom", "table"), [(4, 2.7764), (9, 2.2622), (30, 2.0423), (1000, 1.9623)])
def test_quantiles_of_student_are_those_of_the_tables(freedom: int, table: float) -> None:
    assert student_quantile(0.975, freedom=freedom) == pytest.approx(table, rel=0.005)


def test_the_window_is_the_last_quarter_of_the_steps() -> None:
    assert in_window([]) == []
    measurements = [at(step) for step in range(0, 4001, 10)]
    assert [measurement.step for measurement in in_window(measurements)] == list(range(3000, 4001, 10))
    assert len(in_window(measurements[:30])) == WINDOW_LEAST
    assert len(in_window(measurements[:7])) == 7
    assert len(in_window([at(step) for step in range(10_000)])) == WINDOW_MOST


def test_a_window_that_is_kept_as_it_goes_is_the_window_of_all() -> None:
    """So what a checkpoint keeps is enough."""
    rng = np.random.default_rng(6)
    steps = np.cumsum(rng.integers(1, 30, size=400)).tolist()
    kept: list[Measurement] = []
    for number, step in enumerate(steps):
        kept = in_window([*kept, at(step)])
        assert kept == in_window([at(earlier) for earlier in steps[: number + 1]])
