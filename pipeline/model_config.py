"""Schemas of the group `model`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pipeline.compose import require


class Activation(Enum):
    identity = "identity"
    sigmoid = "sigmoid"
    tanh = "tanh"
    relu = "relu"
    leaky_relu = "leaky_relu"
    gelu = "gelu"
    silu = "silu"
    softmax = "softmax"


class Norm(Enum):
    none = "none"
    batch = "batch"
    layer = "layer"
    rms = "rms"


class Init(Enum):
    torch = "torch"
    lecun = "lecun"
    xavier = "xavier"
    kaiming = "kaiming"
    orthogonal = "orthogonal"


INIT_HELP = (
    "initial weights: torch (uniform, +-1/sqrt(fan_in)), lecun (variance 1/fan_in), xavier (2/(fan_in+fan_out)),"
    " kaiming (2/fan_in), orthogonal"
)
ZERO_HEAD_HELP = "start the last layer at zero: every class equally likely"


@dataclass(slots=True, kw_only=True)
class ModelConfig:
    """Any model; the group `model` picks the subclass."""

    input_shuffle_seed: int | None = field(
        default=None, metadata={"help": "shuffle the values of every image by the permutation of this seed; null: off"}
    )


@dataclass(slots=True, kw_only=True)
class PerceptronConfig(ModelConfig):
    """Threshold units and the perceptron's rule; for several classes by Kesler's construction."""


@dataclass(slots=True, kw_only=True)
class LogisticRegressionConfig(ModelConfig):
    """A linear layer; with the objective cross_entropy, multinomial logistic regression."""


@dataclass(slots=True, kw_only=True)
class MlpConfig(ModelConfig):
    hidden: list[int] | None = field(default=None, metadata={"help": "widths of the hidden layers, as in [512,256]"})
    depth: int = field(default=2, metadata={"help": "hidden layers, where `hidden` is null"})
    width: int = field(default=512, metadata={"help": "width of each hidden layer, where `hidden` is null"})
    activation: Activation = field(
        default=Activation.relu, metadata={"help": "|".join(item.name for item in Activation)}
    )
    norm: Norm = field(
        default=Norm.none, metadata={"help": "none, batch (over a rank's samples), layer or rms; before the activation"}
    )
    dropout: float = field(default=0.0, metadata={"help": "share of hidden units to drop in training"})
    skip: bool = field(
        default=False, metadata={"help": "add a hidden layer's input to its output, where both have one width"}
    )
    init: Init = field(default=Init.torch, metadata={"help": INIT_HELP})
    zero_head: bool = field(default=False, metadata={"help": ZERO_HEAD_HELP})
    identical_units: bool = field(
        default=False,
        metadata={"help": "start all units of a hidden layer alike: a saddle that mini-batches do not leave"},
    )
    base_width: int | None = field(
        default=None,
        metadata={"help": "width (of the first hidden layer) that rates were tuned at, to hold here (muP); null: off"},
    )

    def __post_init__(self) -> None:
        require(self.depth >= 0 and self.width >= 1, f"model.depth={self.depth}, model.width={self.width}: from 0, 1")
        require(all(width >= 1 for width in self.hidden or []), f"model.hidden={self.hidden}: at least 1 each wanted")
        require(0 <= self.dropout < 1, f"model.dropout={self.dropout}: 0 <= dropout < 1 wanted")
        _require_base_width(self.base_width)
        alike = self.identical_units and self.norm is Norm.layer
        require(not alike, "model.identical_units: not with model.norm=layer, which makes 0 of units that are alike")
        # Its units share an output of 1, so each is the smaller, the more there are: nothing transfers.
        shares = self.activation is Activation.softmax and self.base_width is not None
        require(not shares, "model.base_width: not with model.activation=softmax, whose outputs shrink with the width")

    @property
    def widths(self) -> list[int]:
        return self.hidden if self.hidden is not None else [self.width] * self.depth


@dataclass(slots=True, kw_only=True)
class BottleneckMlpConfig(ModelConfig):
    depth: int = field(default=4, metadata={"help": "residual blocks"})
    width: int = field(default=256, metadata={"help": "width of the residual stream"})
    expansion: int = field(default=4, metadata={"help": "a block's inner width over its outer"})
    dropout: float = field(default=0.0, metadata={"help": "share of each block's output to drop in training"})
    init: Init = field(default=Init.torch, metadata={"help": INIT_HELP})
    zero_head: bool = field(default=False, metadata={"help": ZERO_HEAD_HELP})
    zero_residual: bool = field(default=False, metadata={"help": "start each block as the identity"})
    base_width: int | None = field(
        default=None, metadata={"help": "model.width that rates were tuned at, to hold here (muP); null: off"}
    )

    def __post_init__(self) -> None:
        sizes = (self.depth, self.width, self.expansion)
        require(min(sizes) >= 1, f"model.depth, width, expansion = {sizes}: at least 1 each wanted")
        require(0 <= self.dropout < 1, f"model.dropout={self.dropout}: 0 <= dropout < 1 wanted")
        _require_base_width(self.base_width)


def _require_base_width(base_width: int | None) -> None:
    require(base_width is None or base_width >= 1, f"model.base_width={base_width}: null or at least 1 wanted")


MODEL_SCHEMAS = {
    "model/perceptron": PerceptronConfig,
    "model/logistic_regression": LogisticRegressionConfig,
    "model/mlp": MlpConfig,
    "model/bottleneck_mlp": BottleneckMlpConfig,
}
