"""From the groups `optimizer` and `schedule` to an optimiser, and to its updates: how many, at which rate."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import nn

from pipeline.config import TrainConfig
from pipeline.optimizer_config import (
    AdamWConfig,
    ConstantConfig,
    CosineConfig,
    Duration,
    OptimizerConfig,
    ScheduleConfig,
    SgdConfig,
    Unit,
)
from pipeline.training.module import StepPlan
from pipeline.training.optim import parameter_groups
from pipeline.training.schedule import rate_factor


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


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser over the model's parameters."""
    groups = parameter_groups(model, weight_decay=config.weight_decay)
    match config:
        case SgdConfig():
            return torch.optim.SGD(groups, lr=config.rate, momentum=config.momentum, nesterov=config.nesterov)
        case AdamWConfig():
            return torch.optim.AdamW(groups, lr=config.rate, betas=(config.beta1, config.beta2))
    raise TypeError(f"no optimizer for {type(config).__name__}")
