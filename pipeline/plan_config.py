"""Schema of `conf/plan.yaml`: the run to plan, in all options that training has, and what it is to run on.

config = compose("plan", PLAN_SCHEMAS, ["data.path=data/cifar10", "order=window", "batch.size=256", "hosts=2"])
config = compose("plan", PLAN_SCHEMAS, ["experiment=cifar10_mlp", "samples=50000", "image_shape=[32,32,3]"])
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.compose import require
from pipeline.config import TRAIN_SCHEMAS, TrainConfig


@dataclass(slots=True, kw_only=True)
class PlanConfig(TrainConfig):
    ranks: int | None = field(default=None, metadata={"help": "ranks of the run, on all hosts; null: one a host"})
    hosts: int = field(default=1, metadata={"help": "hosts of the run"})
    shuffle_samples: int = field(
        default=1 << 18, metadata={"help": "samples of an epoch to measure the shuffle on; 0: do not"}
    )
    samples: int | None = field(
        default=None, metadata={"help": "images of data that is not there, packed; null: look at data.path"}
    )
    image_shape: list[int] = field(
        default_factory=lambda: [64, 64, 3], metadata={"help": "of `samples`: height, width, channels"}
    )
    classes: int = field(default=1000, metadata={"help": "of `samples`: classes"})
    shard_bytes: int = field(default=128 << 20, metadata={"help": "of `samples`: length of a shard"})
    flops_per_s: float | None = field(
        default=None, metadata={"help": "FLOP/s that a rank achieves, 2 a multiply-add; null: not known"}
    )
    memory_bytes_per_s: float | None = field(
        default=None,
        metadata={
            "help": "bytes/s of a rank's memory; null: the update, and all but products, are left out of the time"
        },
    )
    bandwidth_bytes_per_s: float | None = field(
        default=None, metadata={"help": "bytes/s that a rank sends while it receives as many; null: not known"}
    )
    measure: bool = field(
        default=False, metadata={"help": "measure flops_per_s and memory_bytes_per_s here, where they are null"}
    )
    device_bytes: float | None = field(
        default=None, metadata={"help": "memory of a rank's device, as in 80e9; null: not known"}
    )
    cost_per_hour: float | None = field(default=None, metadata={"help": "of one rank, in any currency; null: free"})
    loader_images_per_s: float | None = field(
        default=None, metadata={"help": "what the loader of a rank gives (benchmarks/loader.py); null: not known"}
    )
    disk_bytes_per_s: float | None = field(
        default=None, metadata={"help": "what a host's disk or network gives; null: not known"}
    )

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        require(self.hosts >= 1, f"hosts={self.hosts}: at least 1 wanted")
        ranks = self.ranks
        valid = ranks is None or (ranks >= 1 and ranks % self.hosts == 0)
        require(valid, f"ranks={ranks}: a multiple of hosts={self.hosts} wanted")
        require(self.shuffle_samples >= 0, f"shuffle_samples={self.shuffle_samples}: at least 0 wanted")
        for name in ("samples", "classes", "shard_bytes"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name}={value}: at least 1 wanted")
        shape = self.image_shape
        valid = len(shape) == 3 and min(shape) >= 1 and shape[2] in (1, 3)
        require(valid, f"image_shape={shape}: [height,width,channels], of 1 or 3 channels, wanted")
        for name in RATES:
            value = getattr(self, name)
            require(value is None or value > 0, f"{name}={value}: over 0, or null, wanted")

    @property
    def world_size(self) -> int:
        return self.hosts if self.ranks is None else self.ranks


RATES = (
    "flops_per_s",
    "memory_bytes_per_s",
    "bandwidth_bytes_per_s",
    "device_bytes",
    "cost_per_hour",
    "loader_images_per_s",
    "disk_bytes_per_s",
)
PLAN_SCHEMAS = {**TRAIN_SCHEMAS, "root": PlanConfig}
