"""What a run does beside its steps, in the order in which it must happen.

parts = build_callbacks(config, world, run, model=module.model, watching=[recorder], fingerprint=..., signals=signals)
trainer = build_trainer(callbacks=parts.callbacks, ...)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from torch import nn

from pipeline.config import TrainConfig
from pipeline.run_folder import CHECKPOINT_FOLDER, Run
from pipeline.track.sample_id_log import SampleIdLog
from pipeline.trainer_config import CheckpointConfig
from pipeline.training.checkpoint_callback import CheckpointCallback, Keeping
from pipeline.training.ema import WeightAverage
from pipeline.training.frozen_body import FrozenBody
from pipeline.training.initial import freeze_body
from pipeline.training.stop import StopCallback, StopSignals
from pipeline.training.watchdog import Watchdog
from pipeline.world import World, open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParts:
    """The callbacks, and those of them that are asked something after training."""

    callbacks: list[pl.Callback]
    checkpoints: CheckpointCallback
    average: WeightAverage | None


def build_callbacks(
    config: TrainConfig,
    world: World,
    run: Run,
    *,
    model: nn.Module,
    watching: list[pl.Callback],
    fingerprint: dict[str, Any],
    signals: StopSignals,
) -> RunParts:
    """Return the callbacks of a run; with `init.freeze_body` the model's body is frozen."""
    callbacks: list[pl.Callback] = [*watching]
    if config.init.freeze_body:
        freeze_body(model)
        callbacks.append(FrozenBody(model))
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
    callbacks += [checkpoints, StopCallback(signals, checkpoints)]
    if config.trainer.hang_s is not None:
        watchdog = Watchdog(
            rank=world.rank, size=world.size, deadline_s=config.trainer.hang_s, signals=signals, store=open_store()
        )
        callbacks.insert(0, watchdog)
    return RunParts(callbacks=callbacks, checkpoints=checkpoints, average=average)


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
