"""`python -m pipeline.inspect run=DIR step=1234`: images and labels of one update, before and after augmentation.

    python -m pipeline.inspect run=runs/0007 step=1234                                # all ranks' slots, the first 64
    python -m pipeline.inspect run=runs/0007 step=1234 rank=1 ranks=4 micro=0
    python -m pipeline.inspect data.path=data/cifar10 seed=7 batch.size=256 step=1234 slots=64:128

Nothing was kept for this: a batch is a function of (data, seed, batch size, order, step), so it is made again, by the
functions that training calls. Steps count as in metrics.jsonl: a spike logged at step 1234 is shown by step=1234
(with trainer.log_every_steps=1; otherwise it is in one of the steps since the row before).
"""

from __future__ import annotations

import dataclasses
import io
import logging
import shutil
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.build_data import BatchPlan, Wanted, build_crop, open_splits, plan_batch
from pipeline.build_objective import build_augmentation
from pipeline.build_optimizer import plan_steps
from pipeline.build_order import build_label_noise, build_order, num_trained_on, shard_counts_of
from pipeline.compose import compose, first_difference, help_text
from pipeline.config import TRAIN_SCHEMAS, TrainConfig, from_stored
from pipeline.data.cache_entry import plain_name
from pipeline.data.order import Int64Array, Order, Slots
from pipeline.data.reader import Reader
from pipeline.inspect_config import BATCH_OPTIONS, INSPECT_SCHEMAS, InspectConfig
from pipeline.inspected import GlobalBatch, Sample, table_of, tile_of, title_of
from pipeline.run_data import fingerprint_of
from pipeline.run_folder import RUN_FILE, read_json
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.index import NO_LABEL, read_index
from pipeline.shards.manifest import ShardEntry, Split
from pipeline.shards.publish import publish_bytes
from pipeline.shards.task import Task
from pipeline.storage import open_store
from pipeline.track.contact_sheet import Pixels, draw_sheet
from pipeline.track.half_blocks import draw_in_terminal
from pipeline.track.run_reading import read_config
from pipeline.world import World

SUMMARY = """Show the images and labels of one update, before and after augmentation.

  python -m pipeline.inspect run=runs/0007 step=1234
  python -m pipeline.inspect data.path=data/cifar10 seed=7 batch.size=256 step=1234 out=batch.png

With run=, what decides its batches is read from its folder; data.path= says where the data lies now."""

ALONE = World(rank=0, size=1, local_rank=0, local_size=1, cuda=False)
TERMINAL = "-"
SHEET_IMAGES, TERMINAL_IMAGES = 64, 16
# Larger stored images are shown as the model sees them only.
MAX_STORED_PIXELS = 100_000_000


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("inspect", INSPECT_SCHEMAS, summary=SUMMARY))
        return 0
    config: InspectConfig = compose("inspect", INSPECT_SCHEMAS, argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    in_terminal = config.out == TERMINAL or (config.out is None and sys.stdout.isatty())
    if config.images is None and config.slots is None:
        config.images = TERMINAL_IMAGES if in_terminal else SHEET_IMAGES
    batch = inspect(config, given=[option.partition("=")[0] for option in argv])
    is_untouched = batch.is_untouched
    tiles = [tile_of(sample, batch, is_untouched=is_untouched) for sample in batch.samples]
    title = title_of(config, batch)
    if in_terminal:
        columns = shutil.get_terminal_size().columns
        sys.stdout.write(f"{title}\n\n{draw_in_terminal(tiles, columns=columns)}\n")
    sys.stdout.write(table_of(config, batch))
    if not in_terminal:
        path = Path(config.out or Path(config.run or ".") / f"step-{config.step}.png")
        stream = io.BytesIO()
        draw_sheet(tiles, title=title).save(stream, format="PNG")
        try:
            publish_bytes(path, stream.getvalue())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
            raise UserError(f"out={path}: cannot be written ({error.strerror}); name a file in a folder") from None
        sys.stdout.write(f"\npicture     {path}\n")
    return 0


def inspect(config: InspectConfig, *, given: Iterable[str] = ()) -> GlobalBatch:
    """Return the wanted slots of the batch of update `config.step`.

    Args:
        given: names of the options that the user typed; with a run, only these replace the run's own.

    Raises:
        UserError: no such run, step or slots, data that the run was not trained on, or options that do not fit.
    """
    training = training_config(config, given=given)
    if training.data.stream is not None:
        raise UserError(
            "data.stream: what a stream gave cannot be read again; python -m data_prep.index makes of its shards a data"
            " set whose every batch can be seen"
        )
    crop = build_crop(training.augment, seed=training.seed)
    wanted = Wanted(name=training.data.train_split, crop=crop, in_runs=False)
    data_set, (reader,) = open_splits(training.data, training.cache, [wanted], ALONE)
    try:
        if config.run is not None:
            _refuse_other_data(config, training, reader)
        num_samples = num_trained_on(training.data, reader.num_samples)
        plan = plan_batch(training, num_samples=num_samples, world_size=config.ranks)
        order = build_order(
            training.order,
            data=training.data,
            shard_counts=shard_counts_of(reader),
            slots=plan.slots,
            seed=training.seed,
        )
        if config.run is not None:
            steps = {"steps_per_epoch": order.steps_per_epoch, "micro_batches": plan.micro_batches}
            total_steps = plan_steps(training, **steps).total_steps
            if config.step > total_steps:
                raise UserError(
                    f"step={config.step}: {config.run} has {total_steps:,} steps; 1 to {total_steps} wanted"
                )
        epoch, step_of_epoch = divmod(config.step - 1, order.steps_per_epoch)
        samples = _read_samples(config, training, reader, order, plan, epoch=epoch, step_of_epoch=step_of_epoch)
    finally:
        reader.close()
    return GlobalBatch(
        data_set=data_set,
        epoch=epoch,
        step=config.step,
        steps_per_epoch=order.steps_per_epoch,
        num_slots=plan.slots,
        micro_batches=plan.micro_batches,
        samples=tuple(samples),
    )


def training_config(config: InspectConfig, *, given: Iterable[str]) -> TrainConfig:
    """Return the config of the training whose batch is meant.

    Raises:
        UserError: no such run, or options that its own config decides.
    """
    if config.run is None:
        default: TrainConfig = compose("train", TRAIN_SCHEMAS, [])
        batch = {name: getattr(config, name) for name in BATCH_OPTIONS}
        return dataclasses.replace(default, data=config.data, cache=config.cache, **batch)
    stored = from_stored(read_config(Path(config.run)))
    names = [name.replace("/", ".").split(".") for name in given]
    for first, *_ in names:
        if first in BATCH_OPTIONS:
            raise UserError(f"{first}: is read from run={config.run}; leave one of the two out")
    data = _replaced(stored.data, config.data, [parts[1] for parts in names if parts[0] == "data"] + ["check"])
    cache = _replaced(stored.cache, config.cache, [parts[1] for parts in names if parts[0] == "cache"])
    return dataclasses.replace(stored, data=data, cache=cache)


def _replaced(stored: Any, typed: Any, names: Iterable[str]) -> Any:
    return dataclasses.replace(stored, **{name: getattr(typed, name) for name in names})


def select_slots(config: InspectConfig, plan: BatchPlan) -> Int64Array:
    """Return the wanted slots' numbers in the global batch, ascending.

    Raises:
        UserError: there are none.
    """
    first, end = config.slot_range(plan.slots)
    numbers = np.arange(first, end, dtype=np.int64)
    ranks, micros = _places(config, plan, numbers)
    wanted = np.ones(len(numbers), dtype=np.bool_)
    if config.rank is not None:
        wanted &= ranks == config.rank
    if config.micro is not None:
        wanted &= micros == config.micro
    numbers = numbers[wanted][: config.images]
    if not len(numbers):
        raise UserError(
            f"no such slots: the batch has {plan.slots:,} (slots=first:end) in {plan.micro_batches} micro-batches"
            f" (micro=0 and on) on {config.ranks} ranks"
        )
    return numbers


def _places(config: InspectConfig, plan: BatchPlan, numbers: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return rank and micro-batch of each slot."""
    ranks, inside = np.divmod(numbers, plan.slots // config.ranks)
    return ranks, inside // plan.micro_slots_per_rank


def _read_samples(
    config: InspectConfig,
    training: TrainConfig,
    reader: Reader,
    order: Order,
    plan: BatchPlan,
    *,
    epoch: int,
    step_of_epoch: int,
) -> list[Sample]:
    numbers = select_slots(config, plan)
    slots = order.slots_at(epoch=epoch, positions=step_of_epoch * order.batch_size + numbers)
    images_BHWC = torch.empty((len(slots), *reader.image_shape), dtype=torch.uint8)
    step = config.step - 1
    reader.start(iter([(step, slots.sample_ids)]))
    labels = reader.fill(slots, epoch=epoch, out=images_BHWC)
    if (noise := build_label_noise(training.data, reader.data_set)) is not None:
        labels = noise.applied(slots.sample_ids, labels)
    # Before the step is finished: after it, shards of a cache may go.
    sources = _sources_of(reader, slots)
    reader.finish(step)
    augmentation = build_augmentation(training.augment, seed=training.seed, is_cropped=reader.data_set.packed is None)
    keyed: dict[str, Any] = {"positions_B": torch.from_numpy(slots.positions), "seed": training.seed, "epoch": epoch}
    after_BHWC = augmentation.apply(images_BHWC, **keyed)
    own_B = augmentation.own_shares(**keyed)
    ranks, micros = _places(config, plan, numbers)
    has_targets = reader.data_set.task is Task.regression
    return [
        Sample(
            slot=int(numbers[row]),
            rank=int(ranks[row]),
            micro=int(micros[row]),
            sample_id=int(slots.sample_ids[row]),
            labels=() if has_targets else tuple(int(x) for x in np.atleast_1d(labels[row]) if x != NO_LABEL),
            targets=tuple(labels[row].tolist()) if has_targets else (),
            is_padding=not slots.weights[row],
            read_HWC=images_BHWC[row].numpy(),
            after_HWC=after_BHWC[row].numpy(),
            own_frac=None if own_B is None else float(own_B[row]),
            **sources[row],
        )
        for row in range(len(slots))
    ]


def _sources_of(reader: Reader, slots: Slots) -> list[dict[str, Any]]:
    """Return shard, record, source key and stored image of each slot's sample."""
    shards = reader.split.shards
    is_mixed = len({shard.path.parent for shard in shards}) > 1
    ends = np.cumsum([shard.num_samples for shard in shards])
    numbers = np.searchsorted(ends, slots.sample_ids, side="right").tolist()
    rows = {
        number: read_index(shards[number].index_path, num_samples=shards[number].num_samples) for number in set(numbers)
    }
    sources = []
    for number, sample_id in zip(numbers, slots.sample_ids.tolist(), strict=True):
        shard = shards[number]
        record = sample_id - int(ends[number]) + shard.num_samples
        row: Any = rows[number][record]
        name = plain_name(shard.path)
        sources.append(
            {
                "shard": f"{shard.path.parent.parent.name}/{name}" if is_mixed else name,
                "record": record,
                "source_key": bytes(row["source_key"]).decode("utf-8", "replace"),
                "before_HWC": None if reader.data_set.packed else _stored_image(reader.split, shard, row),
            }
        )
    return sources


def _stored_image(split: Split, shard: ShardEntry, row: Any) -> Pixels | None:
    """Return the whole image of an encoded record, where it can be had without the reader."""
    where = {"offset": int(row["image_offset"]), "size_bytes": int(row["image_bytes"])}
    location = str(shard.path.parent) if shard.path.is_file() else split.shards_at
    if int(row["height"]) * int(row["width"]) > MAX_STORED_PIXELS or location is None:
        return None
    try:
        store = open_store(location)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(Image.open(io.BytesIO(store.read_at(shard.path.name, **where))).convert("RGB"))
    except (UserError, OSError, ValueError, SyntaxError):  # the reader has shown it, so it is worth no more than this
        return None


def _refuse_other_data(config: InspectConfig, training: TrainConfig, reader: Any) -> None:
    """Refuse data whose batches are not the run's."""
    stored = read_json(Path(config.run or "") / RUN_FILE)["fingerprint"]
    if difference := first_difference(stored, fingerprint_of(training, reader)):
        name, old, new = difference
        old, new = str(old)[:12], str(new)[:12]  # checksums are long
        raise UserError(
            f"data.path={training.data.path}: not what {config.run} was trained on: {name} was {old}, now {new}"
        )


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
