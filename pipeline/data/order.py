"""The order: which sample stands in which slot of which global batch. Pure mathematics, numpy only.

    order = FullOrder(num_samples=50_000, batch_size=256, seed=7)
    order.steps_per_epoch                               # 195; the 80 last of each epoch's order are dropped
    slots = order.global_batch(epoch=3, step=12)        # slots.sample_ids: (256,), the same for any world size
    mine = slots.of_rank(rank=1, world_size=4)          # slots 64..127

An order is a function of (num_samples, batch_size, seed) and (epoch, step). There is no state: a resumed run asks
for the next step, another number of ranks cuts the same global batch elsewhere. Specification: docs/ORDER.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.shards.keyed import MIX_1, MIX_2, make_key, random_bits

NUM_FEISTEL_ROUNDS = 6
MIN_FEISTEL_BITS = 8

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


class Order(Protocol):
    """What the loader asks of an order."""

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch."""

    def global_batch(self, *, epoch: int, step: int) -> Slots:
        """Return all slots of global batch `step` (0-based) of epoch `epoch`."""


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
        _check_step(step, self.steps_per_epoch)
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)
        inside = positions % self.num_samples
        key = make_key("full", self.seed, epoch)
        return Slots(
            sample_ids=permute(key, inside, length=self.num_samples),
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
        _check_step(step, self.steps_per_epoch)
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)
        return Slots(
            sample_ids=np.minimum(positions, self.num_samples - 1),
            positions=positions,
            weights=(positions < self.num_samples).astype(np.float32),
        )


def permute(key: int, positions: Int64Array, *, length: int) -> Int64Array:
    """Apply a keyed permutation of range(length) to `positions`, without making the rest of it.

    An alternating Feistel network (Luby, Rackoff 1988) permutes the smallest power of two that holds `length`;
    values that fall outside walk on along their cycle until they are inside (Black, Rogaway 2002, "Ciphers with
    arbitrary finite domains"): under two passes on average.

    Args:
        key: 64 bits.
        positions: int64, each in 0..length-1; any shape.
    """
    num_bits = max(MIN_FEISTEL_BITS, (length - 1).bit_length())
    round_keys = _round_keys(key)
    result = _feistel(round_keys, positions.astype(np.uint64), num_bits)
    outside = result >= np.uint64(length)
    while outside.any():
        result[outside] = _feistel(round_keys, result[outside], num_bits)
        outside = result >= np.uint64(length)
    return result.astype(np.int64)


@lru_cache(maxsize=64)
def _round_keys(key: int) -> tuple[np.uint64, ...]:
    return tuple(random_bits(key, np.arange(NUM_FEISTEL_ROUNDS)))


def _feistel(
    round_keys: tuple[np.uint64, ...], values: npt.NDArray[np.uint64], num_bits: int
) -> npt.NDArray[np.uint64]:
    """Permute `num_bits`-bit values: each round adds a hash of one half to the other half, by exclusive or."""
    low_bits = num_bits - num_bits // 2
    low = values & np.uint64((1 << low_bits) - 1)
    high = values >> np.uint64(low_bits)
    for even_key, odd_key in zip(round_keys[0::2], round_keys[1::2], strict=True):
        high ^= _round_hash(low, even_key) >> np.uint64(64 - (num_bits - low_bits))
        low ^= _round_hash(high, odd_key) >> np.uint64(64 - low_bits)
    return (high << np.uint64(low_bits)) | low


def _round_hash(half: npt.NDArray[np.uint64], round_key: np.uint64) -> npt.NDArray[np.uint64]:
    """Hash each half to 64 bits, of which the high ones are good: multiply, fold, multiply."""
    bits = (half ^ round_key) * np.uint64(MIX_1)
    bits ^= bits >> np.uint64(32)
    bits *= np.uint64(MIX_2)
    return bits


def _check_step(step: int, steps_per_epoch: int) -> None:
    if not 0 <= step < steps_per_epoch:
        raise IndexError(f"step {step} is outside an epoch of {steps_per_epoch}")
