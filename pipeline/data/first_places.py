"""An order of few samples: those in the first places of another order's first epoch, each batch as an evaluation's.

    order = FirstPlaces(order=FullOrder(num_samples=50_000, batch_size=256, seed=7), num_samples=1000, batch_size=512)
    order.steps_per_epoch                       # 2; the last 24 slots have weight 0

A fixed random sample of a training split, the same for any number of ranks and after any resume, and, where the data is
remote, of the shards that training reads first.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from pipeline.data.order import Int64Array, Order, Slots


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPlaces:
    """The first `num_samples` places of `order`'s epoch 0, which must have so many, padded by weight 0."""

    order: Order
    num_samples: int
    batch_size: int

    def __post_init__(self) -> None:
        places = self.order.steps_per_epoch * self.order.batch_size
        if not 1 <= self.num_samples <= places:
            raise ValueError(f"num_samples={self.num_samples}: 1 to {places} wanted, the places of an epoch")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: at least 1 wanted")

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def global_batch(self, *, epoch: int, step: int) -> Slots:
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"step {step} is outside an epoch of {self.steps_per_epoch}")
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)
        return self.slots_at(epoch=epoch, positions=positions)

    def global_weight(self, *, step: int) -> int:
        return min(self.batch_size, self.num_samples - step * self.batch_size)

    def slots_at(self, *, epoch: int, positions: Int64Array) -> Slots:
        inner = self.order.slots_at(epoch=0, positions=np.minimum(positions, self.num_samples - 1))
        weights = (positions < self.num_samples).astype(np.float32)
        return dataclasses.replace(inner, positions=positions, weights=weights)
