"""The order, as mathematics: docs/ORDER.md's promises."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.order import FullOrder, Order, SequentialOrder
from pipeline.shards.keyed import make_key, random_bits
from pipeline.shards.permutation import permute

GOLDEN_PERMUTATION = [850, 936, 392, 106, 572, 341, 108, 727]
GOLDEN_BATCHES = [[3, 4, 5, 2], [7, 8, 6, 9]]


def epoch_ids(order: Order, epoch: int) -> np.ndarray:
    batches = [order.global_batch(epoch=epoch, step=step) for step in range(order.steps_per_epoch)]
    return np.concatenate([slots.sample_ids[slots.weights > 0] for slots in batches])


@given(length=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=200, deadline=None)
def test_permute_is_a_bijection_of_range_length(length: int, key: int) -> None:
    assert sorted(permute(key, np.arange(length), length=length).tolist()) == list(range(length))


@given(length=st.integers(1, 10**12), data=st.data())
@settings(max_examples=100, deadline=None)
def test_permute_of_a_part_is_the_part_of_the_permutation(length: int, data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=20)))
    together = permute(5, positions, length=length)
    alone = [permute(5, positions[i : i + 1], length=length)[0] for i in range(len(positions))]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < length)).all()


@pytest.mark.parametrize("length", [2, 5, 13])
@pytest.mark.slow
def test_permutations_are_uniform_over_keys(length: int) -> None:
    """Every (position, value) pair equally often: chi-square against its 1-in-10,000 limit."""
    num_keys = 600
    keys = random_bits(make_key("test"), np.arange(num_keys))
    table = np.stack([permute(int(key), np.arange(length), length=length) for key in keys])
    expected = num_keys / length
    for position in range(length):
        counts = np.bincount(table[:, position], minlength=length)
        chi_square = ((counts - expected) ** 2 / expected).sum()
        # Wilson-Hilferty: the cube root of chi2/df is normal; 3.72 standard deviations.
        df = length - 1
        limit = df * (1 - 2 / (9 * df) + 3.72 * np.sqrt(2 / (9 * df))) ** 3
        assert chi_square < limit


def test_neighbours_end_up_far_apart() -> None:
    """Mean distance of source neighbours in the order is that of a random permutation, N/3."""
    length = 100_000
    place_of = np.argsort(permute(11, np.arange(length), length=length))
    assert np.abs(np.diff(place_of)).mean() == pytest.approx(length / 3, rel=0.02)


def test_golden_order() -> None:
    """Resumed runs and docs/ORDER.md rely on these very numbers; a change is a new format of the order."""
    assert permute(make_key("full", 7, 3), np.arange(8), length=1000).tolist() == GOLDEN_PERMUTATION
    order = FullOrder(num_samples=10, batch_size=4, seed=7)
    assert [order.global_batch(epoch=1, step=s).sample_ids.tolist() for s in range(2)] == GOLDEN_BATCHES


@pytest.mark.parametrize(("num_samples", "batch_size"), [(100, 8), (97, 8), (8, 8), (41, 40), (50, 1)])
def test_full_order_gives_each_sample_once_and_drops_the_rest(num_samples: int, batch_size: int) -> None:
    order = FullOrder(num_samples=num_samples, batch_size=batch_size, seed=3)
    dropped = []
    for epoch in range(3):
        ids = epoch_ids(order, epoch)
        assert len(ids) == num_samples - num_samples % batch_size == len(set(ids.tolist()))
        dropped.append(frozenset(range(num_samples)) - set(ids.tolist()))
        assert len(dropped[-1]) == order.num_dropped
    if order.num_dropped and num_samples > 50:
        assert len(set(dropped)) > 1


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_global_batches_do_not_depend_on_the_number_of_ranks(world_size: int) -> None:
    order = FullOrder(num_samples=100, batch_size=16, seed=3)
    for step in range(order.steps_per_epoch):
        whole = order.global_batch(epoch=2, step=step)
        parts = [whole.of_rank(rank=rank, world_size=world_size) for rank in range(world_size)]
        assert np.concatenate([part.sample_ids for part in parts]).tolist() == whole.sample_ids.tolist()
        assert np.concatenate([part.positions for part in parts]).tolist() == list(range(16 * step, 16 * step + 16))


def test_restored_at_every_position_the_whole_tail_is_equal() -> None:
    """There is no state to restore: a fresh order, asked for any step, continues the old one."""
    told = [
        FullOrder(num_samples=53, batch_size=5, seed=9).global_batch(epoch=e, step=s)
        for e in range(2)
        for s in range(10)
    ]
    for position in range(20):
        fresh = FullOrder(num_samples=53, batch_size=5, seed=9)
        tail = [fresh.global_batch(epoch=n // 10, step=n % 10) for n in range(position, 20)]
        assert [slots.sample_ids.tolist() for slots in tail] == [slots.sample_ids.tolist() for slots in told[position:]]


def test_another_seed_or_epoch_is_another_order() -> None:
    orders = {
        tuple(epoch_ids(FullOrder(num_samples=64, batch_size=8, seed=seed), epoch))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_a_billion_samples_cost_no_memory() -> None:
    order = FullOrder(num_samples=10**9, batch_size=1024, seed=1)
    order.global_batch(epoch=0, step=0)
    tracemalloc.start()
    ids = order.global_batch(epoch=3, step=900_000).sample_ids
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(ids.tolist())) == 1024
    assert peak_bytes < 1_000_000


def test_a_full_batch_padded_to_the_ranks_holds_each_sample_once() -> None:
    order = FullOrder(num_samples=41, batch_size=42, seed=0)
    slots = order.global_batch(epoch=0, step=0)
    assert order.steps_per_epoch == 1
    assert sorted(slots.sample_ids[slots.weights > 0].tolist()) == list(range(41))
    assert slots.weights.sum() == 41


@given(num_samples=st.integers(1, 200), world_size=st.integers(1, 8), share=st.integers(1, 50))
@settings(deadline=None)
def test_sequential_order_gives_every_sample_exactly_once(num_samples: int, world_size: int, share: int) -> None:
    order = SequentialOrder(num_samples=num_samples, batch_size=world_size * share)
    seen: list[int] = []
    for step in range(order.steps_per_epoch):
        for rank in range(world_size):
            slots = order.global_batch(epoch=0, step=step).of_rank(rank=rank, world_size=world_size)
            assert len(slots) == share
            seen += slots.sample_ids[slots.weights > 0].tolist()
    assert sorted(seen) == list(range(num_samples))


def test_a_step_outside_the_epoch_is_refused() -> None:
    with pytest.raises(IndexError, match="step 2 is outside an epoch of 2"):
        FullOrder(num_samples=10, batch_size=5, seed=0).global_batch(epoch=0, step=2)
    with pytest.raises(ValueError, match="do not divide by 3 ranks"):
        FullOrder(num_samples=10, batch_size=5, seed=0).global_batch(epoch=0, step=0).of_rank(rank=0, world_size=3)
