"""A run's batch-size cockpit: opened before training with what the config says, closed after it with what was measured.

cockpit = open_cockpit(config, world, data)
callbacks += build_noise_watch(config, cockpit, metric_log=metric_log)          # training notes the noise scale in it
summary["batch_advice"] = close_cockpit(cockpit, config, module, recorder=recorder, metric_log=metric_log)
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytorch_lightning as pl
import torch

from pipeline.build_data import BatchPlan
from pipeline.build_trainer import how_updated
from pipeline.config import TrainConfig
from pipeline.data.memory_room import available_bytes
from pipeline.plan_config import PlanConfig
from pipeline.planning.data_facts import DataFacts
from pipeline.planning.memory import largest_slots
from pipeline.planning.planned import RankStudy
from pipeline.planning.rows import bytes_text
from pipeline.run_data import RunData
from pipeline.track.bounds import LEAST_TRAINED_S, find_network_bound
from pipeline.track.cockpit import Bound, Cockpit
from pipeline.track.metric_log import MetricLog
from pipeline.track.noise import NoiseScaleWatch
from pipeline.track.recorder import Recorder
from pipeline.trainer_config import Device
from pipeline.training.module import ClassifierModule
from pipeline.world import World


def open_cockpit(config: TrainConfig, world: World, data: RunData) -> Cockpit:
    """Return the cockpit of a run that is about to train; the memory that is free now is what it may have."""
    facts = DataFacts(
        title=data.data_set.name,
        shard_counts=(),
        shard_bytes=np.zeros(0, dtype=np.int64),
        image_shape=data.image_shape,
        num_classes=data.data_set.num_classes,
        task=data.data_set.task,
    )
    room_bytes = torch.cuda.mem_get_info()[0] if world.cuda else available_bytes() // world.local_size
    find_memory = functools.partial(memory_bound, config, world, batch=data.batch, data=facts, room_bytes=room_bytes)
    is_off = config.track.noise_scale_every_steps is None
    return Cockpit(
        images=data.images_per_step,
        num_ranks=world.size,
        find_memory=find_memory,
        unmeasured="track.noise_scale_every_steps=null" if is_off else None,
    )


def build_noise_watch(config: TrainConfig, cockpit: Cockpit, *, metric_log: MetricLog | None) -> list[pl.Callback]:
    """Return the callback that measures the noise scale, if it is to be; of every rank."""
    if config.track.noise_scale_every_steps is None:
        return []
    watch = NoiseScaleWatch(
        metric_log=metric_log,
        cockpit=cockpit,
        every_steps=config.track.noise_scale_every_steps,
        log_every_steps=config.trainer.log_every_steps,
    )
    return [watch]


def close_cockpit(
    cockpit: Cockpit,
    config: TrainConfig,
    module: ClassifierModule,
    *,
    recorder: Recorder,
    metric_log: MetricLog | None,
) -> str:
    """Measure what the network says, after training and on all ranks together; log the cockpit; return its advice."""
    if config.trainer.measure_bound:
        cockpit.network = find_network_bound(recorder, module, how=how_updated(config.trainer))
    else:
        cockpit.network = Bound(images=None, source="trainer.measure_bound=false")
    if metric_log is not None:
        if recorder.trained_s >= LEAST_TRAINED_S:
            cockpit.look_at_memory()
        cockpit.log(metric_log, step=module.plan.total_steps)
    return cockpit.advice


def memory_bound(config: TrainConfig, world: World, *, batch: BatchPlan, data: DataFacts, room_bytes: int) -> Bound:
    """Return the most images that all ranks together hold in one pass, as the planner has it."""
    chosen = {field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)}
    if not world.cuda:
        chosen["trainer"] = dataclasses.replace(config.trainer, device=Device.cpu)
    study = RankStudy(PlanConfig(**chosen, ranks=world.size), data, batch)

    def peak_at(slots: int) -> int:
        return study.memory(slots=slots).peak_bytes

    slots = largest_slots(peak_at, room_bytes=room_bytes, start=batch.micro_slots_per_rank)
    return Bound(images=slots * world.size, source=f"planned, of {bytes_text(room_bytes)} a rank that were free")
