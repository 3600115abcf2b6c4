"""Schema of `conf/export.yaml`: which model, in which form.

config = compose("export", EXPORT_SCHEMAS, ["run=runs/0001", "format=onnx", "out=exports/mine"])
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pipeline.compose import MISSING, require
from pipeline.data_config import CacheConfig
from pipeline.predict_config import TrainedDataConfig


class Format(Enum):
    safetensors = "safetensors"
    onnx = "onnx"
    torch_export = "torch_export"


@dataclass(slots=True, kw_only=True)
class ExportConfig:
    run: str = field(default="runs/latest", metadata={"help": "folder of the run"})
    out: str = field(default=MISSING, metadata={"help": "folder to make"})
    format: Format = field(default=Format.safetensors, metadata={"help": "|".join(item.name for item in Format)})
    normalise: bool = field(
        default=True,
        metadata={"help": "onnx, torch_export: takes uint8 images (B,H,W,C); false: takes normalised floats (B,D)"},
    )
    split: str | None = field(default=None, metadata={"help": "whose samples it is checked on; null: the run's val"})
    samples: int = field(default=64, metadata={"help": "samples that it is checked on"})
    data: TrainedDataConfig = field(default_factory=TrainedDataConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        require(self.samples >= 1, f"samples={self.samples}: at least 1 wanted")


EXPORT_SCHEMAS = {"root": ExportConfig}
