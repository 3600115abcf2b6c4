"""Mixtures: exact shares, the same for any number of ranks, computable at any step."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.mixture import MixtureOrder, member_seed, size_weights
from pipeline.data.order import FullOrder, Order, rank_slots
from pipeline.data.window import WindowOrder
from pipeline.shards.errors import UserError
from tiny_data import ROOT

GOLDEN_TURNS = [0, 0, 1, 0, 0, 1, 0, 2]
GOLDEN_BATCH = [0, 6, 13, 3, 4, 10, 1, 18]


def full_mixture(sizes: list[int], weights: list[int], *, batch_size: int, seed: int = 5) -> MixtureOrder:
    orders = [FullOrder(num_samples=n, batch_size=1, seed=member_seed(seed, k)) for k, n in enumerate(sizes)]
    return MixtureOrder(orders=orders, num_samples=sizes, weights=weights, batch_size=batch_size)


def window_mixture(sizes: list[list[int]], weights: list[int], *, batch_size: int, lanes: int) -> MixtureOrder:
    orders: list[Order] = [
        WindowOrder(shard_counts=counts, batch_size=lanes, lanes=lanes, seed=member_seed(5, k), window_chunks=2)
        for k, counts in enumerate(sizes)
    ]
    return MixtureOrder(orders=orders, num_samples=list(map(sum, sizes)), weights=weights, batch_size=batch_size)


def run_ids(order: MixtureOrder, num_steps: int) -> list[list[int]]:
    """Return the sample ids of the first steps of a run, across epochs."""
    places = [divmod(step, order.steps_per_epoch) for step in range(num_steps)]
    return [order.global_batch(epoch=epoch, step=step).sample_ids.tolist() for epoch, step in places]


@given(weights=st.lists(st.integers(1, 60), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_after_any_number_of_turns_each_set_is_less_than_one_from_its_share(weights: list[int]) -> None:
    mixture = full_mixture([10] * len(weights), weights, batch_size=1)
    num_turns = 2 * sum(weights) + 1
    sets, counts = mixture.turns_at(np.arange(num_turns))
    had = Counter[int]()
    for turn, (number, count) in enumerate(zip(sets.tolist(), counts.tolist(), strict=True)):
        assert count == had[number]
        had[number] += 1
        for k, weight in enumerate(weights):
            assert abs(had[k] - Fraction(weight * (turn + 1), sum(weights))) < 1


@pytest.mark.parametrize("weights", [[1, 99_999], [49_999, 49_999, 1], [10_000] * 9 + [1], list(range(1, 400))])
def test_shares_are_exact_for_far_apart_and_many_weights(weights: list[int]) -> None:
    mixture = full_mixture([10] * len(weights), weights, batch_size=1)
    total = sum(weights)
    sets, _ = mixture.turns_at(np.arange(total))
    turns = np.arange(1, total + 1)
    for k, weight in enumerate(weights):
        deviation = np.abs(np.cumsum(sets == k) * total - weight * turns)
        assert deviation.max() < total


@given(
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=5), batch_size=st.integers(1, 40), epoch=st.integers(0, 2)
)
@settings(max_examples=25, deadline=None)
def test_each_global_batch_has_each_sets_share_within_one(weights: list[int], batch_size: int, epoch: int) -> None:
    sizes = [50 + 7 * k for k in range(len(weights))]
    mixture = full_mixture(sizes, weights, batch_size=batch_size)
    bounds = np.cumsum(sizes)
    for step in range(mixture.steps_per_epoch):
        sets = np.searchsorted(bounds, mixture.global_batch(epoch=epoch, step=step).sample_ids, side="right")
        for k, weight in enumerate(weights):
            share = Fraction(weight * batch_size, sum(weights))
            # Two prefixes less than one from their shares each; exactly the share where it is whole at both ends.
            assert abs(np.count_nonzero(sets == k) - share) < 2
            if (batch_size * weight) % sum(weights) == 0 and batch_size % sum(weights) == 0:
                assert np.count_nonzero(sets == k) == share


@pytest.mark.parametrize("lanes", [1, 4])
def test_each_set_goes_through_its_own_epochs_whole(lanes: int) -> None:
    sizes = [[20, 20], [8, 4, 4], [24]]
    mixture = window_mixture(sizes, [1, 3, 2], batch_size=12, lanes=lanes)
    ids = [sample for batch in run_ids(mixture, 30) for sample in batch]
    base = 0
    for counts in sizes:
        size = sum(counts)
        own = [sample - base for sample in ids if base <= sample < base + size]
        base += size
        if lanes == 1:
            for start in range(0, len(own) - size + 1, size):
                assert sorted(own[start : start + size]) == list(range(size))
        times = Counter(own)
        assert max(times.values()) - min(times[sample] for sample in range(size)) <= 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12, 24])
def test_global_batches_do_not_depend_on_the_number_of_ranks(world_size: int) -> None:
    mixture = window_mixture([[30] * 6, [25] * 4], [2, 1], batch_size=24, lanes=4)
    ranks = [
        list(rank_slots(mixture, epoch=1, first_step=2, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    for step in range(2, mixture.steps_per_epoch):
        parts = np.concatenate([slots[step - 2].sample_ids for slots in ranks])
        assert parts.tolist() == mixture.global_batch(epoch=1, step=step).sample_ids.tolist()


@pytest.mark.parametrize("hosts", [2, 4])
def test_a_host_reads_its_own_lanes_shards_of_every_set(hosts: int) -> None:
    counts = [[40] * 32, [40] * 16]
    mixture = window_mixture(counts, [2, 1], batch_size=64, lanes=4)
    read = [
        {int(i) // 40 for slots in rank_slots(mixture, epoch=0, first_step=0, rank=host, world_size=hosts)
         for i in slots.sample_ids}
        for host in range(hosts)
    ]  # fmt: skip
    # One shard on each border of two hosts' lanes, in each set.
    assert sum(map(len, read)) <= 48 + 2 * (hosts - 1)


def test_restored_at_every_position_the_whole_tail_is_equal() -> None:
    def fresh() -> MixtureOrder:
        return window_mixture([[9, 4, 13], [7, 7], [31]], [1, 3, 2], batch_size=6, lanes=3)

    told = run_ids(fresh(), 8)
    for position in range(8):
        order = fresh()
        tail = [divmod(step, order.steps_per_epoch) for step in range(position, 8)]
        ids = [order.global_batch(epoch=epoch, step=step).sample_ids.tolist() for epoch, step in tail]
        assert ids == told[position:]


def test_golden_order() -> None:
    """Resumed runs and docs/ORDER.md rely on these very numbers; a change is a new format of the order."""
    mixture = full_mixture([10, 6, 4], [5, 2, 1], batch_size=8, seed=7)
    assert mixture.turns_at(np.arange(8))[0].tolist() == GOLDEN_TURNS
    assert mixture.global_batch(epoch=1, step=0).sample_ids.tolist() == GOLDEN_BATCH


def test_the_worked_example_of_the_specification_is_what_the_code_gives() -> None:
    text = (ROOT / "docs" / "ORDER.md").read_text()
    told = dict(re.findall(r"^    (turns|epoch \d)  +(?:step 0: )?(\d.*)$", text, re.MULTILINE))
    assert [int(word) for word in told["turns"].split()] == GOLDEN_TURNS
    assert [int(word) for word in told["epoch 1"].split()] == GOLDEN_BATCH
    mixture = full_mixture([10, 6, 4], [5, 2, 1], batch_size=8, seed=7)
    assert [int(word) for word in told["epoch 0"].split()] == mixture.global_batch(epoch=0, step=0).sample_ids.tolist()


def test_with_weights_of_the_sizes_an_epoch_is_each_set_once() -> None:
    sizes = [500, 300, 200]
    assert size_weights(sizes) == [5000, 3000, 2000]
    mixture = full_mixture(sizes, size_weights(sizes), batch_size=50)
    ids = [sample for batch in run_ids(mixture, mixture.steps_per_epoch) for sample in batch]
    assert sorted(ids) == list(range(1000))


def test_equal_sets_are_in_unrelated_orders() -> None:
    mixture = full_mixture([1000, 1000], [1, 1], batch_size=100)
    ids = np.array([sample for batch in run_ids(mixture, 20) for sample in batch])
    first, second = ids[ids < 1000], ids[ids >= 1000] - 1000
    assert (first == second).sum() < 8


def test_a_far_step_of_billions_of_samples_is_at_hand_at_once(record_property: Callable[[str, object], None]) -> None:
    begin = time.perf_counter()
    mixture = full_mixture([10**9, 3 * 10**9], [70_001, 29_998], batch_size=4096)
    slots = mixture.global_batch(epoch=7, step=900_000)
    record_property("far_step_s", time.perf_counter() - begin)
    assert len(slots) == 4096


@pytest.mark.parametrize(
    ("sizes", "weights", "batch_size", "told"),
    [
        ([10, 10], [1], 4, "1 weights for 2 data sets"),
        ([10, 10], [1, 0], 4, "whole numbers from 1"),
        ([10, 10], [1, 100_000], 4, "at most 100,000"),
        ([10, 10], [1, 1], 0, "does not divide batch.size=0"),
        ([10, 0], [1, 1], 4, "0 samples"),
    ],
)
def test_what_cannot_be_is_refused(sizes: list[int], weights: list[int], batch_size: int, told: str) -> None:
    orders = [FullOrder(num_samples=max(1, n), batch_size=1, seed=0) for n in sizes]
    with pytest.raises(UserError, match=told):
        MixtureOrder(orders=orders, num_samples=sizes, weights=weights, batch_size=batch_size)
