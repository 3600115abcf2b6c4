"""The rule that decides: only whole intervals within bounds count."""

from __future__ import annotations

import math

import pytest

from pipeline.studies.estimate import Estimate
from pipeline.studies.verdict import Check, Verdict, verdict_of


def check(low: float, high: float, *, above: float | None = None, below: float | None = None) -> Check:
    estimate = Estimate(value=(low + high) / 2, low=low, high=high, n=3)
    return Check(claim="it is so", statistic="a number", estimate=estimate, above=above, below=below)


@pytest.mark.parametrize(
    ("low", "high", "above", "below", "passes"),
    [
        (5.1, 9.0, 5.0, None, True),
        (4.9, 9.0, 5.0, None, False),
        (5.0, 9.0, 5.0, None, False),
        (1.0, 4.9, None, 5.0, True),
        (1.0, 5.1, None, 5.0, False),
        (-1.05, -0.95, -1.1, -0.9, True),
        (-1.15, -0.95, -1.1, -0.9, False),
        (math.nan, math.nan, 0.0, None, False),
    ],
)
def test_a_check_passes_when_its_whole_interval_is_within_the_bounds(
    low: float, high: float, above: float | None, below: float | None, passes: bool
) -> None:
    assert check(low, high, above=above, below=below).passes is passes


def test_all_some_or_none_decide() -> None:
    good, bad = check(1.0, 2.0, above=0.0), check(-1.0, 1.0, above=0.0)
    assert verdict_of([good, good]) is Verdict.holds
    assert verdict_of([good, bad]) is Verdict.conditions
    assert verdict_of([bad, bad]) is Verdict.fails
    with pytest.raises(ValueError, match="at least one"):
        verdict_of([])


def test_a_check_without_a_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="a bound wanted"):
        check(1.0, 2.0)
