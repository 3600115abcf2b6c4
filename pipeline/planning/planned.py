"""What the sections of a plan look at: options, data, order, and one rank's share of a step.

planned = Planned(config=config, data=facts, order=order, batch=batch, study=RankStudy(...))
planned.study.memory(way=Way.fsdp, recomputed=True).peak_bytes
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.build_data import BatchPlan
from pipeline.build_model import build_model
from pipeline.build_objective import build_objectives
from pipeline.build_optimizer import build_optimizer
from pipeline.build_order import TrainingOrder
from pipeline.data.host_load import HostLoad
from pipeline.data.loader import num_buffers, worth_together
from pipeline.model.blocks import shardable_units, wrappable_blocks
from pipeline.optimizer_config import AdamWConfig, SgdConfig
from pipeline.plan_config import PlanConfig
from pipeline.planning.autocast import cast_products
from pipeline.planning.data_facts import DataFacts
from pipeline.planning.gathering import Gathering
from pipeline.planning.memory import ModelBytes, RankMemory, StepBytes, Way, rank_memory
from pipeline.planning.rehearsal import META, Passes, Rehearsal, Task, sizes
from pipeline.shards.task import Task as DataTask
from pipeline.trainer_config import Device, GradientCompression, Precision, RankStrategy
from pipeline.training.initial import freeze_body
from pipeline.training.metrics import MetricSums
from pipeline.training.recompute import checkpoint_activations

# Batches on a GPU: the one that is worked on and the one before, which Lightning lets go when it has the next.
DEVICE_BATCHES = 2
# Classes of one image, of several: for the planner's labels.
LABELS_A_SAMPLE = 8


class RankStudy:
    """One rank's share of a step, rehearsed on the meta device when it is first asked for."""

    def __init__(self, config: PlanConfig, data: DataFacts, batch: BatchPlan) -> None:
        self.config, self.data, self.batch = config, data, batch
        self.recomputed = config.trainer.activation_checkpointing
        self.bf16 = config.trainer.precision is Precision.bf16
        self.on_cpu = config.trainer.device is Device.cpu
        self.shard_ranks = config.trainer.shard_ranks or config.world_size
        self.rehearsal = functools.cache(self._rehearsal)

    @property
    def way(self) -> Way:
        """How the run shares the model."""
        if self.config.world_size == 1:
            return Way.plain
        return Way.fsdp if self.config.trainer.strategy is RankStrategy.fsdp else Way.ddp

    @property
    def model(self) -> nn.Module:
        return self.rehearsal(self.recomputed).model

    @functools.cached_property
    def blocks(self) -> list[nn.Module]:
        return wrappable_blocks(self.model)

    @property
    def image_bytes(self) -> int:
        return math.prod(self.data.image_shape)

    @property
    def flop_per_sample(self) -> float:
        """Of matrix products in training, those that are computed again included."""
        slots = self.batch.micro_slots_per_rank
        return self._passes(self.way, slots, recomputed=self.recomputed).product_flop / slots

    @property
    def moved_bytes(self) -> int:
        """What everything but the matrix products of an update's passes reads and writes."""
        passes = self._passes(self.way, self.batch.micro_slots_per_rank, recomputed=self.recomputed)
        return self.batch.micro_batches * passes.moved_bytes

    def memory(self, *, way: Way | None = None, recomputed: bool | None = None, slots: int | None = None) -> RankMemory:
        """Return the memory of a rank, as the run is or otherwise; `slots` are those of a micro-batch."""
        way, slots = way or self.way, slots or self.batch.micro_slots_per_rank
        recomputed = self.recomputed if recomputed is None else recomputed
        passes, rehearsal = self._passes(way, slots, recomputed=recomputed), self._rehearsal_of(way, self.recomputed)
        # Of a sharded model, gradients are in the passes only as they come.
        whole, gathered = (0, rehearsal.gathered_bytes) if way is Way.fsdp else (rehearsal.gradient_bytes, 0)
        step = StepBytes(
            saved=passes.saved_bytes - gathered,
            gathered=gathered,
            forward=passes.forward_bytes - whole,
            backward=passes.backward_bytes - whole,
            # Nothing is computed again where nothing is kept.
            evaluation=rehearsal.evaluation_bytes(slots=self.config.evaluation.slots_per_rank),
            images=self.images_bytes(slots) if self.on_cpu else DEVICE_BATCHES * slots * self.image_bytes,
        )
        model = self.model_bytes
        # On a GPU copies lie in the host's memory.
        return rank_memory(
            model,
            step,
            way=way,
            ranks=self.shard_ranks,
            copy=self.copy_bytes if self.on_cpu else 0,
            for_checkpoint=self._gathered_bytes if way is Way.fsdp else 0,
            compressed=model.gradients // 2 if way is Way.ddp and self._compresses else 0,
            zeroed=self.batch.micro_batches == 1,
            gradients_stay=self.config.checkpoint.every_steps is not None or self._ends_inside_epoch,
        )

    def images_bytes(self, slots: int) -> int:
        """Return what the loaders of training, from local shards, and of evaluation hold on a host, for one rank."""
        prefetch = self.config.data.prefetch
        training = num_buffers(prefetch=prefetch, together=worth_together(slots * self.image_bytes)) * slots
        evaluation = num_buffers(prefetch=prefetch) * self.config.evaluation.slots_per_rank
        return self.image_bytes * (training + evaluation)

    @property
    def copy_bytes(self) -> int:
        """Return what rank 0 keeps in its host's memory to write checkpoints from."""
        model = self.model_bytes
        return model.weights + model.state + model.average if self.config.checkpoint.background else 0

    @property
    def _compresses(self) -> bool:
        return self.config.trainer.gradient_compression is GradientCompression.bf16

    @property
    def _gathered_bytes(self) -> int:
        """Of a checkpoint of a sharded model, beside the copy: a tensor at a time goes into that.

        Ranks exchange what they gather in a buffer as large as the tensor.
        """
        model = self.model_bytes
        largest = max(_tensor_bytes(self.model))
        if self.config.checkpoint.background or not self.on_cpu:
            return 2 * largest
        return largest + model.weights + model.state + model.average

    @property
    def _ends_inside_epoch(self) -> bool:
        trainer, epoch_steps = self.config.trainer, max(1, self.data.num_samples // self.batch.slots)
        if trainer.max_steps is None or trainer.max_steps >= trainer.max_epochs * epoch_steps:
            return False
        return trainer.max_steps % epoch_steps != 0

    @functools.cached_property
    def model_bytes(self) -> ModelBytes:
        rehearsal = self.rehearsal(self.recomputed)
        averaged = self.config.ema.decay is not None
        return ModelBytes(
            weights=rehearsal.weight_bytes,
            gradients=rehearsal.gradient_bytes,
            state=rehearsal.state_bytes,
            average=rehearsal.weight_bytes if averaged else 0,
            # Of these torch has one kernel for the whole update, which holds nothing; not on the meta device.
            update=0 if isinstance(self.config.optimizer, SgdConfig | AdamWConfig) else rehearsal.update_bytes,
            noise=0 if self.config.gradient_noise.std is None else max(_tensor_bytes(self.model, trained=True)),
        )

    def _passes(self, way: Way, slots: int, *, recomputed: bool) -> Passes:
        zeroed = way is Way.plain and self.batch.micro_batches == 1
        return self._rehearsal_of(way, recomputed).passes(slots=slots, zeroed=zeroed)

    def _rehearsal_of(self, way: Way, recomputed: bool) -> Rehearsal:
        return self.rehearsal(recomputed, way is Way.fsdp)

    def _rehearsal(self, recomputed: bool, sharded: bool = False) -> Rehearsal:
        """Rehearse on whole weights, or on those that a sharded model gathers, which are in its precision already."""
        config, data = self.config, self.data
        in_features = math.prod(data.image_shape)
        with META:
            model = build_model(config.model, in_features=in_features, num_classes=data.num_classes, seed=config.seed)
        if sharded and self.bf16:
            model = model.bfloat16()
        copies = cast_products(model, on_cpu=self.on_cpu) if self.bf16 else None
        if recomputed:
            checkpoint_activations(wrappable_blocks(model))
        if config.init.freeze_body:
            freeze_body(model)
        gathering = None
        if sharded:
            gathering = Gathering(
                shardable_units(model),
                ranks=self.shard_ranks,
                reduced_itemsize=2 if self._compresses else 4,
                through_gloo=self.on_cpu,
            )
        return Rehearsal(
            model,
            make_optimizer=functools.partial(build_optimizer, config.optimizer),
            task=self._task(in_features),
            copies=copies,
            gathering=gathering,
        )

    def _task(self, in_features: int) -> Task:
        """Return the run's own objective and metrics."""
        has_targets = self.data.task is DataTask.regression
        objective = build_objectives(self.config.objective, task=self.data.task).training
        sums = MetricSums(META, has_classes=not has_targets)
        several = (self.data.num_classes,) if has_targets else ()
        if self.data.task is DataTask.multilabel:
            several = (LABELS_A_SAMPLE,)
        dtype = torch.float32 if has_targets else torch.int64
        is_mixed = self.config.augment.mixup_alpha is not None

        def losses(logits_BK: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            own_B = torch.empty(len(labels), device=META) if is_mixed and torch.is_grad_enabled() else None
            return objective(logits_BK, labels, own_B=own_B)

        return Task(
            in_features=in_features,
            make_labels=lambda slots: torch.empty((slots, *several), dtype=dtype, device=META),
            losses=losses,
            watch=lambda logits_BK, labels, losses_B: sums.add(logits_BK, labels, losses_B, torch.ones_like(losses_B)),
        )


def _tensor_bytes(model: nn.Module, *, trained: bool = False) -> list[int]:
    """Return the bytes of each parameter, or of those that are trained."""
    return [sizes([parameter]) for parameter in model.parameters() if parameter.requires_grad or not trained]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a section may look at; `loads` are of each host."""

    config: PlanConfig
    data: DataFacts
    order: TrainingOrder
    batch: BatchPlan
    loads: tuple[HostLoad, ...]
    study: RankStudy

    @property
    def busiest(self) -> HostLoad:
        """Of the host that reads most."""
        return max(self.loads, key=lambda load: load.read_bytes)

    @property
    def slots_per_rank(self) -> int:
        """Of a whole update."""
        return self.order.batch_size // self.config.world_size
