"""Schemas of the group `logger`: the tracker that shows a run beside its own record.

compose("train", TRAIN_SCHEMAS, ["logger=wandb", "logger.mode=offline"]).logger     # a WandbConfig
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pipeline.compose import require

FINISH_HELP = "seconds that the end of a run waits for the tracker at most; what it lacks then is in the record"


@dataclass(slots=True, kw_only=True)
class LoggerConfig:
    """Any tracker beside the run's own record; the group `logger` picks the subclass."""


@dataclass(slots=True, kw_only=True)
class NoLoggerConfig(LoggerConfig):
    pass


class WandbMode(Enum):
    auto = "auto"
    online = "online"
    offline = "offline"


@dataclass(slots=True, kw_only=True)
class WandbConfig(LoggerConfig):
    mode: WandbMode = field(
        default=WandbMode.auto,
        metadata={"help": "auto: what WANDB_MODE says, else online where there is a key, offline where there is none"},
    )
    project: str | None = field(default=None, metadata={"help": "wandb project; null: WANDB_PROJECT, else tarmac"})
    entity: str | None = field(default=None, metadata={"help": "wandb user or team; null: the key's own"})
    finish_s: float = field(default=30.0, metadata={"help": FINISH_HELP})

    def __post_init__(self) -> None:
        _check_finish(self.finish_s)


@dataclass(slots=True, kw_only=True)
class TensorBoardConfig(LoggerConfig):
    finish_s: float = field(default=30.0, metadata={"help": FINISH_HELP})

    def __post_init__(self) -> None:
        _check_finish(self.finish_s)


def _check_finish(finish_s: float) -> None:
    require(0 <= finish_s < float("inf"), f"logger.finish_s={finish_s}: seconds wanted, 0 or more")


LOGGER_SCHEMAS = {
    "logger/wandb": WandbConfig,
    "logger/tensorboard": TensorBoardConfig,
    "logger/none": NoLoggerConfig,
}
