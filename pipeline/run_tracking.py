"""What watches a run: its log with the tracker that the config names, and the callbacks that measure and draw.

metric_log = open_metric_log(config, run)                                   # on rank 0
callbacks += build_tracking(config.track, metric_log=metric_log, loader=train_loader)   # on every rank
"""

from __future__ import annotations

import logging

import pytorch_lightning as pl

from pipeline.config import TrainConfig, to_stored
from pipeline.data.loader import BatchLoader
from pipeline.logger_config import WandbConfig
from pipeline.run_folder import Run
from pipeline.track.first_layer import FirstLayerPictures
from pipeline.track.layer_watch import LayerWatch
from pipeline.track.metric_log import MetricLog, Tracker
from pipeline.track.wandb_tracker import WandbTracker
from pipeline.track_config import TrackConfig

log = logging.getLogger(__name__)


def open_metric_log(config: TrainConfig, run: Run) -> MetricLog:
    """Return the log of a run that starts or goes on; only rank 0 may call this."""
    tracker: Tracker | None = None
    if isinstance(config.logger, WandbConfig):
        try:
            tracker = WandbTracker(
                run.folder, mode=config.logger.mode.name, project=config.logger.project, config=to_stored(config)
            )
        except Exception as error:  # whatever a tracker raises must not end a run
            log.warning("wandb could not start (%s); metrics.jsonl is written", error)
    return MetricLog(run.folder, resume_step=run.finished_steps, tracker=tracker)


def build_tracking(config: TrackConfig, *, metric_log: MetricLog | None, loader: BatchLoader) -> list[pl.Callback]:
    """Return the callbacks that watch a run, on every rank; `metric_log` is None on every rank but 0."""
    watching: list[pl.Callback] = []
    if config.layers_every_steps is not None:
        watching.append(LayerWatch(metric_log=metric_log, every_steps=config.layers_every_steps))
    if config.pictures:
        watching.append(FirstLayerPictures(metric_log=metric_log, image_shape=loader.reader.image_shape))
    return watching
