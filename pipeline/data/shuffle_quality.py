"""How well an order shuffles, as three numbers, each beside what an ideal full shuffle gives.

    order = WindowOrder(shard_counts=[25_000] * 52, batch_size=256, seed=7)     # 8 lanes, windows of 4 shards
    quality = shuffle_quality(order, shard_counts=[25_000] * 52, labels_of=labels.take)
    quality.neighbour_distance_frac.of_ideal        # 0.45: stored neighbours come 0.45 times as far apart
    quality.same_shard_pairs_frac.of_ideal          # 2.2: pairs of a batch are of one shard 2.2 times as often

They are measured on a part of an epoch whose size is bounded, so a billion samples take a second too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.order import Int64Array, Order
from pipeline.shards.keyed import make_key
from pipeline.shards.permutation import permute

# Of two places drawn evenly from an epoch, the distance that half of the pairs stay under: 1 - sqrt(1/2) of it.
IDEAL_DISTANCE_FRAC = 1 - 0.5**0.5
MAX_SAMPLES = 1 << 18
CLOSEST_FRAC = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number of an order and of an ideal full shuffle of the same samples."""

    found: float
    ideal: float

    @property
    def of_ideal(self) -> float:
        """found / ideal; 1 where both are 0."""
        return self.found / self.ideal if self.ideal else 1.0 if not self.found else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleQuality:
    """Three measures of an order.

    Attributes:
        neighbour_distance_frac: how far apart in the order stored neighbours are, the median, over the length of an
            epoch. The more, the better; 0.29 for a full shuffle.
        same_shard_pairs_frac: of all pairs of slots in a global batch, those of one shard. The less, the better.
        label_run: mean length of a run of one label along a global batch; None where no labels were given.
    """

    neighbour_distance_frac: Measure
    same_shard_pairs_frac: Measure
    label_run: Measure | None


def shuffle_quality(
    order: Order,
    *,
    shard_counts: Sequence[int] | Int64Array,
    labels_of: Callable[[Int64Array], Int64Array] | None = None,
    epoch: int = 0,
    max_samples: int = MAX_SAMPLES,
) -> ShuffleQuality:
    """Measure an order on at most `max_samples` samples of an epoch, or on one global batch if that is more.

    Beyond `max_samples` "neighbours" are the closest tenth of the samples drawn: of a billion they are stored about 400
    apart, so chunks shorter than that look better than they are.

    Args:
        shard_counts: samples in each shard, in the order of the split.
        labels_of: the labels, int64, of sample ids.
    """
    num_positions = order.steps_per_epoch * order.batch_size
    drawn = np.sort(_draw(num_positions, max_samples))
    slots = order.slots_at(epoch=epoch, positions=drawn)
    used = slots.weights > 0
    sample_ids, positions = slots.sample_ids[used], slots.positions[used]
    batches = _batches(order, epoch, max_samples)
    shard_ends = np.cumsum(np.asarray(shard_counts, dtype=np.int64))
    return ShuffleQuality(
        neighbour_distance_frac=Measure(
            found=_median_distance(sample_ids, positions) / num_positions, ideal=IDEAL_DISTANCE_FRAC
        ),
        same_shard_pairs_frac=Measure(
            found=_same_pairs(batches, shard_ends), ideal=_same_pair_frac(np.asarray(shard_counts, dtype=np.int64))
        ),
        label_run=None if labels_of is None else _label_runs(batches, labels_of(sample_ids), labels_of),
    )


def _draw(length: int, most: int) -> Int64Array:
    """Return distinct numbers below `length`, the same ones each time: all of them, or `most`."""
    return permute(make_key("shuffle_quality"), np.arange(min(length, most), dtype=np.int64), length=length)


def _batches(order: Order, epoch: int, max_samples: int) -> list[Int64Array]:
    """Return the sample ids of some global batches, from all parts of the epoch."""
    batches = []
    for step in _draw(order.steps_per_epoch, max(1, max_samples // order.batch_size)).tolist():
        slots = order.global_batch(epoch=epoch, step=step)
        batches.append(slots.sample_ids[slots.weights > 0])
    return batches


def _median_distance(sample_ids: Int64Array, positions: Int64Array) -> float:
    """Return the median distance of the pairs that are stored closest to each other."""
    if len(sample_ids) < 2:
        return 0.0
    sequence = np.argsort(sample_ids)
    gaps = np.diff(sample_ids[sequence])
    close = gaps <= np.quantile(gaps, CLOSEST_FRAC)
    return float(np.median(np.abs(np.diff(positions[sequence]))[close]))


def _same_pairs(batches: list[Int64Array], shard_ends: Int64Array) -> float:
    counts = [np.unique(np.searchsorted(shard_ends, ids, side="right"), return_counts=True)[1] for ids in batches]
    return float(np.mean([_same_pair_frac(count) for count in counts]))


def _same_pair_frac(counts: npt.NDArray[np.int64]) -> float:
    """Return the chance that two different samples, of kinds that have `counts` samples each, are of one kind."""
    numbers = counts.astype(np.float64)
    total = float(numbers.sum())
    return float((numbers * (numbers - 1)).sum() / (total * (total - 1))) if total > 1 else 0.0


def _label_runs(
    batches: list[Int64Array], drawn_labels: Int64Array, labels_of: Callable[[Int64Array], Int64Array]
) -> Measure:
    """Mean run of one label along a batch; the ideal follows from the classes' shares among the samples drawn.

    In a full shuffle a batch of B slots has 1 + (B - 1)(1 - p) runs on average, where p is the chance that two
    samples have one label.
    """
    num_slots = sum(map(len, batches))
    num_runs = sum(1 + int(np.count_nonzero(np.diff(labels_of(ids)))) for ids in batches)
    same = _same_pair_frac(np.unique(drawn_labels, return_counts=True)[1])
    ideal_runs = len(batches) + (num_slots - len(batches)) * (1 - same)
    return Measure(found=num_slots / num_runs, ideal=num_slots / ideal_runs)
