"""Training on a part of a split: the first samples of a fixed permutation, so smaller parts lie within larger ones.

    ids_N = subset_ids(num_samples=50_000, wanted=4_096, seed=0)        # int64 (4096,), ascending
    order = SubsetOrder(order=FullOrder(num_samples=4_096, batch_size=64, seed=7), ids_N=ids_N)
    order.global_batch(epoch=3, step=12)        # the same rows of the split as ever, 4,096 of them in all

Another order goes through the places of the part as if it were a split of its own; into a slot goes the row of the
whole split that stands there. So samples keep their ids, readers know nothing of it, and a part that is the whole split
is in the very order that the split has without it.

Axes: N samples of the part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.order import FullOrder, Int64Array, Slots
from pipeline.data.window import WindowOrder
from pipeline.shards.keyed import make_key
from pipeline.shards.permutation import permute


def subset_ids(*, num_samples: int, wanted: int, seed: int) -> Int64Array:
    """Return the ids of `wanted` of `num_samples` samples, ascending, int64; those of fewer are among them.

    Raises:
        ValueError: more are wanted than there are, or none.
    """
    if not 1 <= wanted <= num_samples:
        raise ValueError(f"wanted={wanted}: 1 to {num_samples} wanted")
    return np.sort(permute(make_key("subset", seed), np.arange(wanted, dtype=np.int64), length=num_samples))


def counts_within(ids_N: Int64Array, shard_counts: Sequence[int] | Int64Array) -> Int64Array:
    """Return how many of these ids, ascending, each shard has: int64 (shards,)."""
    ends = np.searchsorted(ids_N, np.cumsum(shard_counts))
    return np.diff(ends, prepend=0).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetOrder:
    """An order of a part of a split: 8 bytes a sample of the part, and the costs of the order inside.

    Attributes:
        order: goes through the places 0 ... N-1 of the part; it has as many samples as `ids_N`.
        ids_N: int64 (N,), the ids of the part's samples in the split, ascending.
    """

    order: FullOrder | WindowOrder
    ids_N: Int64Array

    def __post_init__(self) -> None:
        if len(self.ids_N) != self.order.num_samples:
            raise ValueError(f"{len(self.ids_N)} ids for an order of {self.order.num_samples} samples")

    @property
    def num_samples(self) -> int:
        """Samples of the part."""
        return self.order.num_samples

    @property
    def batch_size(self) -> int:
        return self.order.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    @property
    def num_dropped(self) -> int:
        """Samples of the part that an epoch leaves out, another set in each."""
        return self.order.num_dropped

    def global_batch(self, *, epoch: int, step: int) -> Slots:
        return self._named(self.order.global_batch(epoch=epoch, step=step))

    def global_weight(self, *, step: int) -> int:
        return self.order.global_weight(step=step)

    def slots_at(self, *, epoch: int, positions: Int64Array) -> Slots:
        return self._named(self.order.slots_at(epoch=epoch, positions=positions))

    def _named(self, slots: Slots) -> Slots:
        """Return slots whose places in the part are named by the split's ids."""
        return dataclasses.replace(slots, sample_ids=self.ids_N[slots.sample_ids])
