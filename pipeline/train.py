"""`python -m pipeline.train ...`: train one run, on this process or under torchrun. `--help` lists every option."""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
import time
import warnings
from contextlib import ExitStack, nullcontext
from typing import Any

import torch

from pipeline.build import build_module
from pipeline.build_data import (
    TrainingOrder,
    Wanted,
    batches_together,
    build_crop,
    build_eval_loader,
    build_order,
    open_splits,
    plan_batch,
    shard_counts_of,
)
from pipeline.build_optimizer import plan_steps
from pipeline.build_trainer import build_trainer, how_updated, is_fsdp, prepare_model
from pipeline.compose import compose, help_text
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.data.datamodule import PackedDataModule
from pipeline.data.loader import BatchLoader
from pipeline.data.reader import Reader
from pipeline.data.stream import StreamOrder
from pipeline.data_config import FullOrderConfig
from pipeline.evaluate import metrics_of
from pipeline.planning.flop import training_flop
from pipeline.run_callbacks import build_callbacks
from pipeline.run_cockpit import build_noise_watch, close_cockpit, open_cockpit
from pipeline.run_folder import (
    SUMMARY_FILE,
    Run,
    describe_machine,
    holds_run,
    open_run,
    read_json,
)
from pipeline.run_text import start_text, summary_text
from pipeline.run_tracking import build_sample_tracking, build_tracking, open_metric_log, require_tracker
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.publish import publish_json
from pipeline.track.bounds import find_bound
from pipeline.track.loss_limit import LossLimit
from pipeline.track.recorder import Recorder
from pipeline.track.report.run_page import write_report_if_possible
from pipeline.track.utilisation import Utilisation
from pipeline.trained import start_from
from pipeline.trainer_config import Precision
from pipeline.training.checkpoint_callback import CheckpointCallback
from pipeline.training.stop import Stopped, StopSignals
from pipeline.world import World, join_world, launch_id, leave_world, num_restarts

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
    require_tracker(config.logger)
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
    # Of a model that will be sharded rank 0 alone holds the weights, until each has its part of them.
    holds_weights = world.rank == 0 or not is_fsdp(config.trainer, world)
    module = build_module(config, data_set, plan, image_shape=train_reader.image_shape, holds_weights=holds_weights)
    train_loader = BatchLoader(
        train_reader,
        order,
        rank=world.rank,
        world_size=world.size,
        first_step=lambda: module.finished_steps,
        micro_slots=batch_plan.micro_slots_per_rank,
        prefetch=config.data.prefetch,
        together=batches_together(train_reader, slots=batch_plan.micro_slots_per_rank),
        pin=world.cuda,
    )
    val_loader = build_eval_loader(
        val_reader, slots_per_rank=config.evaluation.slots_per_rank, prefetch=config.data.prefetch, world=world
    )
    opened.callback(train_loader.close)
    opened.callback(val_loader.close)

    def get_ready(first_step: int) -> None:
        if config.data.stream is None:
            world.agree_all(lambda: train_loader.get_ready(first_step))
            world.agree_all(lambda: val_loader.get_ready(0))

    is_new = world.agree(lambda: not holds_run(config.run_dir))
    if is_new:  # what does not fit is refused before the folder is made
        world.agree_all(lambda: start_from(config.init, module.model) if holds_weights else None)
        get_ready(0)
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
    if not is_new or run.finished_steps:
        get_ready(run.finished_steps)
    if run.checkpoint is None and not is_new:
        world.agree_all(lambda: start_from(config.init, module.model) if holds_weights else None)
    metric_log = open_metric_log(config, run, world_size=world.size) if world.rank == 0 else None
    if metric_log is not None:
        opened.callback(metric_log.close)
    samples = build_sample_tracking(config, metric_log=metric_log, loader=train_loader, val_loader=val_loader)
    opened.callback(samples.close)
    recorder = Recorder(
        metric_log=metric_log,
        loader=train_loader,
        utilisation=Utilisation(
            count_flop=functools.partial(training_flop, module.model),
            stated_flops_per_s=config.track.peak_flops_per_s,
            bf16=config.trainer.precision is Precision.bf16,
        ),
        log_every_steps=config.trainer.log_every_steps,
        images_per_step=min(batch_plan.slots, num_samples),
        loss_limit=LossLimit(config.trainer.max_loss_ratio),
    )
    cockpit = open_cockpit(
        config,
        world,
        batch=batch_plan,
        images=recorder.images_per_step,
        data_set=data_set,
        image_shape=train_reader.image_shape,
    )
    signals = StopSignals()
    parts = build_callbacks(
        config,
        world,
        run,
        model=module.model,
        watching=[
            recorder,
            *build_tracking(config.track, metric_log=metric_log, loader=train_loader),
            *build_noise_watch(config, cockpit, metric_log=metric_log),
            *samples.callbacks,
        ],
        fingerprint=fingerprint,
        signals=signals,
    )
    opened.callback(parts.checkpoints.writer.close)
    if world.rank == 0:
        sys.stdout.write(start_text(config, world, run.folder, order, module, total_steps=plan.total_steps))
        sys.stdout.flush()
    prepare_model(module.model, config.trainer)
    trainer = build_trainer(world=world, config=config.trainer, callbacks=parts.callbacks, plan=plan)
    datamodule = PackedDataModule(train=train_loader, val=val_loader)
    with signals:
        trainer.fit(module, datamodule=datamodule, ckpt_path=run.checkpoint, weights_only=True)
    world.agree(lambda: require_stored(parts.checkpoints, run, step=plan.total_steps))
    with nullcontext() if parts.average is None else parts.average.in_place(module.model):
        final = samples.evaluate_last(
            module,
            lambda: metrics_of(
                module, val_loader, world, precision=config.trainer.precision, by_class=config.track.pictures
            ),
            step=plan.total_steps,
        )
    bound = find_bound(recorder, module, how=how_updated(config.trainer)) if config.trainer.measure_bound else {}
    summary: dict[str, Any] = {
        "run_dir": str(run.folder),
        **final,
        "steps": plan.total_steps,
        # Of this process alone: a resumed run tells the speed since it was resumed.
        "rate/images_per_s": recorder.images_per_s,
        "rate/data_wait_frac": recorder.data_wait_frac,
        **recorder.utilisation.summary(images_per_s=recorder.images_per_s),
        **parts.checkpoints.writer.means(),
        **bound,
        "batch_advice": close_cockpit(cockpit, config, module, recorder=recorder, metric_log=metric_log),
        "wall_s": time.perf_counter() - started_s,
        "world_size": world.size,
        "parameters": sum(parameter.numel() for parameter in module.model.parameters()),
        "data": {"name": data_set.name, "paths": config.data.places, "train_samples": num_samples},
        **describe_machine(),
    }
    if world.rank == 0:
        publish_json(run.folder / SUMMARY_FILE, summary)
        if config.track.report:
            write_report_if_possible(run.folder)
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


def require_stored(checkpoints: CheckpointCallback, run: Run, *, step: int) -> None:
    """Refuse to call a run finished whose last checkpoint is not on the disk; only rank 0 may call this."""
    if (checkpoints.writer.stored_step or 0) < step:
        raise UserError(
            f"run_dir={run.folder}: trained to its last step, {step:,}, which could not be saved (see above):"
            " free some space, then type the same command again; it goes on from the last checkpoint"
        )


def quieten_libraries() -> None:
    """Leave out what libraries tell their own developers."""
    torch.set_float32_matmul_precision("high")
    for name in ("pytorch_lightning", "lightning_fabric", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch")


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
