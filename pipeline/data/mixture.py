"""Several data sets in one order, by weight: exact shares, no state.

    orders = [FullOrder(num_samples=n, batch_size=1, seed=member_seed(7, k)) for k, n in enumerate([50_000, 8_000])]
    mixture = MixtureOrder(orders=orders, num_samples=[50_000, 8_000], weights=[3, 1], batch_size=256)
    slots = mixture.global_batch(epoch=0, step=12)      # 192 samples of the first set, 64 of the second

The sets are thought of as one behind the other: sample i of set k has the id base[k] + i, where base[k] counts the
samples of the sets before it, which is how pipeline/data/concat.py reads them. Which set comes next is a fixed
sequence, in which after any number of turns no set is a whole turn away from its share; each set goes through its own
order, epoch after epoch of its own. All of it is arithmetic, so a step can be computed alone, for any number of ranks.
Specification: docs/ORDER.md.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np

from pipeline.data.order import Int64Array, Order, Slots, positions_of
from pipeline.shards.errors import UserError
from pipeline.shards.keyed import make_key

# The turns repeat after sum(weights): 16 bytes and some microseconds for each.
MAX_WEIGHT_SUM = 100_000
SIZE_WEIGHT_SUM = 10_000


class MixtureOrder:
    """The slots of a global batch, dealt to several sets by weight.

    A turn is one slot in each lane, where a lane is what it is in the sets' own orders: of a batch of B slots, slot s
    is of lane s // (B / lanes) and of turn s % (B / lanes). With lanes=1 a turn is a slot. So a host that reads the
    lanes of its ranks in one set reads the same lanes in all of them.

    An epoch of the mixture is as many global batches as all its sets have samples for. With weights in proportion
    to the sizes each set is then gone through once; otherwise some are repeated within it and others not finished.
    Nothing is dropped at the end of it.

    Args:
        orders: of each set, with `batch_size` = lanes, the same for all.
        num_samples: of each set.
        weights: whole numbers, the shares.
        batch_size: slots of a global batch; lanes must divide it.

    Raises:
        UserError: numbers that do not go together.
    """

    def __init__(
        self, *, orders: Sequence[Order], num_samples: Sequence[int], weights: Sequence[int], batch_size: int
    ) -> None:
        if not len(orders) == len(num_samples) == len(weights) >= 1:
            raise UserError(f"{len(weights)} weights for {len(num_samples)} data sets: one for each wanted")
        self.lanes = orders[0].batch_size
        if any(order.batch_size != self.lanes for order in orders):
            raise ValueError(f"the sets' orders have {[order.batch_size for order in orders]} lanes: one number wanted")
        if min(num_samples) < self.lanes:
            raise UserError(f"a data set of {min(num_samples)} samples does not go into {self.lanes} lanes")
        if batch_size < 1 or batch_size % self.lanes:
            raise UserError(f"order.lanes={self.lanes} does not divide batch.size={batch_size}")
        self.batch_size = batch_size
        self.orders = tuple(orders)
        # The first sample id of each set, and the number of samples at the end.
        self.bases = np.cumsum([0, *num_samples]).astype(np.int64)
        self.num_samples = sum(num_samples)
        self._sets, self._counts, self._weights = _turns(weights)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.num_samples // self.batch_size)

    @property
    def num_dropped(self) -> int:
        """Samples that are left out at the end of an epoch: none, the sets go on in the next."""
        return 0

    def global_batch(self, *, epoch: int, step: int) -> Slots:
        return self.slots_at(epoch=epoch, positions=positions_of(self, step))

    def global_weight(self, *, step: int) -> int:
        return self.batch_size

    def slots_at(self, *, epoch: int, positions: Int64Array) -> Slots:
        turns_per_step = self.batch_size // self.lanes
        steps, slots = np.divmod(positions, self.batch_size)
        lanes, turns = np.divmod(slots, turns_per_step)
        turns += (steps + epoch * self.steps_per_epoch) * turns_per_step
        sets, turns_of_set = self.turns_at(turns)
        sample_ids = np.empty_like(positions)
        for number, order in enumerate(self.orders):
            of_set = np.flatnonzero(sets == number)
            epochs, rows = np.divmod(turns_of_set[of_set], order.steps_per_epoch)
            for member_epoch in np.unique(epochs).tolist():
                here = epochs == member_epoch
                found = order.slots_at(epoch=member_epoch, positions=rows[here] * self.lanes + lanes[of_set[here]])
                sample_ids[of_set[here]] = found.sample_ids + self.bases[number]
        return Slots(sample_ids=sample_ids, positions=positions, weights=np.ones(len(positions), dtype=np.float32))

    def passes(self, *, epoch: int) -> list[float]:
        """Return how many times each set is gone through in an epoch of the mixture."""
        turns = self.steps_per_epoch * self.batch_size // self.lanes
        had = self._turns_before((epoch + 1) * turns) - self._turns_before(epoch * turns)
        return [int(count) / order.steps_per_epoch for count, order in zip(had, self.orders, strict=True)]

    def _turns_before(self, turn: int) -> Int64Array:
        """Return how many turns each set has had before turn `turn` of the run."""
        rounds, place = divmod(turn, len(self._sets))
        return rounds * self._weights + np.bincount(self._sets[:place], minlength=len(self.orders))

    def turns_at(self, turns: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return the set whose turn each is, and how many turns that set has had before."""
        rounds, places = np.divmod(turns, len(self._sets))
        sets = self._sets[places]
        return sets, rounds * self._weights[sets] + self._counts[places]


def member_seed(seed: int, number: int) -> int:
    """Return the seed of the order of set `number`, so that equal sets are in unrelated orders."""
    return make_key("mixture", seed, number)


def size_weights(num_samples: Sequence[int]) -> list[int]:
    """Return weights in proportion to the sizes: parts of 10,000, at least 1, rounded down."""
    return [max(1, size * SIZE_WEIGHT_SUM // sum(num_samples)) for size in num_samples]


def _turns(weights: Sequence[int]) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return the set of each turn of a round, its number of earlier turns in the round, and the reduced weights.

    After t turns a set of weight w has had fewer than w*t/W + 1 and more than w*t/W - 1, for every t, if and only if
    its turn j (from 0) is not before floor(j*W/w) and before ceil((j+1)*W/w). The earliest such deadline first
    keeps them all (Tijdeman 1980, "The chairman assignment problem"; Steiner and Yeomans 1993).
    """
    for weight in weights:
        if weight < 1:
            raise UserError(f"weights {list(weights)}: whole numbers from 1 wanted")
    divisor = math.gcd(*weights)
    parts = [weight // divisor for weight in weights]
    total = sum(parts)
    if total > MAX_WEIGHT_SUM:
        raise UserError(f"weights {list(weights)} add up to {total:,} parts: at most {MAX_WEIGHT_SUM:,} wanted")
    released = [(0, number, 0) for number in range(len(parts))]
    ready: list[tuple[int, int, int]] = []
    sets, counts = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int64)
    for turn in range(total):
        while released and released[0][0] <= turn:
            _, number, count = heapq.heappop(released)
            heapq.heappush(ready, (-(-(count + 1) * total // parts[number]), number, count))
        _, number, count = heapq.heappop(ready)
        sets[turn], counts[turn] = number, count
        if count + 1 < parts[number]:
            heapq.heappush(released, ((count + 1) * total // parts[number], number, count + 1))
    return sets, counts, np.array(parts, dtype=np.int64)
