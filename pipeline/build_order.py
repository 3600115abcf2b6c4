"""From checked configs to what is trained on: which samples, in which order, with which labels.

num_samples = num_trained_on(config.data, 50_000)
order = build_order(config.order, data=config.data, shard_counts=shard_counts_of(reader), slots=256, seed=7)
noise = build_label_noise(config.data, data_set)        # None: the labels are those that were stored
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.data.concat import ConcatReader
from pipeline.data.label_noise import LabelNoise
from pipeline.data.mixture import MixtureOrder, member_seed, size_weights
from pipeline.data.order import FullOrder
from pipeline.data.reader import Reader
from pipeline.data.stream import StreamOrder
from pipeline.data.subset import SubsetOrder, counts_within, subset_ids
from pipeline.data.window import WindowOrder
from pipeline.data_config import DataConfig, FullOrderConfig, OrderConfig, WindowOrderConfig
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.shards.task import Task

TrainingOrder = FullOrder | WindowOrder | MixtureOrder | StreamOrder | SubsetOrder


def build_label_noise(config: DataConfig, data_set: DataSet) -> LabelNoise | None:
    """Return what replaces training labels; None: nothing does.

    Raises:
        UserError: samples that have not one label each.
    """
    if not config.label_noise:
        return None
    if data_set.task is not Task.classification:
        raise UserError(
            f"data.label_noise={config.label_noise}: wants one label an image, {config.places[0]} is"
            f" {data_set.task.value}; leave it out"
        )
    return LabelNoise(frac=config.label_noise, num_classes=data_set.num_classes, seed=config.label_noise_seed)


def num_trained_on(config: DataConfig, num_samples: int) -> int:
    """Return how many of the training split's samples are trained on.

    Raises:
        UserError: more are asked for than there are.
    """
    if config.train_samples is None:
        return num_samples
    if config.train_samples > num_samples:
        raise UserError(
            f"data.train_samples={config.train_samples}: the split {config.train_split} of {config.places[0]} has"
            f" {num_samples:,}; at most so many wanted, or null for all"
        )
    return config.train_samples


def shard_counts_of(reader: Reader) -> list[list[int]]:
    """Return the samples of each shard, for each data set that a reader goes over."""
    readers = reader.readers if isinstance(reader, ConcatReader) else (reader,)
    return [[shard.num_samples for shard in reader.split.shards] for reader in readers]


def build_order(
    config: OrderConfig, *, data: DataConfig, shard_counts: Sequence[Sequence[int]], slots: int, seed: int
) -> TrainingOrder:
    """Return training's order.

    Args:
        data: says which part of the split, or which shares of several data sets, is trained on.
        shard_counts: samples of each shard, for each data set.

    Raises:
        UserError: numbers that do not go together.
    """
    if len(shard_counts) == 1:
        counts = shard_counts[0]
        if data.train_samples is None:
            return _order_of_one(config, shard_counts=counts, slots=slots, seed=seed)
        num_samples = sum(counts)
        wanted = num_trained_on(data, num_samples)
        ids_N = subset_ids(num_samples=num_samples, wanted=wanted, seed=data.subset_seed)
        within = counts_within(ids_N, counts).tolist()
        return SubsetOrder(order=_order_of_one(config, shard_counts=within, slots=slots, seed=seed), ids_N=ids_N)
    sizes = [sum(counts) for counts in shard_counts]
    lanes = config.lanes if isinstance(config, WindowOrderConfig) else 1
    orders = [
        _order_of_one(config, shard_counts=counts, slots=lanes, seed=member_seed(seed, number))
        for number, counts in enumerate(shard_counts)
    ]
    weights = data.weights or size_weights(sizes)
    return MixtureOrder(orders=orders, num_samples=sizes, weights=weights, batch_size=slots)


def _order_of_one(
    config: OrderConfig, *, shard_counts: Sequence[int], slots: int, seed: int
) -> FullOrder | WindowOrder:
    match config:
        case FullOrderConfig():
            return FullOrder(num_samples=sum(shard_counts), batch_size=slots, seed=seed)
        case WindowOrderConfig():
            return WindowOrder(
                shard_counts=shard_counts,
                batch_size=slots,
                seed=seed,
                lanes=config.lanes,
                window_chunks=config.window_chunks,
                chunk_samples=config.chunk_samples,
            )
    raise TypeError(f"no order for {type(config).__name__}")
