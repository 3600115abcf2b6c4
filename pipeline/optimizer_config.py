"""Schemas of the groups `optimizer` and `schedule`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pipeline.compose import require


@dataclass(slots=True, kw_only=True)
class OptimizerConfig:
    """Any optimiser; the group `optimizer` picks the subclass."""

    rate: float = field(default=0.1, metadata={"help": "peak learning rate"})
    weight_decay: float = field(default=0.0, metadata={"help": "applied to matrices, not to biases and norms"})

    def __post_init__(self) -> None:
        require(self.rate >= 0, f"optimizer.rate={self.rate}: at least 0 wanted")
        require(self.weight_decay >= 0, f"optimizer.weight_decay={self.weight_decay}: at least 0 wanted")


@dataclass(slots=True, kw_only=True)
class SgdConfig(OptimizerConfig):
    momentum: float = field(default=0.9, metadata={"help": "0 for plain SGD"})
    nesterov: bool = field(default=False, metadata={"help": "Nesterov's momentum"})


@dataclass(slots=True, kw_only=True)
class AdamWConfig(OptimizerConfig):
    rate: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    weight_decay: float = field(default=0.05, metadata={"help": "applied to matrices, not to biases and norms"})
    beta1: float = field(default=0.9, metadata={"help": "decay of the mean of gradients"})
    beta2: float = field(default=0.999, metadata={"help": "decay of the mean of squared gradients"})


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


OPTIMIZER_SCHEMAS = {
    "optimizer/sgd": SgdConfig,
    "optimizer/adamw": AdamWConfig,
    "schedule/constant": ConstantConfig,
    "schedule/cosine": CosineConfig,
}
