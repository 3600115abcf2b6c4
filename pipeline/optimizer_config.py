"""Schemas of the groups `optimizer` and `schedule`, of `ema` and of `gradient_noise`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pipeline.compose import require


class BatchScaling(Enum):
    linear = "linear"
    sqrt = "sqrt"


@dataclass(slots=True, kw_only=True)
class OptimizerConfig:
    """Any optimiser; the group `optimizer` picks the subclass."""

    rate: float = field(default=0.1, metadata={"help": "peak learning rate"})
    weight_decay: float = field(default=0.0, metadata={"help": "applied to matrices, not to biases and norms"})
    reference_batch: int | None = field(
        default=None, metadata={"help": "batch size that `rate` is meant for; null: the rate is used as it stands"}
    )
    batch_scaling: BatchScaling = field(
        default=BatchScaling.linear,
        metadata={"help": "linear or sqrt: how the rate grows with batch.size over reference_batch"},
    )
    head_rate_scale: float = field(default=1.0, metadata={"help": "factor of the rate for the last layer"})
    body_rate_scale: float = field(default=1.0, metadata={"help": "factor of the rate for all other layers"})
    layer_decay: float = field(
        default=1.0, metadata={"help": "one more factor of the rate for each layer away from the last"}
    )

    def __post_init__(self) -> None:
        require(self.rate >= 0, f"optimizer.rate={self.rate}: at least 0 wanted")
        require(self.weight_decay >= 0, f"optimizer.weight_decay={self.weight_decay}: at least 0 wanted")
        batch = self.reference_batch
        require(batch is None or batch >= 1, f"optimizer.reference_batch={batch}: null or at least 1 wanted")
        scales = (self.head_rate_scale, self.body_rate_scale)
        require(min(scales) >= 0, f"optimizer.head_rate_scale, body_rate_scale = {scales}: at least 0 each wanted")
        require(self.layer_decay > 0, f"optimizer.layer_decay={self.layer_decay}: more than 0 wanted")


@dataclass(slots=True, kw_only=True)
class SgdConfig(OptimizerConfig):
    momentum: float = field(default=0.9, metadata={"help": "0 for plain SGD"})
    nesterov: bool = field(default=False, metadata={"help": "Nesterov's momentum"})

    def __post_init__(self) -> None:
        OptimizerConfig.__post_init__(self)
        require(0 <= self.momentum < 1, f"optimizer.momentum={self.momentum}: 0 <= momentum < 1 wanted")
        require(self.momentum > 0 or not self.nesterov, "optimizer.nesterov=true wants optimizer.momentum over 0")


@dataclass(slots=True, kw_only=True)
class AdamWConfig(OptimizerConfig):
    rate: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    weight_decay: float = field(default=0.05, metadata={"help": "applied to matrices, not to biases and norms"})
    batch_scaling: BatchScaling = field(
        default=BatchScaling.sqrt,
        metadata={"help": "linear or sqrt: how the rate grows with batch.size over reference_batch"},
    )
    beta1: float = field(default=0.9, metadata={"help": "decay of the mean of gradients"})
    beta2: float = field(default=0.999, metadata={"help": "decay of the mean of squared gradients"})

    def __post_init__(self) -> None:
        OptimizerConfig.__post_init__(self)
        _require_betas(self.beta1, self.beta2)


@dataclass(slots=True, kw_only=True)
class LionConfig(OptimizerConfig):
    rate: float = field(default=1e-4, metadata={"help": "peak learning rate: 3 to 10 times below AdamW's"})
    weight_decay: float = field(default=0.5, metadata={"help": "of matrices: as many times above AdamW's"})
    batch_scaling: BatchScaling = field(
        default=BatchScaling.sqrt,
        metadata={"help": "linear or sqrt: how the rate grows with batch.size over reference_batch"},
    )
    beta1: float = field(default=0.9, metadata={"help": "weight of the momentum in the step's direction"})
    beta2: float = field(default=0.99, metadata={"help": "decay of the momentum"})

    def __post_init__(self) -> None:
        OptimizerConfig.__post_init__(self)
        _require_betas(self.beta1, self.beta2)


@dataclass(slots=True, kw_only=True)
class MuonConfig(OptimizerConfig):
    """Muon for the matrices of hidden layers, AdamW for everything else."""

    rate: float = field(default=1e-3, metadata={"help": "peak learning rate, as for AdamW where match_adamw=true"})
    weight_decay: float = field(default=0.05, metadata={"help": "applied to matrices, not to biases and norms"})
    batch_scaling: BatchScaling = field(
        default=BatchScaling.sqrt,
        metadata={"help": "linear or sqrt: how the rate grows with batch.size over reference_batch"},
    )
    momentum: float = field(default=0.95, metadata={"help": "of Muon"})
    nesterov: bool = field(default=True, metadata={"help": "Nesterov's momentum, of Muon"})
    num_iterations: int = field(default=5, metadata={"help": "of Newton-Schulz in a step"})
    match_adamw: bool = field(
        default=True,
        metadata={
            "help": "true: a step as large as AdamW's, 0.2*sqrt(max(rows,columns)); false: sqrt(max(1,rows/columns))"
        },
    )
    adamw_rate_scale: float = field(default=1.0, metadata={"help": "factor of the rate for what AdamW trains"})
    beta1: float = field(default=0.9, metadata={"help": "of AdamW: decay of the mean of gradients"})
    beta2: float = field(default=0.95, metadata={"help": "of AdamW: decay of the mean of squared gradients"})

    def __post_init__(self) -> None:
        OptimizerConfig.__post_init__(self)
        _require_betas(self.beta1, self.beta2)
        require(0 <= self.momentum < 1, f"optimizer.momentum={self.momentum}: 0 <= momentum < 1 wanted")
        require(1 <= self.num_iterations < 100, f"optimizer.num_iterations={self.num_iterations}: 1 to 99 wanted")
        require(self.adamw_rate_scale >= 0, f"optimizer.adamw_rate_scale={self.adamw_rate_scale}: at least 0 wanted")


def _require_betas(beta1: float, beta2: float) -> None:
    fit = 0 <= beta1 < 1 and 0 <= beta2 < 1
    require(fit, f"optimizer.beta1={beta1}, optimizer.beta2={beta2}: 0 <= beta < 1 each wanted")


class Unit(Enum):
    steps = "steps"
    epochs = "epochs"
    frac = "frac"


@dataclass(slots=True, kw_only=True)
class Duration:
    value: float = field(default=0.0, metadata={"help": "how long"})
    unit: Unit = field(default=Unit.steps, metadata={"help": "steps, epochs, or frac of the whole run"})

    def __post_init__(self) -> None:
        require(self.value >= 0, f"a duration of {self.value}: at least 0 wanted")


def _whole_run() -> Duration:
    return Duration(value=1.0, unit=Unit.frac)


@dataclass(slots=True, kw_only=True)
class ScheduleConfig:
    """Any schedule; the group `schedule` picks the subclass."""

    warmup: Duration = field(default_factory=Duration)


@dataclass(slots=True, kw_only=True)
class ConstantConfig(ScheduleConfig):
    pass


@dataclass(slots=True, kw_only=True)
class CosineConfig(ScheduleConfig):
    final_frac: float = field(default=0.0, metadata={"help": "rate at the end over the peak rate"})

    def __post_init__(self) -> None:
        _require_final_frac(self.final_frac)


@dataclass(slots=True, kw_only=True)
class LinearConfig(ScheduleConfig):
    """At the peak rate, then straight down; with a short `decay` known as warm-up, stable, decay."""

    final_frac: float = field(default=0.0, metadata={"help": "rate at the end over the peak rate"})
    decay: Duration = field(default_factory=_whole_run)

    def __post_init__(self) -> None:
        _require_final_frac(self.final_frac)


@dataclass(slots=True, kw_only=True)
class ExponentialConfig(ScheduleConfig):
    """By one factor a step; upwards too, as a test of rates wants it."""

    final_frac: float = field(default=0.01, metadata={"help": "rate at the end over the rate at the start"})

    def __post_init__(self) -> None:
        require(self.final_frac > 0, f"schedule.final_frac={self.final_frac}: more than 0 wanted")


def _require_final_frac(final_frac: float) -> None:
    require(0 <= final_frac <= 1, f"schedule.final_frac={final_frac}: 0 to 1 wanted")


@dataclass(slots=True, kw_only=True)
class EmaConfig:
    decay: float | None = field(
        default=None,
        metadata={"help": "of a moving average of the weights, as in 0.9999, evaluated in their place; null: none"},
    )

    def __post_init__(self) -> None:
        require(self.decay is None or 0 <= self.decay < 1, f"ema.decay={self.decay}: null or 0 <= decay < 1 wanted")


@dataclass(slots=True, kw_only=True)
class GradientNoiseConfig:
    std: float | None = field(
        default=None,
        metadata={"help": "standard deviation of Gaussian noise on each value of the gradient; null: none"},
    )
    decay: float = field(
        default=0.0, metadata={"help": "its square falls as (steps of noise)**-decay; 0.55 in arXiv 1511.06807"}
    )
    start: Duration = field(default_factory=Duration)
    stop: Duration = field(default_factory=_whole_run)

    def __post_init__(self) -> None:
        require(self.std is None or self.std >= 0, f"gradient_noise.std={self.std}: null or at least 0 wanted")
        require(self.decay >= 0, f"gradient_noise.decay={self.decay}: at least 0 wanted")
        require(
            self.std is not None or self.decay == 0,
            f"gradient_noise.decay={self.decay}: of which noise? add gradient_noise.std",
        )


OPTIMIZER_SCHEMAS = {
    "optimizer/sgd": SgdConfig,
    "optimizer/adamw": AdamWConfig,
    "optimizer/lion": LionConfig,
    "optimizer/muon": MuonConfig,
    "schedule/constant": ConstantConfig,
    "schedule/cosine": CosineConfig,
    "schedule/linear": LinearConfig,
    "schedule/exponential": ExponentialConfig,
}
