"""What is read ahead and what is let go, against a plain simulation of memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.lookahead import BlockUse, Lookahead
from pipeline.data.window import WindowOrder

Uses = list[list[int]]


def block_uses(uses: Uses) -> list[BlockUse]:
    """Steps 0, 1, ... of one sample for each block."""
    return [(step, len(blocks), np.array(blocks, dtype=np.int64)) for step, blocks in enumerate(uses)]


def consume(uses: Uses, *, budget: int, group: int) -> tuple[list[list[int]], int]:
    """Go through all uses as a loader would; check each step's blocks; return what was read, and the most held."""
    num_blocks = max(max(blocks, default=0) for blocks in uses) + 1
    ahead = Lookahead(iter(block_uses(uses)), num_blocks=num_blocks, budget_blocks=budget, group_blocks=group)
    held: set[int] = set()
    reads, most, wanted = [], 0, 0
    for step, blocks in enumerate(uses):
        wanted += len(blocks)
        while (found := ahead.next_group(wanted=wanted)) is not None:
            assert list(found.blocks) == sorted(set(found.blocks.tolist()))
            assert held.isdisjoint(found.blocks.tolist()), "read twice without having been let go"
            held.update(found.blocks.tolist())
            reads.append(found.blocks.tolist())
            most = max(most, len(held))
        assert ahead.samples >= wanted
        assert held.issuperset(blocks), f"step {step} needs what was let go"
        assert ahead.next_settled() >= wanted
        gone = ahead.finish(step=step).tolist()
        assert gone == sorted(gone)
        held -= set(gone)
        assert ahead.blocks_held == len(held)
    assert not held, "all uses are past"
    return reads, most


@settings(max_examples=200, deadline=None)
@given(
    uses=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=6), min_size=1, max_size=40),
    budget=st.integers(1, 50),
    data=st.data(),
)
def test_a_step_finds_its_blocks_and_the_budget_holds_but_for_one_step(
    uses: Uses, budget: int, data: st.DataObject
) -> None:
    group = data.draw(st.integers(1, budget))
    _, most = consume(uses, budget=budget, group=group)
    assert most <= max(budget, max(len(set(blocks)) for blocks in uses))


def test_blocks_of_coming_steps_are_read_in_file_order_and_in_one_go() -> None:
    reads, _ = consume([[7], [3], [5], [1]], budget=4, group=4)
    assert reads == [[1, 3, 5, 7]]


def test_a_block_stays_while_a_use_is_in_sight_and_goes_with_the_last() -> None:
    uses = block_uses([[0], [1], [0], [2]])
    ahead = Lookahead(iter(uses), num_blocks=3, budget_blocks=3, group_blocks=1)
    while ahead.next_group(wanted=1) is not None:
        pass
    assert [ahead.finish(step=step).tolist() for step in range(4)] == [[], [1], [0], [2]]


def test_a_block_stays_for_steps_out_of_sight_that_need_nothing_else() -> None:
    uses = block_uses([[0, 1], [0], [1], [2]])
    ahead = Lookahead(iter(uses), num_blocks=3, budget_blocks=3, group_blocks=2)
    first = ahead.next_group(wanted=2)
    assert first is not None
    assert (first.samples, ahead.next_settled()) == (2, 4)
    assert [ahead.finish(step=step).tolist() for step in range(3)] == [[], [0], [1]]


def test_a_block_stays_for_the_next_step_where_that_has_no_room_yet() -> None:
    uses = block_uses([[0, 1], [1, 2], [1]])
    ahead = Lookahead(iter(uses), num_blocks=3, budget_blocks=2, group_blocks=1)
    assert ahead.next_group(wanted=2) is not None
    assert ahead.next_settled() == 2
    assert ahead.finish(step=0).tolist() == [0]
    second = ahead.next_group(wanted=4)
    assert second is not None
    assert second.blocks.tolist() == [2]
    assert [ahead.finish(step=step).tolist() for step in (1, 2)] == [[2], [1]]


def test_nothing_is_read_before_there_is_room_for_a_group_unless_somebody_waits() -> None:
    uses = block_uses([[0], [1], [2], [3], [4], [5]])
    ahead = Lookahead(iter(uses), num_blocks=6, budget_blocks=4, group_blocks=2)
    first, second = ahead.next_group(wanted=1), ahead.next_group(wanted=1)
    assert first is not None
    assert first.samples == 4
    assert second is None
    ahead.finish(step=0)
    assert ahead.next_group(wanted=4) is None
    assert ahead.next_group(wanted=5) is not None


def test_steps_that_were_finished_before_they_came_in_sight_are_not_read() -> None:
    uses = block_uses([[0], [1], [2]])
    ahead = Lookahead(iter(uses), num_blocks=3, budget_blocks=3, group_blocks=3)
    ahead.finish(step=1)
    group = ahead.next_group(wanted=3)
    assert group is not None
    assert (group.blocks.tolist(), group.samples) == ([2], 3)


def test_window_order_reads_every_block_once_within_its_windows() -> None:
    """32 shards of 4 blocks, 2 lanes of windows of 2 shards: 4 shards are in use, and 2 more come in."""
    order = WindowOrder(shard_counts=[64] * 32, batch_size=16, seed=3, lanes=2, window_chunks=2)
    steps = [order.global_batch(epoch=0, step=step).sample_ids // 16 for step in range(order.steps_per_epoch)]
    reads, most = consume([blocks.tolist() for blocks in steps], budget=6 * 4 + 4, group=4)
    assert np.bincount([block for read in reads for block in read]).tolist() == [1] * 128
    assert most <= 6 * 4 + 4


def test_a_group_larger_than_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="group_blocks=5"):
        Lookahead(iter([]), num_blocks=1, budget_blocks=4, group_blocks=5)
