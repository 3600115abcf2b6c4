"""Schema of `conf/coord_check.yaml`: the model and optimiser whose width transfer is checked, as training has them.

config = compose("coord_check", COORD_CHECK_SCHEMAS, ["model=bottleneck_mlp", "optimizer=lion", "widths=[64,128,256]"])
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.compose import MISSING, require
from pipeline.config import TRAIN_SCHEMAS
from pipeline.model_config import ModelConfig
from pipeline.optimizer_config import OptimizerConfig


@dataclass(slots=True, kw_only=True)
class CoordCheckConfig:
    widths: list[int] = field(
        default_factory=lambda: [64, 128, 256, 512, 1024],
        metadata={"help": "widths to compare, in place of model.width; the first is the base width of muP"},
    )
    steps: int = field(default=3, metadata={"help": "updates, all on one batch"})
    seeds: int = field(default=3, metadata={"help": "models of each width; their geometric mean counts"})
    batch_size: int = field(default=64, metadata={"help": "samples: normal noise, with labels at random"})
    image_shape: list[int] = field(default_factory=lambda: [16, 16, 3], metadata={"help": "height, width, channels"})
    classes: int = field(default=10, metadata={"help": "classes of the labels"})
    out: str = field(default="coord_check.png", metadata={"help": "file of the plot"})
    model: ModelConfig = MISSING
    optimizer: OptimizerConfig = MISSING

    def __post_init__(self) -> None:
        enough = len(set(self.widths)) == len(self.widths) >= 2 and min(self.widths) >= 1
        require(enough, f"widths={self.widths}: at least two, each at least 1, wanted")
        sizes = {"steps": self.steps, "seeds": self.seeds, "batch_size": self.batch_size}
        for name, size in sizes.items():
            require(size >= 1, f"{name}={size}: at least 1 wanted")
        require(self.classes >= 2, f"classes={self.classes}: at least 2 wanted")
        shape = self.image_shape
        require(len(shape) == 3 and min(shape) >= 1, f"image_shape={shape}: height, width, channels wanted")


COORD_CHECK_SCHEMAS = {
    "root": CoordCheckConfig,
    **{name: schema for name, schema in TRAIN_SCHEMAS.items() if name.split("/")[0] in ("model", "optimizer")},
}
