"""The order: which sample stands in which slot of which global batch. Pure mathematics, numpy only.

    order = FullOrder(num_samples=50_000, batch_size=256, seed=7)
    order.steps_per_epoch                               # 195; the 80 last of each epoch's order are dropped
    slots = order.global_batch(epoch=3, step=12)        # slots.sample_ids: (256,), the same for any world size
    mine = slots.of_rank(rank=1, world_size=4)          # slots 64..127

An order is a function of (num_samples, batch_size, seed) and (epoch, position in the epoch's order); global batch
`step` holds positions step*batch_size and on. There is no state: a resumed run asks for the next step, another number
of ranks cuts the same global batch elsewhere. Specification: docs/ORDER.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.shards.keyed import make_key
from pipeline.shards.permutation import permute

# Slots to compute in one call: numpy's cost is by the call. Of 1.28 million samples, 1,024 slots cost 200 us alone
# and 30 us as a part of 32,768.
SLOTS_AHEAD = 32_768

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Consecutive slots of one global batch.

    Attributes:
        sample_ids: int64 (slots,), row numbers in the split.
        positions: int64 (slots,), places in the epoch's order; what an augmentation is keyed by.
        weights: float32 (slots,), 1, or 0 for padding; padding repeats a sample that has weight elsewhere.
    """

    sample_ids: Int64Array
    positions: Int64Array
    weights: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.sample_ids)

    def of_rank(self, *, rank: int, world_size: int) -> Slots:
        """Return rank `rank`'s contiguous share; world_size must divide the number of slots."""
        if len(self) % world_size:
            raise ValueError(f"{len(self)} slots do not divide by {world_size} ranks")
        share = len(self) // world_size
        return self.cut(rank * share, (rank + 1) * share)

    def cut(self, start: int, end: int) -> Slots:
        """Return slots [start, end)."""
        part = slice(start, end)
        return Slots(sample_ids=self.sample_ids[part], positions=self.positions[part], weights=self.weights[part])


def slots_of(sample_ids: Int64Array) -> Slots:
    """Return slots that hold these samples, at positions 0 and on, each of weight 1."""
    positions = np.arange(len(sample_ids), dtype=np.int64)
    return Slots(sample_ids=sample_ids, positions=positions, weights=np.ones(len(sample_ids), dtype=np.float32))


class Order(Protocol):
    """What the loader asks of an order."""

    @property
    def num_samples(self) -> int:
        """Distinct samples that an epoch goes through, those that it leaves out included."""

    @property
    def batch_size(self) -> int:
        """Slots of a global batch."""

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch."""

    def global_batch(self, *, epoch: int, step: int) -> Slots:
        """Return all slots of global batch `step` (0-based) of epoch `epoch`."""

    def global_weight(self, *, step: int) -> int:
        """Return the sum of the weights of global batch `step`."""

    def slots_at(self, *, epoch: int, positions: Int64Array) -> Slots:
        """Return the slots at `positions`, int64, any of 0..steps_per_epoch*batch_size - 1; others cost nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FullOrder:
    """Every epoch a full permutation of the split, by a keyed Feistel network: O(1) memory, O(batch) a step.

    Training drops the `num_samples mod batch_size` last places of each epoch's order. With
    `batch_size > num_samples` (only by the padding of a full batch to the number of ranks) the one batch of the
    epoch ends in slots of weight 0.
    """

    num_samples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.batch_size < 1:
            raise ValueError(f"num_samples={self.num_samples}, batch_size={self.batch_size}: at least 1 wanted")

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.num_samples // self.batch_size)

    @property
    def num_dropped(self) -> int:
        """Samples that an epoch leaves out, another set in each."""
        return max(0, self.num_samples - self.steps_per_epoch * self.batch_size)

    def global_batch(self, *, epoch: int, step: int) -> Slots:
        return self.slots_at(epoch=epoch, positions=positions_of(self, step))

    def global_weight(self, *, step: int) -> int:
        return min(self.batch_size, self.num_samples - step * self.batch_size)

    def slots_at(self, *, epoch: int, positions: Int64Array) -> Slots:
        key = make_key("full", self.seed, epoch)
        return Slots(
            sample_ids=permute(key, positions % self.num_samples, length=self.num_samples),
            positions=positions,
            weights=(positions < self.num_samples).astype(np.float32),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialOrder:
    """Evaluation's order (`none`): every sample exactly once, in stored order, the last batch padded by weight 0."""

    num_samples: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.batch_size < 1:
            raise ValueError(f"num_samples={self.num_samples}, batch_size={self.batch_size}: at least 1 wanted")

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def global_batch(self, *, epoch: int, step: int) -> Slots:
        return self.slots_at(epoch=epoch, positions=positions_of(self, step))

    def global_weight(self, *, step: int) -> int:
        return min(self.batch_size, self.num_samples - step * self.batch_size)

    def slots_at(self, *, epoch: int, positions: Int64Array) -> Slots:
        return Slots(
            sample_ids=np.minimum(positions, self.num_samples - 1),
            positions=positions,
            weights=(positions < self.num_samples).astype(np.float32),
        )


def rank_slots(order: Order, *, epoch: int, first_step: int, rank: int, world_size: int) -> Iterator[Slots]:
    """Yield rank `rank`'s slots of each global batch, from `first_step` to the end of the epoch.

    Each is `order.global_batch(epoch=epoch, step=step).of_rank(rank=rank, world_size=world_size)`, but several steps
    are computed in one call, and no other rank's slots are.
    """
    if order.batch_size % world_size:
        raise ValueError(f"{order.batch_size} slots do not divide by {world_size} ranks")
    share = order.batch_size // world_size
    steps_ahead = max(1, SLOTS_AHEAD // share)
    for start in range(first_step, order.steps_per_epoch, steps_ahead):
        steps = np.arange(start, min(start + steps_ahead, order.steps_per_epoch), dtype=np.int64)
        first_positions = steps * order.batch_size + rank * share
        positions = (first_positions[:, None] + np.arange(share)).ravel()
        ahead = order.slots_at(epoch=epoch, positions=positions)
        for begin in range(0, len(ahead), share):
            yield ahead.cut(begin, begin + share)


def positions_of(order: Order, step: int) -> Int64Array:
    """Return the positions of global batch `step`, which an epoch of the order must have."""
    if not 0 <= step < order.steps_per_epoch:
        raise IndexError(f"step {step} is outside an epoch of {order.steps_per_epoch}")
    return np.arange(step * order.batch_size, (step + 1) * order.batch_size, dtype=np.int64)
