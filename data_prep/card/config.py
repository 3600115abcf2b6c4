"""Schema of `conf/card.yaml`: the options of `python -m data_prep.card`."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass(slots=True, kw_only=True)
class CardConfig:
    path: str = field(default=MISSING, metadata={"help": "folder or URL prefix of the data set"})


CARD_SCHEMAS = {"root": CardConfig}
