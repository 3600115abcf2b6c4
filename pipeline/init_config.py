"""Schema of `init`: whose weights a run starts from.

InitConfig(run="runs/pretrained", freeze_body=True)     # a linear probe
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pipeline.compose import require


class Head(Enum):
    """What becomes of the last layer when a run starts from another."""

    new = "new"
    keep = "keep"


@dataclass(slots=True, kw_only=True)
class InitConfig:
    run: str | None = field(
        default=None, metadata={"help": "run or export whose weights training starts from; null: random ones"}
    )
    head: Head = field(
        default=Head.new, metadata={"help": "new: the last layer starts at random; keep: it is taken over too"}
    )
    freeze_body: bool = field(
        default=False, metadata={"help": "train the last layer alone, on features that stay: a linear probe"}
    )

    def __post_init__(self) -> None:
        require(
            self.run is not None or not self.freeze_body,
            "init.freeze_body=true: of which run is the body? add init.run=DIR",
        )
        require(
            self.run is not None or self.head is Head.new,
            "init.head=keep: of which run? add init.run=DIR",
        )
