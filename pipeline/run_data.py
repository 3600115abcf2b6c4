"""What a run reads: both splits, the order of training's samples, and a loader of each.

data = open_run_data(config, world, opened, first_step=lambda: module.finished_steps)
data.get_ready(world, first_step=1_200)         # before the first batch is asked for
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from pipeline.build_data import (
    BatchPlan,
    Wanted,
    batches_together,
    build_crop,
    build_eval_loader,
    open_splits,
    plan_batch,
)
from pipeline.build_order import TrainingOrder, build_label_noise, build_order, num_trained_on, shard_counts_of
from pipeline.config import TrainConfig
from pipeline.data.loader import BatchLoader
from pipeline.data.reader import Reader
from pipeline.data.stream import StreamOrder
from pipeline.data_config import FullOrderConfig
from pipeline.shards.manifest import DataSet
from pipeline.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """The data of a run on this rank.

    Attributes:
        fingerprint: what batches depend on; a run goes on only with the same.
    """

    data_set: DataSet
    batch: BatchPlan
    order: TrainingOrder
    train: BatchLoader
    val: BatchLoader
    fingerprint: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels, as the model sees them."""
        return self.train.reader.image_shape

    @property
    def num_samples(self) -> int:
        """That are trained on."""
        return self.order.num_samples

    @property
    def images_per_step(self) -> int:
        """Of an update, over all ranks: the full batch may have slots of no image."""
        return min(self.batch.slots, self.num_samples)

    def get_ready(self, world: World, *, first_step: int) -> None:
        """Begin to fetch what training reads from a step on; all ranks call this together.

        Raises:
            UserError: on every rank, where one cannot read it as it is configured.
        """
        if not isinstance(self.order, StreamOrder):
            world.agree_all(lambda: self.train.get_ready(first_step))
            world.agree_all(lambda: self.val.get_ready(0))


def open_run_data(config: TrainConfig, world: World, opened: ExitStack, *, first_step: Callable[[], int]) -> RunData:
    """Open what a run reads; `opened` closes it.

    Args:
        first_step: returns the number of finished steps, when training starts to read.

    Raises:
        UserError: the data is not there, or does not fit the batch or the number of ranks.
    """
    in_runs = not isinstance(config.order, FullOrderConfig)
    crop = build_crop(config.augment, seed=config.seed)
    data_set, (train_reader, val_reader) = open_splits(
        config.data,
        config.cache,
        [
            Wanted(name=config.data.train_split, crop=crop, in_runs=in_runs, seed=config.seed),
            Wanted(name=config.data.val_split),
        ],
        world,
    )
    opened.callback(train_reader.close)
    opened.callback(val_reader.close)
    num_samples = num_trained_on(config.data, train_reader.num_samples)
    batch = plan_batch(config, num_samples=num_samples, world_size=world.size)
    order: TrainingOrder
    if config.data.stream is not None:
        order = StreamOrder(num_samples=num_samples, batch_size=batch.slots)
    else:
        order = build_order(
            config.order,
            data=config.data,
            shard_counts=shard_counts_of(train_reader),
            slots=batch.slots,
            seed=config.seed,
        )
    train = BatchLoader(
        train_reader,
        order,
        rank=world.rank,
        world_size=world.size,
        first_step=first_step,
        micro_slots=batch.micro_slots_per_rank,
        prefetch=config.data.prefetch,
        together=batches_together(train_reader, slots=batch.micro_slots_per_rank),
        pin=world.cuda,
        label_noise=build_label_noise(config.data, data_set),
    )
    val = build_eval_loader(
        val_reader, slots_per_rank=config.evaluation.slots_per_rank, prefetch=config.data.prefetch, world=world
    )
    opened.callback(train.close)
    opened.callback(val.close)
    fingerprint = fingerprint_of(config, train_reader)
    return RunData(data_set=data_set, batch=batch, order=order, train=train, val=val, fingerprint=fingerprint)


def fingerprint_of(config: TrainConfig, reader: Reader) -> dict[str, Any]:
    """Return what batches depend on: a run goes on only with the same."""
    # Only where they are chosen, so that runs begun by a version without them go on.
    data = config.data
    part = {"data.train_samples": data.train_samples, "data.subset_seed": data.subset_seed}
    noise = {"data.label_noise": data.label_noise, "data.label_noise_seed": data.label_noise_seed}
    return {
        **(part if data.train_samples is not None else {}),
        **(noise if data.label_noise else {}),
        "data": reader.split.manifest_sha256,
        "order": type(config.order).__name__.removesuffix("OrderConfig").lower(),
        **{f"order.{name}": value for name, value in dataclasses.asdict(config.order).items()},
        "data.weights": data.weights,
        "batch.size": config.batch.size,
        "seed": config.seed,
    }
