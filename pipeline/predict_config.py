"""Schema of `conf/predict.yaml`: which model, which images.

config = compose("predict", PREDICT_SCHEMAS, ["run=runs/0001", "images=[photos/cat.jpg,photos/dogs]"])
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.compose import MISSING, require
from pipeline.data_config import CacheConfig
from pipeline.trainer_config import Device


@dataclass(slots=True, kw_only=True)
class TrainedDataConfig:
    path: str | None = field(
        default=None, metadata={"help": "folder or URL where the run's data set is now; null: where it was"}
    )


@dataclass(slots=True, kw_only=True)
class PredictConfig:
    run: str = field(default="runs/latest", metadata={"help": "folder of a run, or of an export to safetensors"})
    images: list[str] = field(default=MISSING, metadata={"help": "image files, and folders of such"})
    out: str = field(default="predictions", metadata={"help": "folder for predictions.jsonl and predictions.png"})
    top: int = field(default=5, metadata={"help": "classes to name for each image"})
    sheet_images: int = field(default=64, metadata={"help": "images on predictions.png, the first ones; 0: no sheet"})
    batch_size: int = field(default=256, metadata={"help": "images in one forward pass"})
    device: Device = field(default=Device.auto, metadata={"help": "auto: a GPU where there is one"})
    data: TrainedDataConfig = field(default_factory=TrainedDataConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        require(len(self.images) >= 1, "images=[]: at least one file or folder wanted")
        require(self.top >= 1, f"top={self.top}: at least 1 wanted")
        require(self.sheet_images >= 0, f"sheet_images={self.sheet_images}: at least 0 wanted")
        require(self.batch_size >= 1, f"batch_size={self.batch_size}: at least 1 wanted")


PREDICT_SCHEMAS = {"root": PredictConfig}
