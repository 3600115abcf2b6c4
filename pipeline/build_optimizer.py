"""From the groups `optimizer` and `schedule` to an optimiser, and to its updates: how many, at which rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

import torch
from torch import nn

from pipeline.config import TrainConfig
from pipeline.model.roles import Role, roles_of
from pipeline.model.width import rate_scales
from pipeline.optimizer_config import (
    AdamWConfig,
    ConstantConfig,
    CosineConfig,
    Duration,
    ExponentialConfig,
    GradientNoiseConfig,
    LinearConfig,
    LionConfig,
    MuonConfig,
    OptimizerConfig,
    SgdConfig,
    Unit,
)
from pipeline.shards.errors import UserError
from pipeline.training.optim import layer_rate_scales, parameter_groups
from pipeline.training.optim_lion import Lion
from pipeline.training.optim_muon import MuonAdamW
from pipeline.training.optim_state import load_state_alone
from pipeline.training.schedule import noise_std, rate_factor, scaled_rate
from pipeline.training.sharding import is_a_shard
from pipeline.training.step_plan import StepPlan

# One kernel for the whole step; torch has it for these devices.
FUSED_DEVICES = ("cpu", "cuda")
# What updates a parameter that has no special part.
RULES: dict[type[OptimizerConfig], str] = {
    SgdConfig: "sgd",
    AdamWConfig: "adamw",
    LionConfig: "lion",
    MuonConfig: "adamw",
}


def plan_steps(config: TrainConfig, *, steps_per_epoch: int, micro_batches: int) -> StepPlan:
    """Return the number of updates, and the learning rate of each, as pure functions of config and data."""
    total_steps = config.trainer.max_epochs * steps_per_epoch
    if config.trainer.max_steps is not None:
        total_steps = min(total_steps, config.trainer.max_steps)

    def steps_of(duration: Duration) -> int:
        return duration_steps(duration, steps_per_epoch=steps_per_epoch, total_steps=total_steps)

    warmup_steps = steps_of(config.schedule.warmup)
    shape: dict[str, Any]
    match config.schedule:
        case CosineConfig(final_frac=final_frac):
            shape = {"shape": "cosine", "final_frac": final_frac}
        case LinearConfig(final_frac=final_frac, decay=decay):
            shape = {"shape": "linear", "final_frac": final_frac, "decay_steps": steps_of(decay)}
        case ExponentialConfig(final_frac=final_frac):
            shape = {"shape": "exponential", "final_frac": final_frac}
        case ConstantConfig():
            shape = {"shape": "constant"}
        case _:
            raise TypeError(f"no schedule for {type(config.schedule).__name__}")
    peak = peak_rate(config)

    def rate_at(step: int) -> float:
        return peak * rate_factor(step=step, total_steps=total_steps, warmup_steps=warmup_steps, **shape)

    return StepPlan(
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        micro_batches=micro_batches,
        rate_at=rate_at,
        epochs_per_evaluation=config.evaluation.every_epochs,
        clip_norm=config.trainer.clip_norm,
        noise_std_at=_noise_std_at(config.gradient_noise, steps_of),
    )


def _noise_std_at(config: GradientNoiseConfig, steps_of: Callable[[Duration], int]) -> Callable[[int], float] | None:
    """Return the noise of each update, as `gradient_noise` wants it.

    Raises:
        UserError: it would end before it begins.
    """
    std = config.std
    if std is None:
        return None
    first, end = steps_of(config.start), steps_of(config.stop)
    if first >= end:
        raise UserError(
            f"gradient_noise: there is none, it would start at step {first:,} and stop at step {end:,}; give an earlier"
            " gradient_noise.start or a later gradient_noise.stop"
        )
    return lambda step: noise_std(step - first, std=std, decay=config.decay) if first <= step < end else 0.0


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


def peak_rate(config: TrainConfig) -> float:
    """Return the rate after the warm-up, scaled to the batch where `optimizer.reference_batch` is given."""
    optimizer, batch_size = config.optimizer, config.batch.size
    if optimizer.reference_batch is None or not isinstance(batch_size, int):
        return optimizer.rate
    return scaled_rate(
        optimizer.rate,
        batch_size=batch_size,
        reference_batch=optimizer.reference_batch,
        scaling=optimizer.batch_scaling.value,
    )


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser over those of the model's parameters that are trained."""
    rules = _rules(config, model)
    layer_scales = layer_rate_scales(
        model, head=config.head_rate_scale, body=config.body_rate_scale, layer_decay=config.layer_decay
    )
    if isinstance(config, MuonConfig):
        adamw_scales = {"adamw": config.adamw_rate_scale, "muon": 1.0}
        layer_scales = {name: scale * adamw_scales[rules[name]] for name, scale in layer_scales.items()}
    groups = parameter_groups(
        model,
        weight_decay=config.weight_decay,
        layer_scales=layer_scales,
        width_scales=_width_scales(config, model, rules),
        rules=rules,
    )
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in model.parameters())
    optimizer = _make_optimizer(config, groups, fused=fused)
    load_state_alone(optimizer)
    return optimizer


def _make_optimizer(config: OptimizerConfig, groups: list[dict[str, Any]], *, fused: bool) -> torch.optim.Optimizer:
    match config:
        case SgdConfig():
            # torch's fused SGD does not know sharded weights, AdamW's does (torch 2.13).
            fused = fused and not any(is_a_shard(weight) for group in groups for weight in group["params"])
            return torch.optim.SGD(
                groups, lr=config.rate, momentum=config.momentum, nesterov=config.nesterov, fused=fused
            )
        case AdamWConfig():
            return torch.optim.AdamW(groups, lr=config.rate, betas=(config.beta1, config.beta2), fused=fused)
        case LionConfig():
            return Lion(groups, lr=config.rate, betas=(config.beta1, config.beta2))
        case MuonConfig():
            return MuonAdamW(
                groups,
                lr=config.rate,
                momentum=config.momentum,
                nesterov=config.nesterov,
                num_iterations=config.num_iterations,
                match_adamw=config.match_adamw,
                betas=(config.beta1, config.beta2),
                fused=fused,
            )
    raise TypeError(f"no optimizer for {type(config).__name__}")


def _rules(config: OptimizerConfig, model: nn.Module) -> dict[str, str]:
    """Return what updates each parameter, by name."""
    rules = {name: RULES[type(config)] for name, _ in model.named_parameters()}
    if isinstance(config, MuonConfig):
        rules |= {name: "muon" for name, role in roles_of(model).items() if role is Role.hidden}
    return rules


def _width_scales(config: OptimizerConfig, model: nn.Module, rules: dict[str, str]) -> dict[str, float]:
    """Return each parameter's factor of the rate from `model.base_width`, by name."""
    scales = rate_scales(model, rule="sgd" if isinstance(config, SgdConfig) else "adam")
    if not isinstance(config, MuonConfig):
        return scales
    # Muon's step has a spectral norm that wants no factor, times the square root of the width where it is to match
    # AdamW's; AdamW's own has one that grows with the width (arXiv 2310.17813, condition 1).
    power = 0.5 if config.match_adamw else 0.0
    return {name: scale**power if rules[name] == "muon" else scale for name, scale in scales.items()}
