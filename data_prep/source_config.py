"""Schemas of the group `source` of `conf/prepare.yaml`: where images come from, and how they are read there.

config = compose("prepare", PREPARE_SCHEMAS, ["source=folder", "source.root=photos", "out=data/photos"])
config.source                       # a FolderSourceConfig
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pipeline.compose import MISSING


@dataclass(slots=True, kw_only=True)
class SourceConfig:
    """Any source; the group `source` picks the subclass."""


@dataclass(slots=True, kw_only=True)
class FolderSourceConfig(SourceConfig):
    root: str = field(
        default=MISSING, metadata={"help": "folder of class folders, or of train/ and val/ with class folders in each"}
    )
    val_frac: float = field(
        default=0.1, metadata={"help": "share of each class held out for val where there is no val/ folder; 0 for none"}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.val_frac < 1:
            raise ValueError(f"source.val_frac={self.val_frac}: 0 <= val_frac < 1 wanted")


@dataclass(slots=True, kw_only=True)
class Cifar10SourceConfig(SourceConfig):
    root: str = field(default="data/downloads", metadata={"help": "folder with the archives or the unpacked files"})
    download: bool = field(default=False, metadata={"help": "fetch what is missing into source.root"})


@dataclass(slots=True, kw_only=True)
class Cifar100SourceConfig(SourceConfig):
    root: str = field(default="data/downloads", metadata={"help": "folder with the archives or the unpacked files"})
    download: bool = field(default=False, metadata={"help": "fetch what is missing into source.root"})


@dataclass(slots=True, kw_only=True)
class IdxSourceConfig(SourceConfig):
    root: str = field(default="data/downloads", metadata={"help": "folder with the four idx files, gzipped or not"})
    download: bool = field(default=False, metadata={"help": "fetch MNIST into source.root where it is missing"})


@dataclass(slots=True, kw_only=True)
class DefaultSourceConfig(SourceConfig):
    root: str = field(default="data/downloads", metadata={"help": "folder that downloads go to"})


@dataclass(slots=True, kw_only=True)
class SyntheticSourceConfig(SourceConfig):
    samples: int = field(default=10_000, metadata={"help": "training images"})
    val_samples: int = field(default=1_000, metadata={"help": "validation images"})
    classes: int = field(default=10, metadata={"help": "number of classes"})
    channels: int = field(default=3, metadata={"help": "3 for colour, 1 for grey"})
    seed: int = field(default=0, metadata={"help": "seed of the images"})

    def __post_init__(self) -> None:
        if self.samples < 1 or self.val_samples < 0 or self.classes < 1:
            raise ValueError(
                f"source.samples={self.samples}, source.val_samples={self.val_samples}, source.classes={self.classes}:"
                " at least 1, 0 and 1 wanted"
            )
        if self.channels not in (1, 3):
            raise ValueError(f"source.channels={self.channels}: 1 or 3 wanted")


class PointsShape(Enum):
    """How points of different classes lie."""

    rings = "rings"
    halves = "halves"


@dataclass(slots=True, kw_only=True)
class PointsSourceConfig(SourceConfig):
    shape: PointsShape = field(
        default=PointsShape.rings,
        metadata={"help": "rings, one a class, or halves: two classes, on both sides of a line"},
    )
    samples: int = field(default=2_000, metadata={"help": "training points"})
    val_samples: int = field(default=2_000, metadata={"help": "validation points"})
    classes: int = field(default=2, metadata={"help": "number of classes; halves have two"})
    gap: float = field(
        default=0.0,
        metadata={"help": "halves: least distance from the line, in half widths; below 0: so far on the wrong side"},
    )
    seed: int = field(default=0, metadata={"help": "seed of the points"})

    def __post_init__(self) -> None:
        if self.samples < 1 or self.val_samples < 0 or not 1 <= self.classes <= 16:
            raise ValueError(
                f"source.samples={self.samples}, source.val_samples={self.val_samples}, source.classes={self.classes}:"
                " at least 1, 0 and 1 wanted, and at most 16 classes"
            )
        if self.shape is PointsShape.halves and self.classes != 2:
            raise ValueError(f"source.classes={self.classes}: source.shape=halves has 2 classes")
        if not abs(self.gap) < 0.6:
            raise ValueError(f"source.gap={self.gap}: over -0.6 and below 0.6 wanted")
        if self.gap != 0 and self.shape is PointsShape.rings:
            raise ValueError(f"source.gap={self.gap}: of source.shape=halves; rings have a gap of their own")


class Function(Enum):
    """The functions that can be sampled: of one variable waves and kinks, of two hills and ripples."""

    waves = "waves"
    kinks = "kinks"
    hills = "hills"
    ripples = "ripples"


@dataclass(slots=True, kw_only=True)
class FunctionSourceConfig(SourceConfig):
    function: Function = field(
        default=Function.waves,
        metadata={"help": "of one variable waves (sines), kinks (corners); of two hills (bumps), ripples (rings)"},
    )
    samples: int = field(default=2_000, metadata={"help": "training points"})
    val_samples: int = field(default=2_000, metadata={"help": "validation points"})
    noise: float = field(
        default=0.0, metadata={"help": "standard deviation of what is added to training targets; values are -1 to 1"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the points and of the noise"})

    def __post_init__(self) -> None:
        if self.samples < 1 or self.val_samples < 0:
            raise ValueError(
                f"source.samples={self.samples}, source.val_samples={self.val_samples}: at least 1 and 0 wanted"
            )
        if not 0 <= self.noise <= 100:
            raise ValueError(f"source.noise={self.noise}: 0 to 100 wanted")


class CocoTask(Enum):
    """What an item of COCO is: an image with any number of classes, or one object cut out."""

    multilabel = "multilabel"
    crops = "crops"


@dataclass(slots=True, kw_only=True)
class CocoSourceConfig(SourceConfig):
    root: str = field(default="data/coco", metadata={"help": "folder or URL with the zips, or with them unpacked"})
    task: CocoTask = field(
        default=CocoTask.multilabel, metadata={"help": "multilabel: one item an image; crops: an object"}
    )
    min_size: int = field(default=32, metadata={"help": "crops: the least shorter side of an object, pixels"})

    def __post_init__(self) -> None:
        if self.min_size < 1:
            raise ValueError(f"source.min_size={self.min_size}: at least 1 wanted")


@dataclass(slots=True, kw_only=True)
class ListSourceConfig(SourceConfig):
    """A list of image files, whatever its form."""

    root: str = field(
        default=MISSING,
        metadata={"help": "path or URL of the list; path,label[,split] in csv, the same fields in jsonl"},
    )
    images: str | None = field(
        default=None, metadata={"help": "folder or URL that the listed paths are below; null: where the list lies"}
    )
    classes: str | None = field(default=None, metadata={"help": "file of class names, one a line; null: the labels"})
    val_frac: float = field(
        default=0.1, metadata={"help": "share of each class held out for val where the list has no splits; 0 for none"}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.val_frac < 1:
            raise ValueError(f"source.val_frac={self.val_frac}: 0 <= val_frac < 1 wanted")


@dataclass(slots=True, kw_only=True)
class CsvSourceConfig(ListSourceConfig):
    pass


@dataclass(slots=True, kw_only=True)
class JsonlSourceConfig(ListSourceConfig):
    pass


@dataclass(slots=True, kw_only=True)
class ParquetSourceConfig(SourceConfig):
    root: str = field(default=MISSING, metadata={"help": "folder or URL with train-*.parquet, validation-*.parquet"})
    image_column: str | None = field(default=None, metadata={"help": "column of the image files' bytes; null: found"})
    label_column: str | None = field(default=None, metadata={"help": "column of the labels; null: found"})


@dataclass(slots=True, kw_only=True)
class WebdatasetSourceConfig(SourceConfig):
    root: str = field(
        default=MISSING, metadata={"help": "folder or URL with tars, or one with braces, as in web/a-{000..009}.tar"}
    )
    train: str = field(default="*train*", metadata={"help": "pattern of the paths of the training tars"})
    val: str = field(default="*val*", metadata={"help": "pattern of the paths of the validation tars"})
    label_field: str = field(default="label", metadata={"help": "field of the .json members that holds the label"})
    classes: str | None = field(default=None, metadata={"help": "file of class names, one a line; null: the labels"})


@dataclass(slots=True, kw_only=True)
class Imagenet1kSourceConfig(SourceConfig):
    root: str = field(
        default="data/downloads",
        metadata={"help": "folder or URL with the ILSVRC2012 tars and the devkit, or folder with Kaggle's tree or zip"},
    )


@dataclass(slots=True, kw_only=True)
class Imagenet21kSourceConfig(SourceConfig):
    root: str = field(
        default="data/downloads",
        metadata={"help": "folder or URL with class tars (n00004475.tar), or one tar or tar.gz of them"},
    )
    min_images: int = field(default=1, metadata={"help": "classes with fewer images are left out; 500 is usual"})
    val_per_class: int = field(
        default=50, metadata={"help": "images of each class held out for val, but at most a tenth of it; 0 for none"}
    )

    def __post_init__(self) -> None:
        if self.min_images < 1 or self.val_per_class < 0:
            raise ValueError(
                f"source.min_images={self.min_images}, source.val_per_class={self.val_per_class}:"
                " at least 1 and 0 wanted"
            )


@dataclass(slots=True, kw_only=True)
class TinyImagenetSourceConfig(SourceConfig):
    root: str = field(
        default="data/downloads",
        metadata={"help": "folder or URL with tiny-imagenet-200.zip, or folder with what it unpacks to"},
    )


SOURCE_SCHEMAS = {
    "source/default": DefaultSourceConfig,
    "source/folder": FolderSourceConfig,
    "source/cifar10": Cifar10SourceConfig,
    "source/cifar100": Cifar100SourceConfig,
    "source/idx": IdxSourceConfig,
    "source/synthetic": SyntheticSourceConfig,
    "source/points": PointsSourceConfig,
    "source/function": FunctionSourceConfig,
    "source/coco": CocoSourceConfig,
    "source/csv": CsvSourceConfig,
    "source/jsonl": JsonlSourceConfig,
    "source/parquet": ParquetSourceConfig,
    "source/webdataset": WebdatasetSourceConfig,
    "source/imagenet1k": Imagenet1kSourceConfig,
    "source/imagenet21k": Imagenet21kSourceConfig,
    "source/tiny_imagenet": TinyImagenetSourceConfig,
}
