"""A loss far above its start ends a run; where a run goes on, its start is the same."""

from __future__ import annotations

import pytest

from pipeline.track.loss_limit import FIRST_ROWS, LossLimit


def told(limit: LossLimit, losses: list[float]) -> list[bool]:
    return [limit.is_over(loss) for loss in losses]


def test_over_is_above_so_many_times_the_highest_of_the_first_rows() -> None:
    start = [0.01, *[2.0] * (FIRST_ROWS - 2), 100.0]
    assert told(LossLimit(3.0), [*start, 300.0, 301.0, 2.0, 1e9]) == [*[False] * FIRST_ROWS, False, True, False, True]


def test_without_a_ratio_or_a_start_nothing_is_over() -> None:
    assert not any(told(LossLimit(None), [1.0] * FIRST_ROWS + [1e30]))
    assert not any(told(LossLimit(2.0), [0.0] * FIRST_ROWS + [1e30]))


@pytest.mark.parametrize("cut", range(FIRST_ROWS + 3))
def test_a_run_that_goes_on_tells_what_an_undisturbed_one_tells(cut: int) -> None:
    losses = [*range(1, FIRST_ROWS + 1), 25.0, 15.0, 21.0]
    first, second = LossLimit(2.0), LossLimit(2.0)
    before = told(first, losses[:cut])
    second.put_back(first.state())
    assert [*before, *told(second, losses[cut:])] == told(LossLimit(2.0), losses)
