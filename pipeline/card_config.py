"""Schema of `conf/model_card.yaml`: which run the page is about.

config = compose("model_card", CARD_SCHEMAS, ["run=runs/0001"])
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.data_config import CacheConfig
from pipeline.predict_config import TrainedDataConfig


@dataclass(slots=True, kw_only=True)
class CardConfig:
    run: str = field(default="runs/latest", metadata={"help": "folder of the run"})
    out: str | None = field(default=None, metadata={"help": "file to write; null: card.md in the run's folder"})
    data: TrainedDataConfig = field(default_factory=TrainedDataConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)


CARD_SCHEMAS = {"root": CardConfig}
