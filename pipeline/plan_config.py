"""Schema of `conf/plan.yaml`: the run to plan, in the options that training has.

config = compose("plan", PLAN_SCHEMAS, ["data.path=data/cifar10", "order=window", "batch.size=256", "hosts=2"])
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from pipeline.compose import require
from pipeline.config import TRAIN_SCHEMAS
from pipeline.data_config import BatchConfig, DataConfig, OrderConfig


@dataclass(slots=True, kw_only=True)
class PlanConfig:
    ranks: int | None = field(default=None, metadata={"help": "ranks of the run, on all hosts; null: one a host"})
    hosts: int = field(default=1, metadata={"help": "hosts of the run"})
    shuffle_samples: int = field(
        default=1 << 18, metadata={"help": "samples of an epoch to measure the shuffle on; 0: do not"}
    )
    seed: int = field(default=0, metadata={"help": "the run's seed"})
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    order: OrderConfig = MISSING

    def __post_init__(self) -> None:
        require(self.hosts >= 1, f"hosts={self.hosts}: at least 1 wanted")
        ranks = self.ranks
        valid = ranks is None or (ranks >= 1 and ranks % self.hosts == 0)
        require(valid, f"ranks={ranks}: a multiple of hosts={self.hosts} wanted")
        require(self.shuffle_samples >= 0, f"shuffle_samples={self.shuffle_samples}: at least 0 wanted")

    @property
    def world_size(self) -> int:
        return self.hosts if self.ranks is None else self.ranks


PLAN_SCHEMAS = {
    "root": PlanConfig,
    **{name: schema for name, schema in TRAIN_SCHEMAS.items() if name.split("/")[0] == "order"},
}
