"""What watches a run: its log with the tracker that the config names, and the callbacks that measure and draw.

metric_log = open_metric_log(config, run, world_size=world.size)            # on rank 0
callbacks += build_tracking(config.track, metric_log=metric_log, loader=train_loader)   # on every rank
callbacks += build_sample_tracking(config, metric_log=metric_log, ...).callbacks
"""

from __future__ import annotations

import dataclasses
import os
from importlib.util import find_spec

import pytorch_lightning as pl

from pipeline.config import TrainConfig
from pipeline.data.loader import BatchLoader
from pipeline.data.stream import StreamOrder
from pipeline.logger_config import LoggerConfig, TensorBoardConfig, WandbConfig
from pipeline.run_folder import Run
from pipeline.shards.errors import UserError
from pipeline.track.drawing import Drawing
from pipeline.track.eval_pictures import EvaluationPictures
from pipeline.track.first_layer import FirstLayerPictures
from pipeline.track.follower import FollowerOptions, start_follower
from pipeline.track.gap import GeneralisationGap
from pipeline.track.layer_watch import LayerWatch
from pipeline.track.metric_log import MetricLog
from pipeline.track.sample_pictures import AugmentedPicture
from pipeline.track.sample_tracking import SampleTracking
from pipeline.track_config import TrackConfig
from pipeline.trainer_config import Precision


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
    """Return what watches samples, on every rank; of a stream, which shows each image once, there is no gap."""
    drawing = Drawing()
    inputs = pictures = gap = None
    if config.track.pictures:
        inputs = AugmentedPicture(metric_log=metric_log, drawing=drawing, reader=loader.reader)
        classes = loader.reader.data_set.classes
        pictures = EvaluationPictures(metric_log=metric_log, drawing=drawing, classes=classes)
    if config.track.gap and not isinstance(loader.order, StreamOrder):
        is_bf16 = config.trainer.precision is Precision.bf16
        gap = GeneralisationGap(metric_log=metric_log, loader=loader, val_loader=val_loader, autocast=is_bf16)
    return SampleTracking(inputs=inputs, pictures=pictures, gap=gap, drawing=drawing)
