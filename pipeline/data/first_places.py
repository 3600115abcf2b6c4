"""An evaluation's order of few samples: those in the first places of another order's first epoch.

    order = FirstPlaces(order=FullOrder(num_samples=50_000, batch_size=256, seed=7), num_samples=1000, batch_size=512)
    order.steps_per_epoch                       # 2; the last 24 slots have weight 0

A fixed sample of a training split, the same for any number of ranks and after any resume, and, where the data is
remote, of the shards that training reads first. It is as random as these are: with the order `window` over shards that
hold one class each, it has few classes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pipeline.data.order import Int64Array, Order, SequentialOrder, Slots


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPlaces(SequentialOrder):
    """The first `num_samples` places of `order`'s epoch 0, which must have so many, padded by weight 0."""

    order: Order

    def __post_init__(self) -> None:
        places = self.order.steps_per_epoch * self.order.batch_size
        if not 1 <= self.num_samples <= places:
            raise ValueError(f"num_samples={self.num_samples}: 1 to {places} wanted, the places of an epoch")
        SequentialOrder.__post_init__(self)  # super() alone finds nothing in a class with slots

    def slots_at(self, *, epoch: int, positions: Int64Array) -> Slots:
        places = SequentialOrder.slots_at(self, epoch=epoch, positions=positions)
        found = self.order.slots_at(epoch=0, positions=places.sample_ids)
        return dataclasses.replace(places, sample_ids=found.sample_ids)
