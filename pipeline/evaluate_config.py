"""Schema of `conf/evaluate.yaml`: which run, on which samples, looked at how.

config = compose("evaluate", EVALUATE_SCHEMAS, ["run=runs/0001", "tta.crops=100", "labels=real.json"])
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.compose import require
from pipeline.data_config import CacheConfig, Check, ResizedCropConfig
from pipeline.trainer_config import Device


@dataclass(slots=True, kw_only=True)
class EvaluateDataConfig:
    path: str | None = field(default=None, metadata={"help": "folder or URL of the data set; null: the run's own"})
    check: Check = field(default=Check.auto, metadata={"help": "full, sizes or auto, as in training"})


@dataclass(slots=True, kw_only=True)
class LooksConfig:
    """Test-time augmentation: the boxes of a resized crop, which have the defaults of "Scaling MLPs"."""

    crops: int | None = field(
        default=None, metadata={"help": "random crops of each image whose predictions are averaged; null: the image"}
    )
    seed: int = field(default=0, metadata={"help": "decides the crops"})
    flip: bool = field(default=True, metadata={"help": "mirror each crop with probability 1/2"})
    least_area_frac: float = field(default=0.4, metadata={"help": "least share of the image's area that is seen"})
    most_area_frac: float = field(default=1.0, metadata={"help": "greatest share of the image's area that is seen"})
    least_aspect: float = field(default=1.0, metadata={"help": "least width over height of what is seen"})
    most_aspect: float = field(default=1.0, metadata={"help": "greatest width over height of what is seen"})

    def __post_init__(self) -> None:
        require(self.crops is None or self.crops >= 1, f"tta.crops={self.crops}: at least 1, or null, wanted")
        try:
            self.augmentation()
        except ValueError as error:
            raise ValueError(str(error).replace("augment.", "tta.")) from None

    def augmentation(self) -> ResizedCropConfig:
        """Return the augmentation of training that makes such crops."""
        return ResizedCropConfig(
            flip=self.flip,
            least_area_frac=self.least_area_frac,
            most_area_frac=self.most_area_frac,
            least_aspect=self.least_aspect,
            most_aspect=self.most_aspect,
        )


@dataclass(slots=True, kw_only=True)
class EvaluateConfig:
    run: str = field(default="runs/latest", metadata={"help": "folder of the run"})
    split: str | None = field(default=None, metadata={"help": "split to evaluate on; null: the run's own"})
    device: Device = field(default=Device.auto, metadata={"help": "auto: a GPU for each rank where there are any"})
    slots_per_rank: int = field(default=1000, metadata={"help": "samples in one forward pass of a rank"})
    labels: str | None = field(
        default=None,
        metadata={"help": "real.json of ImageNet-ReaL: also count its several right answers"},
    )
    out: str | None = field(default=None, metadata={"help": "file to write; null: evaluation.json in the run's folder"})
    tta: LooksConfig = field(default_factory=LooksConfig)
    data: EvaluateDataConfig = field(default_factory=EvaluateDataConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        require(self.slots_per_rank >= 1, f"slots_per_rank={self.slots_per_rank}: at least 1 wanted")


EVALUATE_SCHEMAS = {"root": EvaluateConfig}
