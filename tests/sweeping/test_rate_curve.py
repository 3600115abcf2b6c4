"""The rates that are read off a loss curve, on curves whose answers are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.sweeping.rate_curve import read_curve, round_rate, smoothed, suggest

RATES = np.geomspace(1e-6, 10.0, 141)


def falling_then_rising(rates: np.ndarray) -> np.ndarray:
    """A logistic fall about 1e-3 (steepest there against log rate), lowest near 1e-1, then up beyond 1."""
    logs = np.log10(rates)
    return 2.0 - 1.5 / (1 + np.exp(-4 * (logs + 3))) + np.exp(4 * (logs - 0.5))


def test_the_steepest_fall_is_where_a_logistic_curve_has_it() -> None:
    losses = falling_then_rising(RATES)
    found = suggest(list(RATES), list(losses), first_loss=2.0, ended=False)
    assert found.steepest == pytest.approx(1e-3, rel=0.15)
    # Lowest: the derivative's zero, found by brute force on a fine grid.
    fine = np.geomspace(1e-6, 10, 100_001)
    assert found.lowest == pytest.approx(fine[np.argmin(falling_then_rising(fine))], rel=0.15)
    limit = 2.0 + 0.5 * (2.0 - falling_then_rising(fine).min())
    first_over = fine[(falling_then_rising(fine) > limit) & (fine > found.lowest)][0]
    assert found.diverges == pytest.approx(first_over, rel=0.15)


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    found = suggest(list(RATES), list(np.linspace(2.0, 3.0, len(RATES))), first_loss=2.0, ended=False)
    assert (found.steepest, found.lowest) == (None, None)
    assert found.diverges is None or found.diverges > RATES[0]


def test_a_loss_that_falls_to_the_end_does_not_diverge_unless_the_run_ended_there() -> None:
    losses = list(np.linspace(2.0, 1.0, len(RATES)))
    assert suggest(list(RATES), losses, first_loss=2.0, ended=False).diverges is None
    losses[-1] = 1.5
    assert suggest(list(RATES), losses, first_loss=2.0, ended=True).diverges == RATES[-1]


def test_no_number_counts_as_diverged_and_in_no_average() -> None:
    losses = list(falling_then_rising(RATES))
    cut = int(np.argmin(losses)) + 3
    losses[cut] = math.nan
    assert suggest(list(RATES), losses, first_loss=2.0, ended=False).diverges == RATES[cut]
    smooth = smoothed([1.0, math.nan, 1.0, math.inf, 1.0], steps=2)
    assert [smooth[0], smooth[2], smooth[4]] == pytest.approx([1.0, 1.0, 1.0])
    assert math.isnan(smooth[1])
    assert math.isinf(smooth[3])


@pytest.mark.parametrize("steps", [0.5, 2.0, 7.0])
def test_smoothing_is_the_weighted_mean_by_distance(steps: float) -> None:
    values = np.random.default_rng(0).normal(size=23)
    expected = []
    for i in range(len(values)):
        weights = np.exp(-np.abs(np.arange(len(values)) - i) / steps)
        expected.append(float((weights * values).sum() / weights.sum()))
    np.testing.assert_allclose(smoothed(list(values), steps=steps), expected, rtol=1e-12)
    assert smoothed([3.0, 1.0], steps=0) == (3.0, 1.0)


def test_each_rate_goes_with_the_loss_of_the_next_step() -> None:
    curve = read_curve([1.0, 2.0, 3.0, 4.0], [9.0, 8.0, 7.0, 6.0], smooth_steps=0)
    assert curve.rates == (1.0, 2.0, 3.0)
    assert curve.losses == (8.0, 7.0, 6.0)
    with pytest.raises(ValueError, match="at least 4"):
        read_curve([1.0] * 3, [1.0] * 3, smooth_steps=0)


def test_noise_is_averaged_out_of_the_suggestion() -> None:
    """With noise of a tenth of the fall, five steps of averaging keep the suggestion within a factor of 3."""
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(scale=0.05, size=len(RATES))
        losses = [2.0, *(falling_then_rising(RATES) + noise)][: len(RATES)]
        found = read_curve(list(RATES), losses, smooth_steps=5).suggestion
        assert found.steepest is not None
        assert 1e-3 / 3 < found.steepest < 3e-3


def test_rates_are_told_to_two_digits() -> None:
    assert [round_rate(value) for value in (0.012345, 3.456e-6, 9.99)] == [0.012, 3.5e-6, 10.0]
