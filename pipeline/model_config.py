"""Schemas of the group `model`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pipeline.compose import require


class Activation(Enum):
    sigmoid = "sigmoid"
    tanh = "tanh"
    relu = "relu"
    gelu = "gelu"
    silu = "silu"


class Norm(Enum):
    none = "none"
    batch = "batch"
    layer = "layer"


@dataclass(slots=True, kw_only=True)
class ModelConfig:
    """Any model; the group `model` picks the subclass."""


@dataclass(slots=True, kw_only=True)
class LogisticRegressionConfig(ModelConfig):
    pass


@dataclass(slots=True, kw_only=True)
class MlpConfig(ModelConfig):
    hidden: list[int] | None = field(default=None, metadata={"help": "widths of the hidden layers, as in [512,256]"})
    depth: int = field(default=2, metadata={"help": "hidden layers, where `hidden` is null"})
    width: int = field(default=512, metadata={"help": "width of each hidden layer, where `hidden` is null"})
    activation: Activation = field(
        default=Activation.relu, metadata={"help": "|".join(item.name for item in Activation)}
    )
    norm: Norm = field(default=Norm.none, metadata={"help": "none, batch or layer; before the activation"})
    dropout: float = field(default=0.0, metadata={"help": "share of hidden units to drop in training"})

    def __post_init__(self) -> None:
        require(self.depth >= 0 and self.width >= 1, f"model.depth={self.depth}, model.width={self.width}: from 0, 1")
        require(all(width >= 1 for width in self.hidden or []), f"model.hidden={self.hidden}: at least 1 each wanted")
        require(0 <= self.dropout < 1, f"model.dropout={self.dropout}: 0 <= dropout < 1 wanted")

    @property
    def widths(self) -> list[int]:
        return self.hidden if self.hidden is not None else [self.width] * self.depth


@dataclass(slots=True, kw_only=True)
class BottleneckMlpConfig(ModelConfig):
    depth: int = field(default=4, metadata={"help": "residual blocks"})
    width: int = field(default=256, metadata={"help": "width of the residual stream"})
    expansion: int = field(default=4, metadata={"help": "a block's inner width over its outer"})
    dropout: float = field(default=0.0, metadata={"help": "share of each block's output to drop in training"})

    def __post_init__(self) -> None:
        sizes = (self.depth, self.width, self.expansion)
        require(min(sizes) >= 1, f"model.depth, width, expansion = {sizes}: at least 1 each wanted")
        require(0 <= self.dropout < 1, f"model.dropout={self.dropout}: 0 <= dropout < 1 wanted")


MODEL_SCHEMAS = {
    "model/logistic_regression": LogisticRegressionConfig,
    "model/mlp": MlpConfig,
    "model/bottleneck_mlp": BottleneckMlpConfig,
}
