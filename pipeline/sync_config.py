"""Schema of `conf/sync.yaml`: which runs to send to Weights & Biases, and where to.

config = compose("sync", SYNC_SCHEMAS, ["runs=[runs/0001,runs/0002]"])
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.compose import require


@dataclass(slots=True, kw_only=True)
class SyncConfig:
    runs: list[str] = field(
        default_factory=lambda: ["runs"], metadata={"help": "folders of runs, or folders in which to look for them"}
    )
    project: str | None = field(
        default=None,
        metadata={"help": "wandb project; null: the run's logger.project, else WANDB_PROJECT, else tarmac"},
    )
    entity: str | None = field(
        default=None, metadata={"help": "wandb user or team; null: the run's logger.entity, else the key's own"}
    )

    def __post_init__(self) -> None:
        require(bool(self.runs), "runs=[]: at least one folder wanted")


SYNC_SCHEMAS = {"root": SyncConfig}
