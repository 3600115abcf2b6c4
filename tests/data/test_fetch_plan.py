"""What is fetched and let go, by brute force over random uses; how a cache is shared out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.fetch_plan import FetchPlan
from pipeline.data.order import Int64Array
from pipeline.data.window import WindowOrder
from pipeline.data.working_set import WorkingSet, allot

NUM_SHARDS = 12
SIZES = np.arange(10, 10 + NUM_SHARDS, dtype=np.int64)
Steps = list[list[int]]
random_steps = st.lists(st.lists(st.integers(0, NUM_SHARDS - 1), max_size=4, unique=True), min_size=1, max_size=80)


def needed_bytes(steps: Steps) -> int:
    """Brute force: of each step, the bytes of all shards that are used before or now, and now or later."""
    most = 0
    for step in range(len(steps)):
        before = {shard for used in steps[: step + 1] for shard in used}
        after = {shard for used in steps[step:] for shard in used}
        most = max(most, sum(int(SIZES[shard]) for shard in before & after))
    return most


def working_set(steps: Steps) -> int:
    seen = WorkingSet(SIZES)
    for shards in steps:
        seen.add(np.array(sorted(shards), dtype=np.int64))
    return seen.max_bytes()


@given(random_steps)
def test_the_working_set_is_that_of_brute_force(steps: Steps) -> None:
    assert working_set(steps) == needed_bytes(steps)


def arrays(steps: Steps, first_step: int) -> list[tuple[int, Int64Array]]:
    return [(first_step + number, np.array(sorted(used), dtype=np.int64)) for number, used in enumerate(steps)]


@settings(max_examples=50)
@given(
    random_steps,
    st.integers(0, 50),
    st.integers(1, 60),
    st.lists(st.integers(0, 2), min_size=1, max_size=50),
    st.booleans(),
)
def test_with_room_for_the_working_set_every_step_finds_its_shards_and_the_share_is_kept(
    steps: Steps, first_step: int, in_flight: int, chances: list[int], holds_all: bool
) -> None:
    """A loader with steps in flight, downloads that end in any order, and both take turns as it comes."""
    share_bytes = None if holds_all else needed_bytes(steps)
    plan = FetchPlan(SIZES, share_bytes=share_bytes)
    plan.begin(iter(arrays(steps, first_step)))
    taken: list[int] = []
    asked = finished = 0
    for turn in range(20_000):
        if finished == len(steps):
            break
        # Every fifth turn somebody gets on, whatever chance has it.
        chance = turn // 5 % 2 if turn % 5 == 0 else chances[turn % len(chances)]
        if chance == 0 and asked < min(len(steps), finished + in_flight):
            plan.look_ahead(only_needed=True)
            plan.ask_for(np.array(sorted(steps[asked]), dtype=np.int64))
            asked += 1
        if finished < asked and plan.held[np.array(steps[finished], dtype=np.int64)].all():
            plan.finish(first_step + finished)
            finished += 1
        while plan.look_ahead():
            pass
        gone = plan.let_go()
        # What was asked for and is not finished is still there, or never was.
        assert not set(gone) & {shard for used in steps[finished:asked] for shard in used}
        assert not (gone and holds_all)
        shard = plan.first_wanted()
        if shard is not None and plan.has_room(shard) and len(taken) < 4:
            plan.take(shard)
            taken.append(shard)
        elif shard is not None and finished < asked and not plan.has_room(shard):
            assert not plan.is_stuck(shard)
        if taken and (chance == 1 or len(taken) == 4 or turn % 7 == 0):
            done = taken.pop(turn % len(taken))
            if chance == 2:
                plan.put_back(done)
            else:
                plan.hold(done)
        assert plan.held_bytes == int(SIZES[plan.held].sum()) + sum(int(SIZES[number]) for number in taken)
        assert share_bytes is None or plan.held_bytes <= share_bytes
    else:
        pytest.fail("it does not come to an end")


def test_what_is_used_first_is_fetched_first() -> None:
    plan = FetchPlan(SIZES, share_bytes=None)
    plan.begin(iter(arrays([[5], [3, 7], [5, 1]], 0)))
    plan.look_ahead()
    found = []
    while (shard := plan.first_wanted()) is not None:
        found.append(shard)
        plan.take(shard)
    assert found == [5, 3, 7, 1]


def test_where_all_may_stay_the_uses_are_gone_through_until_every_shard_was_seen() -> None:
    plan = FetchPlan(SIZES, share_bytes=None)
    steps = iter(arrays([list(range(NUM_SHARDS))] + [[0]] * 1000, 0))
    plan.begin(steps)
    while plan.look_ahead():
        pass
    assert len(list(steps)) == 1000


def test_a_share_too_small_is_stuck_at_the_step_in_turn() -> None:
    plan = FetchPlan(SIZES, share_bytes=25)
    plan.begin(iter(arrays([[0, 1, 2]] * 3, 10)))
    plan.look_ahead()
    for shard in (0, 1):
        assert plan.first_wanted() == shard
        plan.take(shard)
        plan.hold(shard)
    assert plan.first_wanted() == 2
    assert not plan.has_room(2)
    assert plan.is_stuck(2)


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_window_order_needs_its_windows_and_little_more(lanes: int) -> None:
    """Between two windows, of each lane, up to a window's shards more are in use; shards on borders of lanes too."""
    counts = [50] * 64
    order = WindowOrder(shard_counts=counts, batch_size=8, seed=1, lanes=lanes, window_chunks=4)
    seen = WorkingSet(np.full(64, 1, dtype=np.int64))
    for step in range(order.steps_per_epoch):
        seen.add(np.unique(order.global_batch(epoch=0, step=step).sample_ids // 50))
    assert 4 * lanes <= seen.max_bytes() <= 6 * lanes + 2


def test_a_small_validation_split_stays_whole_and_training_has_the_rest() -> None:
    assert allot([1000, 90], room_bytes=500, ranks=2) == [205, None]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=5), st.integers(0, 4000), st.integers(1, 8))
def test_shares_together_never_exceed_the_room(sizes: list[int], room_bytes: int, ranks: int) -> None:
    shares = allot(sizes, room_bytes=room_bytes, ranks=ranks)
    held = [size if share is None else share * ranks for size, share in zip(sizes, shares, strict=True)]
    assert sum(held) <= room_bytes
    assert (shares == [None] * len(sizes)) == (sum(sizes) <= room_bytes)
