"""An order that shows each global batch several times in a row, at positions of their own.

    order = RepeatedOrder(order=SequentialOrder(num_samples=10_000, batch_size=1000), times=100)
    order.global_batch(epoch=0, step=250)       # the samples of batch 2 for the 51st time

Random crops are keyed by position (crop.py, augment.py), so each time is another look at the same images, and the looks
are the same for any number of ranks: what test-time augmentation averages over.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from pipeline.data.order import Int64Array, Order, Slots, positions_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedOrder:
    """`order`, each of its global batches `times` times."""

    order: Order
    times: int

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ValueError(f"times={self.times}: at least 1 wanted")

    @property
    def num_samples(self) -> int:
        return self.order.num_samples

    @property
    def batch_size(self) -> int:
        return self.order.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return self.times * self.order.steps_per_epoch

    def global_batch(self, *, epoch: int, step: int) -> Slots:
        return self.slots_at(epoch=epoch, positions=positions_of(self, step))

    def global_weight(self, *, step: int) -> int:
        return self.order.global_weight(step=step // self.times)

    def slots_at(self, *, epoch: int, positions: Int64Array) -> Slots:
        steps, slots = np.divmod(positions, self.batch_size)
        inner = self.order.slots_at(epoch=epoch, positions=steps // self.times * self.batch_size + slots)
        return dataclasses.replace(inner, positions=positions)
