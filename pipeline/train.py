"""`python -m pipeline.train ...`: train one run, on this process or under torchrun. `--help` lists every option."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from contextlib import ExitStack, suppress
from typing import Any

import torch

from pipeline.build import build_module
from pipeline.build_optimizer import plan_steps
from pipeline.build_trainer import build_trainer, is_fsdp, prepare_model
from pipeline.compose import compose, help_text
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.data.datamodule import PackedDataModule
from pipeline.run_callbacks import build_callbacks
from pipeline.run_data import open_run_data
from pipeline.run_folder import SUMMARY_FILE, Run, holds_run, open_run, read_json
from pipeline.run_summary import end_run
from pipeline.run_text import start_text, summary_text
from pipeline.run_tracking import open_watching, require_tracker
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.trained import start_from
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


def prepare(options: list[str]) -> None:
    """Compose a run's config ahead: where runs are forked, what that takes is done once for all of the same groups."""
    with suppress(UserError):  # the run will say so
        compose("train", TRAIN_SCHEMAS, options)


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
    data = open_run_data(config, world, opened, first_step=lambda: module.finished_steps)
    plan = plan_steps(config, steps_per_epoch=data.order.steps_per_epoch, micro_batches=data.batch.micro_batches)
    # Of a model that will be sharded rank 0 alone holds the weights, until each has its part of them.
    holds_weights = world.rank == 0 or not is_fsdp(config.trainer, world)
    module = build_module(config, data.data_set, plan, image_shape=data.image_shape, holds_weights=holds_weights)
    is_new = world.agree(lambda: not holds_run(config.run_dir))
    if is_new:  # what does not fit is refused before the folder is made
        world.agree_all(lambda: start_from(config.init, module.model) if holds_weights else None)
        data.get_ready(world, first_step=0)
    run = world.agree(
        lambda: open_run(
            config,
            fingerprint=data.fingerprint,
            total_steps=plan.total_steps,
            launch=launch_id(),
            is_restart=num_restarts() > 0,
            opened=opened,
        )
    )
    if run.is_finished:
        return read_json(run.folder / SUMMARY_FILE)
    if not is_new or run.finished_steps:
        data.get_ready(world, first_step=run.finished_steps)
    if run.checkpoint is None and not is_new:
        world.agree_all(lambda: start_from(config.init, module.model) if holds_weights else None)
    watching = open_watching(config, world, run, opened, data=data, model=module.model)
    signals = StopSignals()
    parts = build_callbacks(
        config,
        world,
        run,
        model=module.model,
        watching=watching.callbacks,
        fingerprint=data.fingerprint,
        signals=signals,
    )
    opened.callback(parts.checkpoints.writer.close)
    if world.rank == 0:
        sys.stdout.write(start_text(config, world, run.folder, data.order, module, total_steps=plan.total_steps))
        sys.stdout.flush()
    prepare_model(module.model, config.trainer)
    trainer = build_trainer(world=world, config=config.trainer, callbacks=parts.callbacks, plan=plan)
    datamodule = PackedDataModule(train=data.train, val=data.val)
    with signals:
        trainer.fit(module, datamodule=datamodule, ckpt_path=run.checkpoint, weights_only=True)
    world.agree(lambda: require_stored(parts.checkpoints, run, step=plan.total_steps))
    return end_run(config, world, run, module=module, data=data, watching=watching, parts=parts, started_s=started_s)


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
