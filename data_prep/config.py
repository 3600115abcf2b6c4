"""Schema of `conf/prepare.yaml`: what a user may choose about preparation, checked before any work starts.

config = compose("prepare", PREPARE_SCHEMAS, ["source=folder", "source.root=photos", "out=data/photos"])
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

# Pillow refuses to open larger ones, whatever the options say: twice its MAX_IMAGE_PIXELS.
MAX_PIXELS_LIMIT = 178_956_970


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


@dataclass(slots=True, kw_only=True)
class PointsSourceConfig(SourceConfig):
    samples: int = field(default=2_000, metadata={"help": "training points"})
    val_samples: int = field(default=2_000, metadata={"help": "validation points"})
    classes: int = field(default=2, metadata={"help": "rings, one a class"})
    seed: int = field(default=0, metadata={"help": "seed of the points"})

    def __post_init__(self) -> None:
        if self.samples < 1 or self.val_samples < 0 or not 1 <= self.classes <= 16:
            raise ValueError(
                f"source.samples={self.samples}, source.val_samples={self.val_samples}, source.classes={self.classes}:"
                " at least 1, 0 and 1 wanted, and at most 16 classes"
            )


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


class Fit(Enum):
    """How an image of another shape becomes height x width."""

    crop = "crop"
    stretch = "stretch"


class Channels(Enum):
    """Channels to store; `source` keeps grey where the source says that every image is grey."""

    source = "source"
    rgb = "rgb"
    grey = "grey"


@dataclass(slots=True, kw_only=True)
class LayoutConfig:
    """Any layout; the group `layout` picks the subclass."""

    resolution: int | None = field(
        default=None, metadata={"help": "height and width in pixels; null: the source's own where constant, else 64"}
    )
    shard_bytes: int = field(default=128 << 20, metadata={"help": "target size of a shard, bytes"})
    max_pixels: int = field(default=100_000_000, metadata={"help": "an image of more pixels is rejected undecoded"})
    exif_orientation: bool = field(default=False, metadata={"help": "turn images as their EXIF tag says"})

    def __post_init__(self) -> None:
        if self.resolution is not None and not 1 <= self.resolution <= 65_535:
            raise ValueError(f"layout.resolution={self.resolution}: 1 to 65535 wanted")
        if self.shard_bytes < 1:
            raise ValueError(f"layout.shard_bytes={self.shard_bytes}: at least 1 wanted")
        if not 1 <= self.max_pixels <= MAX_PIXELS_LIMIT:
            raise ValueError(f"layout.max_pixels={self.max_pixels}: 1 to {MAX_PIXELS_LIMIT} wanted")


@dataclass(slots=True, kw_only=True)
class PackedLayoutConfig(LayoutConfig):
    fit: Fit = field(default=Fit.crop, metadata={"help": "crop: shortest side to size, then the centre; or stretch"})
    channels: Channels = field(default=Channels.source, metadata={"help": "source, rgb or grey"})
    min_scale: float | None = field(
        default=2.0,
        metadata={
            "help": "decode a JPEG at 1/8, 1/4 or 1/2 where that is still this many times the target; null: whole"
        },
    )

    def __post_init__(self) -> None:
        # super() without arguments names the class from before slots=True made it anew.
        LayoutConfig.__post_init__(self)
        if self.min_scale is not None and not self.min_scale >= 1:
            raise ValueError(f"layout.min_scale={self.min_scale}: at least 1 wanted, or null to decode JPEGs whole")


@dataclass(slots=True, kw_only=True)
class EncodedLayoutConfig(LayoutConfig):
    """JPEG, PNG and WebP bytes as they are; `resolution` is the longest shortest side, null for any."""

    decode_check: bool = field(
        default=True, metadata={"help": "decode each image once, to reject bad ones and to measure mean and std"}
    )


@dataclass(slots=True, kw_only=True)
class EngineConfig:
    """Any engine; the group `engine` picks the subclass."""

    workers: int | None = field(default=None, metadata={"help": "worker processes; null: one a core"})

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"engine.workers={self.workers}: at least 1 wanted, or null for one a core")


@dataclass(slots=True, kw_only=True)
class LocalEngineConfig(EngineConfig):
    pass


@dataclass(slots=True, kw_only=True)
class RayEngineConfig(EngineConfig):
    """Nothing that decides a byte of the result, as with every engine."""

    address: str | None = field(
        default=None,
        metadata={"help": "of a running cluster: HOST:PORT, ray://HOST:PORT or auto; null: a Ray of its own, here"},
    )


class Cluster(Enum):
    """What runs the jobs of `engine=slurm`; `local` is for trying things out without Slurm."""

    slurm = "slurm"
    local = "local"


@dataclass(slots=True, kw_only=True)
class SlurmEngineConfig(EngineConfig):
    workers: int | None = field(default=8, metadata={"help": "jobs in the array"})
    partition: str | None = field(default=None, metadata={"help": "as sbatch has it; null: the cluster's own"})
    account: str | None = field(default=None, metadata={"help": "as sbatch has it; null: your own"})
    time_min: int = field(default=240, metadata={"help": "limit of a job, minutes; a job that meets it is followed up"})
    cpus_per_task: int = field(default=1, metadata={"help": "cores of a job; it builds that many shards at a time"})
    mem_gb: int | None = field(default=None, metadata={"help": "memory of a job, GB; null: the cluster's own"})
    extra: list[str] = field(
        default_factory=list, metadata={"help": "more of sbatch's options, as [qos:high,exclusive]"}
    )
    folder: str | None = field(
        default=None, metadata={"help": "shared folder for logs and job files; null: plan/slurm in out"}
    )
    cluster: Cluster = field(default=Cluster.slurm, metadata={"help": "local: the jobs run here, without Slurm"})

    def __post_init__(self) -> None:
        EngineConfig.__post_init__(self)
        for name in ("workers", "time_min", "cpus_per_task", "mem_gb"):
            value = getattr(self, name)
            if (value is None and name == "workers") or (value is not None and value < 1):
                raise ValueError(f"engine.{name}={value}: at least 1 wanted")


@dataclass(slots=True, kw_only=True)
class PrepareConfig:
    out: str = field(default="data/default", metadata={"help": "folder to write the data set to"})
    seed: int = field(default=0, metadata={"help": "seed of the global shuffle into shards"})
    max_rejected: int = field(default=0, metadata={"help": "how many bad items may be left out before it is an error"})
    source: SourceConfig = MISSING
    layout: LayoutConfig = MISSING
    engine: EngineConfig = MISSING

    def __post_init__(self) -> None:
        if self.max_rejected < 0:
            raise ValueError(f"max_rejected={self.max_rejected}: at least 0 wanted")


@dataclass(slots=True, kw_only=True)
class VerifyConfig:
    path: str = field(default=MISSING, metadata={"help": "folder of the data set"})
    decode: int = field(default=8, metadata={"help": "images to decode in each shard of the encoded layout"})

    def __post_init__(self) -> None:
        if self.decode < 0:
            raise ValueError(f"decode={self.decode}: at least 0 wanted")


@dataclass(slots=True, kw_only=True)
class RepairConfig:
    path: str = field(default=MISSING, metadata={"help": "folder or URL of the data set"})
    root: str | None = field(default=None, metadata={"help": "where the source lies now; null: where it was"})
    engine: EngineConfig = MISSING


class Export(Enum):
    """Indexes for other readers."""

    none = "none"
    wds2idx = "wds2idx"


@dataclass(slots=True, kw_only=True)
class IndexConfig:
    path: str = field(
        default=MISSING, metadata={"help": "folder or URL with tars, or one with braces, as in web/a-{000..009}.tar"}
    )
    out: str | None = field(
        default=None, metadata={"help": "folder or URL for sidecars and manifests; null: beside the tars"}
    )
    export: Export = field(default=Export.none, metadata={"help": "wds2idx: write NVIDIA DALI's indexes instead"})
    train: str = field(default="*train*", metadata={"help": "pattern of the paths of the training tars"})
    val: str = field(default="*val*", metadata={"help": "pattern of the paths of the validation tars"})
    label_field: str = field(default="label", metadata={"help": "field of the .json members that holds the label"})
    classes: str | None = field(default=None, metadata={"help": "file of class names, one a line; null: the labels"})
    image: str | None = field(
        default=None, metadata={"help": "the member that is the image, as in jpg or left.png; null: by its extension"}
    )
    workers: int | None = field(default=None, metadata={"help": "tars read at once; null: one a core"})
    max_rejected: int = field(default=0, metadata={"help": "bad samples that may be left out before it is an error"})

    def __post_init__(self) -> None:
        if self.max_rejected < 0 or (self.workers is not None and self.workers < 1):
            raise ValueError(f"max_rejected={self.max_rejected}, workers={self.workers}: at least 0 and 1 wanted")


PREPARE_SCHEMAS = {
    "root": PrepareConfig,
    "source/default": DefaultSourceConfig,
    "source/folder": FolderSourceConfig,
    "source/cifar10": Cifar10SourceConfig,
    "source/cifar100": Cifar100SourceConfig,
    "source/idx": IdxSourceConfig,
    "source/synthetic": SyntheticSourceConfig,
    "source/points": PointsSourceConfig,
    "source/coco": CocoSourceConfig,
    "source/csv": CsvSourceConfig,
    "source/jsonl": JsonlSourceConfig,
    "source/parquet": ParquetSourceConfig,
    "source/webdataset": WebdatasetSourceConfig,
    "source/imagenet1k": Imagenet1kSourceConfig,
    "source/imagenet21k": Imagenet21kSourceConfig,
    "source/tiny_imagenet": TinyImagenetSourceConfig,
    "layout/packed": PackedLayoutConfig,
    "layout/encoded": EncodedLayoutConfig,
    "engine/local": LocalEngineConfig,
    "engine/ray": RayEngineConfig,
    "engine/slurm": SlurmEngineConfig,
}
VERIFY_SCHEMAS = {"root": VerifyConfig}
REPAIR_SCHEMAS = {"root": RepairConfig} | {
    name: schema for name, schema in PREPARE_SCHEMAS.items() if name.startswith("engine/")
}
INDEX_SCHEMAS = {"root": IndexConfig}
