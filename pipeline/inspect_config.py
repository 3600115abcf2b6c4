"""Schema of `conf/inspect.yaml`: which batch to look at, and how.

    config = compose("inspect", INSPECT_SCHEMAS, ["run=runs/0007", "step=1234", "slots=64:128"])
    config.slot_range(256)      # (64, 128)

What decides a batch has the schema that training has, so every order and augmentation of training's is known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pipeline.compose import MISSING, require
from pipeline.config import TRAIN_SCHEMAS
from pipeline.data_config import AugmentConfig, BatchConfig, CacheConfig, Check, DataConfig, OrderConfig

SLOTS_PATTERN = re.compile(r"(\d*):(\d*)")
# The options that decide a batch; with a run, its own hold.
BATCH_OPTIONS = ("seed", "batch", "order", "augment")


@dataclass(slots=True, kw_only=True)
class InspectDataConfig(DataConfig):
    check: Check = field(default=Check.sizes, metadata={"help": "full, sizes or auto, as in training"})


@dataclass(slots=True, kw_only=True)
class InspectConfig:
    step: int = field(default=MISSING, metadata={"help": "the update, counted as in metrics.jsonl: 1 is the first"})
    run: str | None = field(
        default=None, metadata={"help": "folder of the run; null: seed, batch, order, augment and data are typed here"}
    )
    slots: str | None = field(default=None, metadata={"help": "first:end of the global batch's slots; null: all"})
    ranks: int = field(default=1, metadata={"help": "ranks that share the batch"})
    rank: int | None = field(default=None, metadata={"help": "only this rank's slots, of ranks=..."})
    micro: int | None = field(default=None, metadata={"help": "only this micro-batch's slots; 0 is the first"})
    images: int | None = field(
        default=None, metadata={"help": "at most so many; null: 64, on the terminal 16, or all that slots= names"}
    )
    out: str | None = field(
        default=None,
        metadata={
            "help": "PNG to write; -: draw on the terminal; null: draw there if it is one, else write"
            " step-<step>.png into the run's folder or this one"
        },
    )
    seed: int = field(default=0, metadata={"help": "the run's seed"})
    data: InspectDataConfig = field(default_factory=InspectDataConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    order: OrderConfig = MISSING
    augment: AugmentConfig = MISSING

    def __post_init__(self) -> None:
        require(self.step >= 1, f"step={self.step}: at least 1 wanted, the first update")
        require(self.ranks >= 1, f"ranks={self.ranks}: at least 1 wanted")
        rank, micro = self.rank, self.micro
        require(rank is None or 0 <= rank < self.ranks, f"rank={rank}: 0 to ranks - 1 wanted, with ranks={self.ranks}")
        require(micro is None or micro >= 0, f"micro={micro}: 0 is the first")
        require(self.images is None or self.images >= 1, f"images={self.images}: at least 1 wanted")
        valid = self.slots is None or SLOTS_PATTERN.fullmatch(self.slots)
        require(bool(valid), f"slots={self.slots}: first:end wanted, as in slots=64:128")

    def slot_range(self, num_slots: int) -> tuple[int, int]:
        """Return the first and the end of the wanted slots of `num_slots`."""
        match = SLOTS_PATTERN.fullmatch(self.slots or ":")
        assert match is not None, "checked when it was made"
        return int(match[1] or 0), min(num_slots, int(match[2] or num_slots))


INSPECT_SCHEMAS = {
    "root": InspectConfig,
    **{name: schema for name, schema in TRAIN_SCHEMAS.items() if name.split("/")[0] in ("order", "augment")},
}
