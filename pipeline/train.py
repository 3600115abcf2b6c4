"""`python -m pipeline.train ...`: train one run, on this process or under torchrun. `--help` lists every option."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
import warnings
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from pipeline.build import build_module
from pipeline.build_data import (
    TrainingOrder,
    Wanted,
    build_crop,
    build_eval_loader,
    build_order,
    open_splits,
    plan_batch,
    shard_counts_of,
)
from pipeline.build_optimizer import peak_rate, plan_steps
from pipeline.build_trainer import build_trainer, prepare_model
from pipeline.compose import compose, help_text
from pipeline.config import TRAIN_SCHEMAS, TrainConfig, WandbConfig, to_stored
from pipeline.data.datamodule import PackedDataModule
from pipeline.data.loader import BatchLoader
from pipeline.data.reader import Reader
from pipeline.data.stream import StreamOrder
from pipeline.data_config import FullOrderConfig
from pipeline.evaluate import metrics_of
from pipeline.run_folder import (
    CHECKPOINT_FOLDER,
    SUMMARY_FILE,
    Run,
    describe_machine,
    holds_run,
    open_run,
    read_json,
)
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.publish import publish_json
from pipeline.track.metric_log import METRICS_FILE, MetricLog
from pipeline.track.recorder import Recorder, SampleIdLog
from pipeline.track.wandb_tracker import WandbTracker
from pipeline.trained import start_from
from pipeline.trainer_config import CheckpointConfig, Precision
from pipeline.training.checkpoint_callback import CheckpointCallback, Keeping
from pipeline.training.ema import WeightAverage
from pipeline.training.initial import FrozenBody, freeze_body
from pipeline.training.stop import StopCallback, Stopped, StopSignals
from pipeline.training.watchdog import Watchdog
from pipeline.world import World, join_world, launch_id, leave_world, num_restarts, open_store

SUMMARY = """Train a multi-layer perceptron from tar shards.

  python -m pipeline.train data.path=data/cifar10 model=mlp model.hidden=[512] batch.size=64
  torchrun --nproc-per-node 4 -m pipeline.train data.path=data/cifar10 run_dir=runs/four

Killed? Type the same command with the same run_dir again: it goes on from its last checkpoint."""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("train", TRAIN_SCHEMAS, summary=SUMMARY))
        return 0
    config: TrainConfig = compose("train", TRAIN_SCHEMAS, argv)
    quieten_libraries()
    world = join_world(config.trainer.device)
    logging.basicConfig(level=logging.INFO if world.rank == 0 else logging.ERROR, format="%(message)s")
    try:
        summary = train(config, world)
    except Stopped as stopped:
        if world.rank == 0:
            sys.stdout.write(f"\n{stopped}\n")
        return stopped.exit_code
    finally:
        leave_world()
    if world.rank == 0:
        sys.stdout.write(summary_text(summary))
    return 0


def train(config: TrainConfig, world: World) -> dict[str, Any]:
    """Train, evaluate, write the run folder, and return its summary.

    Raises:
        UserError: config, data and world do not fit together, or the run folder holds something else.
    """
    with ExitStack() as opened:
        return _train(config, world, opened)


def _train(config: TrainConfig, world: World, opened: ExitStack) -> dict[str, Any]:
    started_s = time.perf_counter()
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
    num_samples = train_reader.num_samples
    batch_plan = plan_batch(config, num_samples=num_samples, world_size=world.size)
    order: TrainingOrder
    if config.data.stream is not None:
        order = StreamOrder(num_samples=num_samples, batch_size=batch_plan.slots)
    else:
        order = build_order(
            config.order,
            shard_counts=shard_counts_of(train_reader),
            slots=batch_plan.slots,
            seed=config.seed,
            weights=config.data.weights,
        )
    plan = plan_steps(config, steps_per_epoch=order.steps_per_epoch, micro_batches=batch_plan.micro_batches)
    fingerprint = fingerprint_of(config, train_reader)
    module = build_module(config, data_set, plan, image_shape=train_reader.image_shape)
    is_new = world.agree(lambda: not holds_run(config.run_dir))
    if is_new:  # what does not fit is refused before the folder is made
        world.agree_all(lambda: start_from(config.init, module.model))
    run = world.agree(
        lambda: open_run(
            config,
            fingerprint=fingerprint,
            total_steps=plan.total_steps,
            launch=launch_id(),
            is_restart=num_restarts() > 0,
            opened=opened,
        )
    )
    if run.is_finished:
        return read_json(run.folder / SUMMARY_FILE)
    if run.checkpoint is None and not is_new:
        world.agree_all(lambda: start_from(config.init, module.model))

    train_loader = BatchLoader(
        train_reader,
        order,
        rank=world.rank,
        world_size=world.size,
        first_step=lambda: module.finished_steps,
        micro_slots=batch_plan.micro_slots_per_rank,
        prefetch=config.data.prefetch,
        pin=world.cuda,
    )
    val_loader = build_eval_loader(
        val_reader, slots_per_rank=config.evaluation.slots_per_rank, prefetch=config.data.prefetch, world=world
    )
    opened.callback(train_loader.close)
    opened.callback(val_loader.close)
    if config.data.stream is None:
        world.agree_all(lambda: train_loader.get_ready(run.finished_steps))
        world.agree_all(lambda: val_loader.get_ready(0))
    metric_log = _open_metric_log(config, run) if world.rank == 0 else None
    if metric_log is not None:
        opened.callback(metric_log.close)
    recorder = Recorder(
        metric_log=metric_log,
        loader=train_loader,
        log_every_steps=config.trainer.log_every_steps,
        images_per_step=min(batch_plan.slots, num_samples),
    )
    callbacks: list[pl.Callback] = [recorder]
    if config.init.freeze_body:
        freeze_body(module.model)
        callbacks.append(FrozenBody(module.model))
    if config.log_sample_ids:
        callbacks.append(SampleIdLog(run.folder, rank=world.rank, resume_step=run.finished_steps))
    average = None if config.ema.decay is None else WeightAverage(decay=config.ema.decay)
    if average is not None:
        callbacks.append(average)
    # After all others: a checkpoint says that everything before its step is written.
    checkpoints = CheckpointCallback(
        run.folder / CHECKPOINT_FOLDER,
        keeping=keeping_of(config.checkpoint),
        fingerprint=fingerprint,
        resume_step=run.finished_steps,
    )
    opened.callback(checkpoints.writer.close)
    signals = StopSignals()
    callbacks += [checkpoints, StopCallback(signals, checkpoints)]
    if config.trainer.hang_s is not None:
        watchdog = Watchdog(
            rank=world.rank, size=world.size, deadline_s=config.trainer.hang_s, signals=signals, store=open_store()
        )
        callbacks.insert(0, watchdog)
    if world.rank == 0:
        _announce(config, world, run, order, module, plan.total_steps)
    prepare_model(module.model, config.trainer)
    trainer = build_trainer(world=world, config=config.trainer, callbacks=callbacks, plan=plan)
    datamodule = PackedDataModule(train=train_loader, val=val_loader)
    with signals:
        trainer.fit(module, datamodule=datamodule, ckpt_path=run.checkpoint, weights_only=True)
    world.agree(lambda: require_stored(checkpoints, run, step=plan.total_steps))
    with nullcontext() if average is None else average.in_place(module.model):
        final = metrics_of(module, val_loader, world, precision=config.trainer.precision)
    autocast = config.trainer.precision is Precision.bf16
    bound = recorder.find_bound(module, autocast=autocast) if config.trainer.measure_bound else {}
    summary: dict[str, Any] = {
        "run_dir": str(run.folder),
        **{f"val/{key}": value for key, value in final.items()},
        "steps": plan.total_steps,
        # Of this process alone: a resumed run tells the speed since it was resumed.
        "rate/images_per_s": recorder.images_per_s,
        "rate/data_wait_frac": recorder.data_wait_frac,
        **checkpoints.writer.means(),
        **bound,
        "wall_s": time.perf_counter() - started_s,
        "world_size": world.size,
        "parameters": sum(parameter.numel() for parameter in module.model.parameters()),
        "data": {"name": data_set.name, "paths": config.data.places, "train_samples": num_samples},
        **describe_machine(),
    }
    if world.rank == 0:
        publish_json(run.folder / SUMMARY_FILE, summary)
    return summary


def fingerprint_of(config: TrainConfig, reader: Reader) -> dict[str, Any]:
    """Return what the order of samples depends on: a run goes on only with the same."""
    return {
        "data": reader.split.manifest_sha256,
        "order": type(config.order).__name__.removesuffix("OrderConfig").lower(),
        **{f"order.{name}": value for name, value in dataclasses.asdict(config.order).items()},
        "data.weights": config.data.weights,
        "batch.size": config.batch.size,
        "seed": config.seed,
    }


def keeping_of(config: CheckpointConfig) -> Keeping:
    """Return what `checkpoint` says of saving."""
    return Keeping(
        every_steps=config.every_steps,
        newest=config.keep,
        best=config.keep_best,
        metric=config.metric,
        lowest=config.lowest_is_best,
        background=config.background,
    )


def require_stored(checkpoints: CheckpointCallback, run: Run, *, step: int) -> None:
    """Refuse to call a run finished whose last checkpoint is not on the disk; only rank 0 may call this."""
    if (checkpoints.writer.stored_step or 0) < step:
        raise UserError(
            f"run_dir={run.folder}: trained to its last step, {step:,}, which could not be saved (see above):"
            " free some space, then type the same command again; it goes on from the last checkpoint"
        )


def summary_text(summary: dict[str, Any]) -> str:
    """Return the few lines that end a run."""
    folder = Path(summary["run_dir"])
    bounded = f"bounded by  {summary['bounded_by']}\n" if "bounded_by" in summary else ""
    ranks = "1 rank" if summary["world_size"] == 1 else f"{summary['world_size']} ranks"
    images = f"of {summary['val/samples']:,.0f} validation images"
    if "val/map_frac" in summary:
        quality = f"precision   {100 * summary['val/map_frac']:.2f} %, the mean over classes of the average, {images}"
    else:
        quality = f"accuracy    {100 * summary['val/top1_frac']:.2f} % {images}"
    return (
        f"\n{quality} (top-5 {100 * summary['val/top5_frac']:.2f} %, loss {summary['val/loss']:.4f})\n"
        f"speed       {summary['rate/images_per_s']:,.0f} images/s on {ranks},"
        f" {100 * summary['rate/data_wait_frac']:.2f} % of the time waiting for data,"
        f" {summary['wall_s']:.0f} s in all\n"
        f"{bounded}"
        f"run         {folder} ({METRICS_FILE}, {SUMMARY_FILE}, {CHECKPOINT_FOLDER}/)\n"
        f'next        make evaluate ARGS="run={folder}"\n'
    )


def quieten_libraries() -> None:
    """Leave out what libraries tell their own developers."""
    torch.set_float32_matmul_precision("high")
    for name in ("pytorch_lightning", "lightning_fabric", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch")


def _open_metric_log(config: TrainConfig, run: Run) -> MetricLog:
    tracker = None
    if isinstance(config.logger, WandbConfig):
        try:
            tracker = WandbTracker(
                run.folder, mode=config.logger.mode.name, project=config.logger.project, config=to_stored(config)
            )
        except Exception as error:  # whatever a tracker raises must not end a run
            logging.getLogger(__name__).warning("wandb could not start (%s); metrics.jsonl is written", error)
    return MetricLog(run.folder, resume_step=run.finished_steps, tracker=tracker)


def _announce(
    config: TrainConfig, world: World, run: Run, order: TrainingOrder, module: torch.nn.Module, total_steps: int
) -> None:
    parameters = sum(parameter.numel() for parameter in module.parameters())
    dropped = f", {order.num_dropped} of each epoch left out" if order.num_dropped else ""
    device = "GPU" if world.cuda else "CPU"
    sys.stdout.write(
        f"{' + '.join(config.data.places)}: {order.num_samples:,} images, batch {order.batch_size:,}{dropped}\n"
        f"{type(config.model).__name__.removesuffix('Config')}: {parameters / 1e6:.2f} million parameters,"
        f" {total_steps:,} steps on {world.size} {device} rank{'s' if world.size > 1 else ''} -> {run.folder}\n"
    )
    if config.optimizer.reference_batch is not None:
        sys.stdout.write(f"peak rate {peak_rate(config):.4g}, scaled from batch {config.optimizer.reference_batch:,}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
