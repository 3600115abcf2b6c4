"""What watches a run: its log with the tracker that the config names, and the callbacks that measure and draw.

watching = open_watching(config, world, run, opened, data=data, model=module.model)
trainer = build_trainer(callbacks=[*watching.callbacks, ...], ...)
watching.samples.evaluate_last(...)
"""

from __future__ import annotations

import dataclasses
import functools
import os
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec

import pytorch_lightning as pl
from torch import nn

from pipeline.config import TrainConfig
from pipeline.data.loader import BatchLoader
from pipeline.data.stream import StreamOrder
from pipeline.logger_config import LoggerConfig, TensorBoardConfig, WandbConfig
from pipeline.planning.flop import training_flop
from pipeline.run_cockpit import build_noise_watch, open_cockpit
from pipeline.run_data import RunData
from pipeline.run_folder import Run
from pipeline.shards.errors import UserError
from pipeline.shards.task import Task
from pipeline.track.cockpit import Cockpit
from pipeline.track.drawing import Drawing
from pipeline.track.eval_pictures import EvaluationPictures
from pipeline.track.first_layer import FirstLayerPictures
from pipeline.track.follower import FollowerOptions, start_follower
from pipeline.track.gap import GeneralisationGap
from pipeline.track.layer_watch import LayerWatch
from pipeline.track.loss_limit import LossLimit
from pipeline.track.metric_log import MetricLog
from pipeline.track.recorder import Recorder
from pipeline.track.sample_pictures import AugmentedPicture
from pipeline.track.sample_tracking import SampleTracking
from pipeline.track.utilisation import Utilisation
from pipeline.track_config import TrackConfig
from pipeline.trainer_config import Precision
from pipeline.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """What watches a run on this rank; `metric_log` is None on every rank but 0.

    Attributes:
        callbacks: all of it that looks on while the run trains, in the order in which it must.
    """

    metric_log: MetricLog | None
    recorder: Recorder
    cockpit: Cockpit
    samples: SampleTracking
    callbacks: list[pl.Callback]


def open_watching(
    config: TrainConfig, world: World, run: Run, opened: ExitStack, *, data: RunData, model: nn.Module
) -> Watching:
    """Return what watches a run that starts or goes on; `opened` closes it."""
    metric_log = open_metric_log(config, run, world_size=world.size) if world.rank == 0 else None
    if metric_log is not None:
        opened.callback(metric_log.close)
    samples = build_sample_tracking(config, metric_log=metric_log, loader=data.train, val_loader=data.val)
    opened.callback(samples.close)
    recorder = Recorder(
        metric_log=metric_log,
        loader=data.train,
        utilisation=Utilisation(
            count_flop=functools.partial(training_flop, model),
            stated_flops_per_s=config.track.peak_flops_per_s,
            bf16=config.trainer.precision is Precision.bf16,
        ),
        log_every_steps=config.trainer.log_every_steps,
        images_per_step=data.images_per_step,
        loss_limit=LossLimit(config.trainer.max_loss_ratio),
    )
    cockpit = open_cockpit(config, world, data)
    callbacks = [
        recorder,
        *build_tracking(config.track, metric_log=metric_log, loader=data.train),
        *build_noise_watch(config, cockpit, metric_log=metric_log),
        *samples.callbacks,
    ]
    return Watching(metric_log=metric_log, recorder=recorder, cockpit=cockpit, samples=samples, callbacks=callbacks)


def require_tracker(config: LoggerConfig) -> None:
    """Refuse a tracker that is not installed.

    Raises:
        UserError: logger=tensorboard without the package.
    """
    if isinstance(config, TensorBoardConfig) and find_spec("tensorboard") is None:
        raise UserError(
            "logger=tensorboard: tensorboard is not installed; install it with"
            " `.venv/bin/python -m pip install -c constraints.txt tensorboard`, or choose logger=wandb or logger=none"
        )


def open_metric_log(config: TrainConfig, run: Run, *, world_size: int) -> MetricLog:
    """Return the log of a run that starts or goes on, followed by its tracker; only rank 0 may call this."""
    options = follower_options(config.logger, run, world_size=world_size)
    return MetricLog(
        run.folder,
        resume_step=run.finished_steps,
        open_view=None if options is None else lambda: start_follower(options),
    )


def follower_options(config: LoggerConfig, run: Run, *, world_size: int) -> FollowerOptions | None:
    """Return what the tracker's process is told; None: there is none."""
    if not isinstance(config, WandbConfig | TensorBoardConfig):
        return None
    options = FollowerOptions(
        folder=str(run.folder),
        tracker="tensorboard",
        finish_s=config.finish_s,
        world_size=world_size,
        parent=os.getpid(),
    )
    if isinstance(config, WandbConfig):
        return dataclasses.replace(
            options, tracker="wandb", mode=config.mode.name, project=config.project, entity=config.entity
        )
    return options


def build_tracking(config: TrackConfig, *, metric_log: MetricLog | None, loader: BatchLoader) -> list[pl.Callback]:
    """Return the callbacks that watch a run, on every rank; `metric_log` is None on every rank but 0."""
    watching: list[pl.Callback] = []
    if config.layers_every_steps is not None:
        watching.append(LayerWatch(metric_log=metric_log, every_steps=config.layers_every_steps))
    if config.pictures:
        watching.append(FirstLayerPictures(metric_log=metric_log, image_shape=loader.reader.image_shape))
    return watching


def build_sample_tracking(
    config: TrainConfig, *, metric_log: MetricLog | None, loader: BatchLoader, val_loader: BatchLoader
) -> SampleTracking:
    """Return what watches samples, on every rank.

    Of a stream, which shows each image once, there is no gap; of a regression, which has no classes, no picture.
    """
    drawing = Drawing()
    inputs = pictures = gap = None
    if config.track.pictures and loader.reader.data_set.task is not Task.regression:
        inputs = AugmentedPicture(metric_log=metric_log, drawing=drawing, reader=loader.reader)
        classes = loader.reader.data_set.classes
        pictures = EvaluationPictures(metric_log=metric_log, drawing=drawing, classes=classes)
    if config.track.gap and not isinstance(loader.order, StreamOrder):
        is_bf16 = config.trainer.precision is Precision.bf16
        gap = GeneralisationGap(metric_log=metric_log, loader=loader, val_loader=val_loader, autocast=is_bf16)
    return SampleTracking(inputs=inputs, pictures=pictures, gap=gap, drawing=drawing)
