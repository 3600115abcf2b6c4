"""Orders of a part of a split: which samples, each of them once an epoch, and smaller parts within larger ones."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from pipeline.build_order import build_order
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.data.order import Order, rank_slots
from pipeline.data.subset import SubsetOrder, counts_within, subset_ids
from pipeline.shards.errors import UserError

SHARDS = [40, 0, 57, 103]
NUM = sum(SHARDS)
FULL = ("order=full",)
WINDOW = ("order=window", "order.lanes=2", "order.window_chunks=2", "order.chunk_samples=10")
ORDERS = pytest.mark.parametrize("options", [FULL, WINDOW], ids=["full", "window"])


def order_of(*options: str, slots: int = 8, seed: int = 5) -> Order:
    config: TrainConfig = compose("train", TRAIN_SCHEMAS, list(options))
    return build_order(config.order, data=config.data, shard_counts=[SHARDS], slots=slots, seed=seed)


def ids_of(order: Order, *, epoch: int) -> list[int]:
    steps = [order.global_batch(epoch=epoch, step=step) for step in range(order.steps_per_epoch)]
    return [int(number) for slots in steps for number in slots.sample_ids]


def test_a_part_is_drawn_without_repetition_and_holds_every_smaller_one() -> None:
    parts = [set(subset_ids(num_samples=NUM, wanted=wanted, seed=3).tolist()) for wanted in (1, 7, 64, 199, NUM)]
    assert [len(part) for part in parts] == [1, 7, 64, 199, NUM]
    assert all(small < large for small, large in pairwise(parts))
    assert parts[-1] == set(range(NUM))


def test_each_sample_is_taken_by_as_many_seeds_as_chance_would_have_it() -> None:
    """Of 2,000 draws of a quarter each sample is in 500, give or take 19; all of 200 lie within 4.5 times that."""
    taken = Counter(number for seed in range(2000) for number in subset_ids(num_samples=NUM, wanted=50, seed=seed))
    assert len(taken) == NUM
    assert max(abs(count - 500) for count in taken.values()) < 4.5 * (2000 * 0.25 * 0.75) ** 0.5


@ORDERS
def test_an_epoch_is_the_part_and_nothing_else(options: tuple[str, ...]) -> None:
    wanted = set(subset_ids(num_samples=NUM, wanted=80, seed=3).tolist())
    order = order_of(*options, "data.train_samples=80", "data.subset_seed=3")
    assert (order.num_samples, order.steps_per_epoch) == (80, 10)
    epochs = [ids_of(order, epoch=epoch) for epoch in (0, 1)]
    assert all(set(ids) == wanted and len(ids) == 80 for ids in epochs)
    assert epochs[0] != epochs[1]


@ORDERS
def test_what_an_epoch_drops_is_of_the_part_and_changes(options: tuple[str, ...]) -> None:
    order = order_of(*options, "data.train_samples=83", "data.subset_seed=3")
    wanted = set(subset_ids(num_samples=NUM, wanted=83, seed=3).tolist())
    dropped = [wanted - set(ids_of(order, epoch=epoch)) for epoch in range(4)]
    assert [len(part) for part in dropped] == [3] * 4
    assert len(set(map(frozenset, dropped))) > 1


@ORDERS
def test_ranks_share_the_same_global_batches(options: tuple[str, ...]) -> None:
    order = order_of(*options, "data.train_samples=80")
    for world_size in (2, 4):
        shares = [
            list(rank_slots(order, epoch=2, first_step=3, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        dealt = [np.concatenate([slots.sample_ids for slots in step]).tolist() for step in zip(*shares, strict=True)]
        assert dealt == [order.global_batch(epoch=2, step=step).sample_ids.tolist() for step in range(3, 10)]


@ORDERS
def test_all_of_the_split_is_the_order_that_there_is_without_the_option(options: tuple[str, ...]) -> None:
    part, whole = order_of(*options, f"data.train_samples={NUM}"), order_of(*options)
    assert isinstance(part, SubsetOrder)
    assert ids_of(part, epoch=1) == ids_of(whole, epoch=1)


def test_a_padded_full_batch_counts_each_sample_of_the_part_once() -> None:
    order = order_of("data.train_samples=81", slots=84)
    slots = order.global_batch(epoch=0, step=0)
    wanted = subset_ids(num_samples=NUM, wanted=81, seed=0)
    assert np.sort(slots.sample_ids[slots.weights > 0]).tolist() == wanted.tolist()
    assert order.global_weight(step=0) == 81


def test_shards_have_the_samples_that_lie_in_them() -> None:
    ids_N = subset_ids(num_samples=NUM, wanted=66, seed=1)
    bounds = np.cumsum([0, *SHARDS])
    expected = [sum(low <= number < high for number in ids_N) for low, high in pairwise(bounds)]
    assert counts_within(ids_N, SHARDS).tolist() == expected


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["data.train_samples=0"], r"data\.train_samples=0: at least 1, or null, wanted"),
        (["data.train_samples=5", "data.paths=[a,b]"], r"data\.train_samples=5: of one data set"),
        (["data.train_samples=201"], r"data\.train_samples=201: the split train of data/default has 200"),
    ],
)
def test_a_part_that_there_is_not_is_refused(options: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        order_of(*options)


def test_golden_part() -> None:
    """Runs on a part of a split rely on it: they could not go on, nor be repeated, with another."""
    assert subset_ids(num_samples=1000, wanted=8, seed=7).tolist() == [107, 304, 332, 345, 380, 397, 422, 734]
