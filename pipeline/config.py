"""Schema of `conf/train.yaml`: what a user may choose about a run.

    config = compose("train", TRAIN_SCHEMAS, ["model=mlp", "model.hidden=[512]", "batch.size=64"])

Batch sizes are global. World size is never here: the launcher owns it. Checks within a dataclass stand in its
`__post_init__`; what needs the data set (shapes, counts) is checked in build.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.compose import require, to_plain
from pipeline.data_config import (
    FULL_BATCH,
    AugmentConfig,
    BatchConfig,
    CacheConfig,
    DataConfig,
    FullOrderConfig,
    OrderConfig,
    ResizedCropConfig,
    WindowOrderConfig,
)
from pipeline.init_config import InitConfig
from pipeline.logger_config import LOGGER_SCHEMAS, LoggerConfig
from pipeline.model_config import MODEL_SCHEMAS, ModelConfig, PerceptronConfig
from pipeline.objective_config import OBJECTIVE_SCHEMAS, BinaryCrossEntropyConfig, ObjectiveConfig
from pipeline.optimizer_config import (
    OPTIMIZER_SCHEMAS,
    EmaConfig,
    GradientNoiseConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from pipeline.shards.errors import UserError
from pipeline.track_config import TrackConfig
from pipeline.trainer_config import CheckpointConfig, TrainerConfig


@dataclass(slots=True, kw_only=True)
class EvaluationConfig:
    every_epochs: int = field(
        default=1, metadata={"help": "epochs between evaluations, each with a checkpoint; the last is always evaluated"}
    )
    slots_per_rank: int = field(
        default=1000, metadata={"help": "samples in one forward pass of a rank; the result does not depend on it"}
    )

    def __post_init__(self) -> None:
        require(self.every_epochs >= 1, f"evaluation.every_epochs={self.every_epochs}: at least 1 wanted")
        require(self.slots_per_rank >= 1, f"evaluation.slots_per_rank={self.slots_per_rank}: at least 1 wanted")


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
    init: InitConfig = field(default_factory=InitConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    gradient_noise: GradientNoiseConfig = field(default_factory=GradientNoiseConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
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
        scaled = isinstance(self.optimizer, OptimizerConfig) and self.optimizer.reference_batch is not None
        require(size != FULL_BATCH or not scaled, "optimizer.reference_batch: wants a number as batch.size, not full")
        several = isinstance(self.model, PerceptronConfig) and isinstance(self.objective, BinaryCrossEntropyConfig)
        require(not several, "model=perceptron: its rule knows one wanted class, binary_cross_entropy several")


TRAIN_SCHEMAS = {
    "root": TrainConfig,
    "order/full": FullOrderConfig,
    "order/window": WindowOrderConfig,
    "augment/none": AugmentConfig,
    "augment/flip_crop": AugmentConfig,
    "augment/resized_crop": ResizedCropConfig,
    **MODEL_SCHEMAS,
    **OBJECTIVE_SCHEMAS,
    **OPTIMIZER_SCHEMAS,
    **LOGGER_SCHEMAS,
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
