"""Schema of `conf/prepare.yaml`: what a user may choose about preparation, checked before any work starts.

config = compose("prepare", PREPARE_SCHEMAS, ["source=folder", "source.root=photos", "out=data/photos"])
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from data_prep.source_config import SOURCE_SCHEMAS, SourceConfig
from pipeline.compose import MISSING

# Pillow refuses to open larger ones, whatever the options say: twice its MAX_IMAGE_PIXELS.
MAX_PIXELS_LIMIT = 178_956_970


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
    pixel_shuffle_seed: int | None = field(
        default=None, metadata={"help": "shuffle the pixels of every image by the permutation of this seed; null: off"}
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
    classes: list[str] | None = field(
        default=None, metadata={"help": "classes to keep, as in [ship,airplane], numbered in this order; null: all"}
    )
    source: SourceConfig = MISSING
    layout: LayoutConfig = MISSING
    engine: EngineConfig = MISSING

    def __post_init__(self) -> None:
        if self.max_rejected < 0:
            raise ValueError(f"max_rejected={self.max_rejected}: at least 0 wanted")
        if self.classes is not None and not self.classes:
            raise ValueError("classes=[]: at least one wanted, or null for all")


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
    **SOURCE_SCHEMAS,
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
