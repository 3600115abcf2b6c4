"""The order that shows each batch several times."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.order import SequentialOrder, rank_slots
from pipeline.data.repeated import RepeatedOrder

ORDER = RepeatedOrder(order=SequentialOrder(num_samples=23, batch_size=6), times=5)


def test_each_batch_comes_so_often_in_a_row_at_positions_of_its_own() -> None:
    assert ORDER.steps_per_epoch == 5 * 4
    positions: list[int] = []
    for step in range(ORDER.steps_per_epoch):
        slots = ORDER.global_batch(epoch=0, step=step)
        once = ORDER.order.global_batch(epoch=0, step=step // 5)
        assert np.array_equal(slots.sample_ids, once.sample_ids)
        assert np.array_equal(slots.weights, once.weights)
        assert ORDER.global_weight(step=step) == once.weights.sum()
        positions += slots.positions.tolist()
    assert len(set(positions)) == len(positions)


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_sample_has_the_same_positions_on_any_number_of_ranks(world_size: int) -> None:
    def places(world_size: int) -> set[tuple[int, int]]:
        return {
            (int(sample), int(position))
            for rank in range(world_size)
            for slots in rank_slots(ORDER, epoch=0, first_step=0, rank=rank, world_size=world_size)
            for sample, position, weight in zip(slots.sample_ids, slots.positions, slots.weights, strict=True)
            if weight
        }

    assert places(world_size) == places(1)
    assert len(places(1)) == 5 * 23


def test_what_is_no_step_is_refused() -> None:
    with pytest.raises(IndexError):
        ORDER.global_batch(epoch=0, step=20)
    with pytest.raises(ValueError, match="times=0"):
        RepeatedOrder(order=ORDER.order, times=0)
