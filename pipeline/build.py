"""From checked configs to objects: the one place where a config class is matched to a constructor.

data = open_data(config.data, world)
plan = plan_steps(config, num_samples=data.train.num_samples)
module = build_module(config, data, plan)
"""

from __future__ import annotations

import functools
import logging
import math
from typing import assert_never

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import nn

from pipeline.config import (
    AdamWConfig,
    BottleneckMlpConfig,
    ConstantConfig,
    CosineConfig,
    CrossEntropyConfig,
    Duration,
    LogisticRegressionConfig,
    MeanSquaredErrorConfig,
    MlpConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    Precision,
    ScheduleConfig,
    SgdConfig,
    TrainConfig,
    Unit,
)
from pipeline.data.order import FullOrder
from pipeline.data.window import WindowOrder
from pipeline.data_config import AugmentConfig, ResizedCropConfig
from pipeline.model.mlp import bottleneck_mlp, mlp
from pipeline.shards.keyed import make_key
from pipeline.shards.manifest import DataSet
from pipeline.training.checkpoint import AtomicCheckpointIO
from pipeline.training.module import Augmentation, ClassifierModule, StepPlan
from pipeline.training.objective import Objective, cross_entropy, mean_squared_error
from pipeline.training.optim import parameter_groups
from pipeline.training.schedule import rate_factor
from pipeline.world import World

log = logging.getLogger(__name__)

AUTO_CHECK_BYTES = 4 << 30
# Where nothing was decoded in preparation there are no statistics; pixels are then scaled to -1..1.
UNMEASURED_MEAN = UNMEASURED_STD = 127.5
# The side that encoded images are brought to where none is asked for: that of the bottleneck MLP's presets.
ENCODED_RESOLUTION = 64

TrainingOrder = FullOrder | WindowOrder


def plan_steps(config: TrainConfig, *, steps_per_epoch: int, micro_batches: int) -> StepPlan:
    """Return the number of updates, and the learning rate of each, as pure functions of config and data."""
    total_steps = config.trainer.max_epochs * steps_per_epoch
    if config.trainer.max_steps is not None:
        total_steps = min(total_steps, config.trainer.max_steps)
    warmup_steps = duration_steps(config.schedule.warmup, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    shape, final_frac = _shape_of(config.schedule)

    def rate_at(step: int) -> float:
        return config.optimizer.rate * rate_factor(
            step=step, total_steps=total_steps, warmup_steps=warmup_steps, shape=shape, final_frac=final_frac
        )

    return StepPlan(
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        micro_batches=micro_batches,
        rate_at=rate_at,
        clip_norm=config.trainer.clip_norm,
    )


def duration_steps(duration: Duration, *, steps_per_epoch: int, total_steps: int) -> int:
    """Return a duration in updates, rounded."""
    match duration.unit:
        case Unit.steps:
            return round(duration.value)
        case Unit.epochs:
            return round(duration.value * steps_per_epoch)
        case Unit.frac:
            return round(duration.value * total_steps)
    assert_never(duration.unit)


def _shape_of(config: ScheduleConfig) -> tuple[str, float]:
    match config:
        case CosineConfig():
            return "cosine", config.final_frac
        case ConstantConfig():
            return "constant", 1.0
    raise TypeError(f"no schedule for {type(config).__name__}")


def build_model(config: ModelConfig, *, in_features: int, num_classes: int, seed: int) -> nn.Module:
    """Return the model; its initial weights are a function of the seed."""
    torch.manual_seed(make_key("weights", seed) >> 1)
    match config:
        case LogisticRegressionConfig():
            return mlp(in_features=in_features, widths=[], num_classes=num_classes)
        case MlpConfig():
            return mlp(
                in_features=in_features,
                widths=config.widths,
                num_classes=num_classes,
                activation=config.activation.name,
                norm=config.norm.name,
                dropout=config.dropout,
            )
        case BottleneckMlpConfig():
            return bottleneck_mlp(
                in_features=in_features,
                depth=config.depth,
                width=config.width,
                num_classes=num_classes,
                expansion=config.expansion,
                dropout=config.dropout,
            )
    raise TypeError(f"no model for {type(config).__name__}")


def build_objective(config: ObjectiveConfig) -> tuple[Objective, Objective]:
    """Return the objectives of training and of evaluation, where the second smooths no labels."""
    match config:
        case CrossEntropyConfig():
            return functools.partial(cross_entropy, label_smoothing=config.label_smoothing), cross_entropy
        case MeanSquaredErrorConfig():
            return mean_squared_error, mean_squared_error
    raise TypeError(f"no objective for {type(config).__name__}")


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser over the model's parameters."""
    groups = parameter_groups(model, weight_decay=config.weight_decay)
    match config:
        case SgdConfig():
            return torch.optim.SGD(groups, lr=config.rate, momentum=config.momentum, nesterov=config.nesterov)
        case AdamWConfig():
            return torch.optim.AdamW(groups, lr=config.rate, betas=(config.beta1, config.beta2))
    raise TypeError(f"no optimizer for {type(config).__name__}")


def build_augmentation(config: AugmentConfig) -> Augmentation:
    """Return what is done to training images on their device; a resized crop and its flip are made by the decoder."""
    if isinstance(config, ResizedCropConfig):
        return Augmentation(flip=False, crop_padding=0)
    return Augmentation(flip=config.flip, crop_padding=config.crop_padding)


def build_module(
    config: TrainConfig, data_set: DataSet, plan: StepPlan, *, image_shape: tuple[int, int, int]
) -> ClassifierModule:
    """Return the Lightning module for a data set whose reader gives images of this height, width and channels."""
    model = build_model(
        config.model, in_features=math.prod(image_shape), num_classes=data_set.num_classes, seed=config.seed
    )
    if config.trainer.compile:
        model.compile()
    objective, eval_objective = build_objective(config.objective)
    statistics = data_set.statistics
    channels = image_shape[2]
    mean = statistics.mean if statistics else (UNMEASURED_MEAN,) * channels
    # A channel that never varies is left at 0 rather than divided by 0.
    std = tuple(value or 1.0 for value in statistics.std) if statistics else (UNMEASURED_STD,) * channels
    return ClassifierModule(
        model,
        objective=objective,
        eval_objective=eval_objective,
        make_optimizer=functools.partial(build_optimizer, config.optimizer),
        plan=plan,
        augmentation=build_augmentation(config.augment),
        mean=mean,
        std=std,
        seed=config.seed,
    )


def build_trainer(
    *, world: World, precision: Precision, callbacks: list[pl.Callback], plan: StepPlan | None = None
) -> pl.Trainer:
    """Return a Lightning trainer that logs, saves and draws nothing by itself; callbacks do."""
    strategy: Strategy
    io = AtomicCheckpointIO()
    if world.size > 1:
        strategy = DDPStrategy(
            process_group_backend="nccl" if world.cuda else "gloo", gradient_as_bucket_view=True, checkpoint_io=io
        )
    else:
        strategy = SingleDeviceStrategy("cuda:0" if world.cuda else "cpu", checkpoint_io=io)
    return pl.Trainer(
        accelerator="cuda" if world.cuda else "cpu",
        devices=world.local_size,
        num_nodes=world.size // world.local_size,
        strategy=strategy,
        precision="bf16-mixed" if precision is Precision.bf16 else "32-true",
        max_epochs=-1,
        max_steps=plan.total_steps if plan else -1,
        accumulate_grad_batches=plan.micro_batches if plan else 1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=True,
    )
