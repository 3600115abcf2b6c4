"""Schema of `conf/train.yaml` and `conf/evaluate.yaml`: what a user may choose about a run.

    config = compose("train", TRAIN_SCHEMAS, ["model=mlp", "model.hidden=[512]", "batch.size=64"])

Batch sizes are global. World size is never here: the launcher owns it. Checks within a dataclass stand in its
`__post_init__`; what needs the data set (shapes, counts) is checked in build.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.compose import require, to_plain
from pipeline.data_config import (
    FULL_BATCH,
    AugmentConfig,
    BatchConfig,
    CacheConfig,
    Check,
    DataConfig,
    FullOrderConfig,
    OrderConfig,
    ResizedCropConfig,
    WindowOrderConfig,
)
from pipeline.shards.errors import UserError


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


@dataclass(slots=True, kw_only=True)
class ObjectiveConfig:
    """Any objective; the group `objective` picks the subclass."""


@dataclass(slots=True, kw_only=True)
class CrossEntropyConfig(ObjectiveConfig):
    label_smoothing: float = field(default=0.0, metadata={"help": "share of the target spread over all classes"})

    def __post_init__(self) -> None:
        valid = 0 <= self.label_smoothing < 1
        require(valid, f"objective.label_smoothing={self.label_smoothing}: 0 <= label_smoothing < 1 wanted")


@dataclass(slots=True, kw_only=True)
class MeanSquaredErrorConfig(ObjectiveConfig):
    pass


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


class Precision(Enum):
    fp32 = "fp32"
    bf16 = "bf16"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(slots=True, kw_only=True)
class TrainerConfig:
    max_epochs: int = field(default=10, metadata={"help": "epochs to train"})
    max_steps: int | None = field(default=None, metadata={"help": "stop after this many steps, if earlier"})
    precision: Precision = field(default=Precision.fp32, metadata={"help": "fp32, or bf16 autocast"})
    device: Device = field(default=Device.auto, metadata={"help": "auto: a GPU for each rank where there are any"})
    compile: bool = field(default=False, metadata={"help": "torch.compile the model"})
    clip_norm: float | None = field(default=None, metadata={"help": "largest norm of the gradient; null: off"})
    log_every_steps: int = field(default=50, metadata={"help": "steps between rows of metrics.jsonl"})
    measure_bound: bool = field(
        default=True,
        metadata={"help": "at the end, tell what bounded the run: times model and loader alone for 1 % of its time"},
    )

    def __post_init__(self) -> None:
        require(self.max_epochs >= 1, f"trainer.max_epochs={self.max_epochs}: at least 1 wanted")
        require(self.max_steps is None or self.max_steps >= 1, f"trainer.max_steps={self.max_steps}: at least 1")
        require(self.log_every_steps >= 1, f"trainer.log_every_steps={self.log_every_steps}: at least 1 wanted")
        require(self.clip_norm is None or self.clip_norm > 0, f"trainer.clip_norm={self.clip_norm}: over 0 wanted")


@dataclass(slots=True, kw_only=True)
class CheckpointConfig:
    every_steps: int | None = field(default=None, metadata={"help": "steps between checkpoints; null: each epoch"})
    keep: int = field(default=2, metadata={"help": "newest checkpoints to keep"})

    def __post_init__(self) -> None:
        require(self.every_steps is None or self.every_steps >= 1, f"checkpoint.every_steps={self.every_steps}: from 1")
        require(self.keep >= 1, f"checkpoint.keep={self.keep}: at least 1 wanted")


@dataclass(slots=True, kw_only=True)
class EvaluationConfig:
    slots_per_rank: int = field(
        default=1000, metadata={"help": "samples in one forward pass of a rank; the result does not depend on it"}
    )

    def __post_init__(self) -> None:
        require(self.slots_per_rank >= 1, f"evaluation.slots_per_rank={self.slots_per_rank}: at least 1 wanted")


@dataclass(slots=True, kw_only=True)
class LoggerConfig:
    """Any tracker beside metrics.jsonl; the group `logger` picks the subclass."""


@dataclass(slots=True, kw_only=True)
class NoLoggerConfig(LoggerConfig):
    pass


class WandbMode(Enum):
    offline = "offline"
    online = "online"


@dataclass(slots=True, kw_only=True)
class WandbConfig(LoggerConfig):
    mode: WandbMode = field(default=WandbMode.offline, metadata={"help": "offline needs no account and no network"})
    project: str = field(default="tarmac", metadata={"help": "wandb project"})


@dataclass(slots=True, kw_only=True)
class TrainConfig:
    run_dir: str | None = field(default=None, metadata={"help": "folder of the run; null: the next free runs/NNNN"})
    resume: bool | None = field(
        default=None,
        metadata={"help": "null: go on if run_dir holds this very run; true: also with other options; false: never"},
    )
    seed: int = field(default=0, metadata={"help": "decides weights, order, augmentation and dropout"})
    log_sample_ids: bool = field(default=False, metadata={"help": "write sample_ids.rank<R>.jsonl into the run folder"})
    data: DataConfig = field(default_factory=DataConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    order: OrderConfig = MISSING
    augment: AugmentConfig = MISSING
    model: ModelConfig = MISSING
    objective: ObjectiveConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    schedule: ScheduleConfig = MISSING
    logger: LoggerConfig = MISSING

    def __post_init__(self) -> None:
        size, micro = self.batch.size, self.batch.micro_size
        whole = size == FULL_BATCH and self.data.paths is not None
        require(not whole, "batch.size=full: of one data set, not of data.paths, whose shares are by weight")
        fits = micro is None or not isinstance(size, int) or micro <= size
        require(fits, f"batch.micro_size={micro} is over batch.size={size}")


@dataclass(slots=True, kw_only=True)
class EvaluateConfig:
    run: str = field(default="runs/latest", metadata={"help": "folder of the run"})
    split: str | None = field(default=None, metadata={"help": "split to evaluate on; null: the run's own"})
    device: Device = field(default=Device.auto, metadata={"help": "auto: a GPU for each rank where there are any"})
    slots_per_rank: int = field(default=1000, metadata={"help": "samples in one forward pass of a rank"})
    data: EvaluateDataConfig = field(default_factory=lambda: EvaluateDataConfig())
    cache: CacheConfig = field(default_factory=CacheConfig)


@dataclass(slots=True, kw_only=True)
class EvaluateDataConfig:
    path: str | None = field(default=None, metadata={"help": "folder or URL of the data set; null: the run's own"})
    check: Check = field(default=Check.auto, metadata={"help": "full, sizes or auto, as in training"})


TRAIN_SCHEMAS = {
    "root": TrainConfig,
    "order/full": FullOrderConfig,
    "order/window": WindowOrderConfig,
    "augment/none": AugmentConfig,
    "augment/flip_crop": AugmentConfig,
    "augment/resized_crop": ResizedCropConfig,
    "model/logistic_regression": LogisticRegressionConfig,
    "model/mlp": MlpConfig,
    "model/bottleneck_mlp": BottleneckMlpConfig,
    "objective/cross_entropy": CrossEntropyConfig,
    "objective/mse": MeanSquaredErrorConfig,
    "optimizer/sgd": SgdConfig,
    "optimizer/adamw": AdamWConfig,
    "schedule/constant": ConstantConfig,
    "schedule/cosine": CosineConfig,
    "logger/wandb": WandbConfig,
    "logger/none": NoLoggerConfig,
}
GROUPS = ("order", "augment", "model", "objective", "optimizer", "schedule", "logger")


def to_stored(config: TrainConfig) -> dict[str, Any]:
    """Return the config as plain containers, each group with its `kind`, for config.yaml."""
    plain: dict[str, Any] = to_plain(config)
    return {**plain, **{group: {"kind": _kind(type(getattr(config, group))), **plain[group]} for group in GROUPS}}


def from_stored(plain: dict[str, Any]) -> TrainConfig:
    """Return the config that `to_stored` made plain.

    Raises:
        UserError: it is not of that form.
    """
    kinds = {(name.split("/")[0], _kind(schema)): schema for name, schema in TRAIN_SCHEMAS.items()}
    try:
        tree = OmegaConf.structured(TrainConfig)
        plain = dict(plain)
        for group in GROUPS:
            chosen = dict(plain.pop(group))
            schema = OmegaConf.structured(kinds[group, chosen.pop("kind")])
            tree[group] = OmegaConf.merge(schema, chosen)
        config: TrainConfig = OmegaConf.to_object(OmegaConf.merge(tree, plain))  # type: ignore[assignment]
    except (OmegaConfBaseException, KeyError, TypeError, ValueError) as error:
        raise UserError(f"config.yaml: not the config of a run ({error})") from None
    return config


def _kind(schema: type[Any]) -> str:
    return schema.__name__.removesuffix("Config")


EVALUATE_SCHEMAS = {"root": EvaluateConfig}
