"""Schemas of what a run reads: data, cache, batch, order, augmentation; for training and for all that looks at a run.

    DataConfig(path="s3://bucket/imagenet-64", memory_bytes=4_000_000_000)

Checks of what the data set must fit (shapes, counts) stand in build_data.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pipeline.compose import require

FULL_BATCH = "full"
# Feeds look this many steps ahead at least, for what must not be let go.
MAX_PREFETCH = 63


class Check(Enum):
    """How much of the data to re-read before training starts."""

    auto = "auto"
    full = "full"
    sizes = "sizes"


@dataclass(slots=True, kw_only=True)
class DataConfig:
    path: str = field(default="data/default", metadata={"help": "folder or URL of the data set"})
    paths: list[str] | None = field(default=None, metadata={"help": "data sets to mix; null: data.path alone"})
    weights: list[int] | None = field(
        default=None, metadata={"help": "whole numbers, the shares of data.paths in each batch; null: by their sizes"}
    )
    train_split: str = field(default="train", metadata={"help": "split to train on"})
    val_split: str = field(default="val", metadata={"help": "split to evaluate on"})
    train_samples: int | None = field(
        default=None,
        metadata={"help": "train on so many samples of the split, the first of a fixed permutation; null: on all"},
    )
    subset_seed: int = field(
        default=0, metadata={"help": "which samples data.train_samples takes; with one seed fewer are part of more"}
    )
    label_noise: float = field(
        default=0.0,
        metadata={"help": "share of the training labels that are replaced by a class drawn at random; 1: all of them"},
    )
    label_noise_seed: int = field(default=0, metadata={"help": "decides which labels are replaced, and by what"})
    check: Check = field(
        default=Check.auto, metadata={"help": "full: checksums of all shards; sizes: lengths only; auto: full to 4 GB"}
    )
    prefetch: int = field(default=3, metadata={"help": "batches kept ready ahead of the step"})
    resolution: int | None = field(
        default=None, metadata={"help": "side that encoded images are brought to; null: 64; packed ones have their own"}
    )
    decode_threads: int | None = field(
        default=None, metadata={"help": "threads of a rank that decode encoded images; null: its share of the cores"}
    )
    memory_bytes: int | None = field(
        default=None,
        metadata={"help": "bytes of local shards in memory, each rank; null: all, or half of it where they do not fit"},
    )
    verify_records: bool = field(
        default=False, metadata={"help": "check the CRC-32 of each encoded record when it is first read"}
    )

    stream: Any = field(
        default=None,
        metadata={"help": "train from tars without an index: a file, a URL with {000..146}, pipe:COMMAND, or a list"},
    )
    stream_classes: int | None = field(default=None, metadata={"help": "number of classes of the stream's labels"})
    stream_samples_per_epoch: int | None = field(default=None, metadata={"help": "samples that make an epoch"})
    stream_shuffle: int = field(default=1000, metadata={"help": "samples in a rank's shuffle buffer; 0: off"})
    stream_resampled: bool = field(
        default=False, metadata={"help": "each rank draws from all shards, instead of getting a share of them"}
    )
    stream_max_rejected: int = field(default=0, metadata={"help": "bad samples that a rank may skip in an epoch"})
    stream_label_field: str = field(default="label", metadata={"help": "field of .json members that holds the class"})
    val_stream: Any = field(default=None, metadata={"help": "tars to evaluate on, named as data.stream's"})
    val_stream_samples: int | None = field(default=None, metadata={"help": "samples in data.val_stream"})

    @property
    def places(self) -> list[str]:
        """Folders and URLs of all data sets, or the stream."""
        if self.stream is not None:
            return [self.stream] if isinstance(self.stream, str) else self.stream
        return self.paths or [self.path]

    def __post_init__(self) -> None:
        for name in ("stream_shuffle", "stream_max_rejected"):
            require(getattr(self, name) >= 0, f"data.{name}={getattr(self, name)}: at least 0 wanted")
        for name in ("stream", "val_stream"):
            value = getattr(self, name)
            texts = value if isinstance(value, list) else [value or ""]
            require(all(isinstance(text, str) for text in texts), f"data.{name}={value}: shards, or a list, wanted")
        needed = ("stream_classes", "stream_samples_per_epoch", "val_stream", "val_stream_samples")
        for name in needed if self.stream is not None else ():
            value = getattr(self, name)
            require(value is not None, f"data.stream needs data.{name} too (see --help)")
            require(not isinstance(value, int) or value >= 1, f"data.{name}={value}: at least 1 wanted")
        require(self.paths is None or len(self.paths) >= 1, "data.paths=[]: at least one, or null, wanted")
        given = f"data.weights={self.weights}"
        require(self.weights is None or self.paths is not None, f"{given}: says how data.paths are mixed, give these")
        fitting = self.weights is None or len(self.weights) == len(self.paths or [])
        require(fitting, f"{given}: one for each of the {len(self.paths or [])} data.paths wanted")
        require(min(self.weights or [1]) >= 1, f"{given}: at least 1 each wanted")
        require(1 <= self.prefetch <= MAX_PREFETCH, f"data.prefetch={self.prefetch}: 1 to {MAX_PREFETCH} wanted")
        part = f"data.train_samples={self.train_samples}"
        one = self.train_samples is None or (self.paths is None and self.stream is None)
        require(one, f"{part}: of one data set, not of data.paths or data.stream; leave it out, or use data.path")
        noise = f"data.label_noise={self.label_noise}"
        require(0 <= self.label_noise <= 1, f"{noise}: a share, 0 to 1, wanted")
        require(
            not self.label_noise or self.stream is None, f"{noise}: not of data.stream, whose samples have no number"
        )
        for name in ("resolution", "decode_threads", "memory_bytes", "train_samples"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"data.{name}={value}: at least 1, or null, wanted")


@dataclass(slots=True, kw_only=True)
class CacheConfig:
    dir: str = field(default="~/.cache/tarmac", metadata={"help": "folder of this machine for shards from a URL"})
    max_bytes: int = field(default=100_000_000_000, metadata={"help": "what all files in it may have together"})
    patience_s: float = field(
        default=600.0, metadata={"help": "how long a server may fail, or the cache be full, before that is an error"}
    )

    def __post_init__(self) -> None:
        require(self.max_bytes >= 1, f"cache.max_bytes={self.max_bytes}: at least 1 wanted")
        require(self.patience_s >= 0, f"cache.patience_s={self.patience_s}: at least 0 wanted")


@dataclass(slots=True, kw_only=True)
class BatchConfig:
    size: int | str = field(
        default=256, metadata={"help": "samples in one update, over all ranks; 'full': the whole split"}
    )
    micro_size: int | None = field(
        default=None, metadata={"help": "samples in one forward pass, over all ranks; null: the whole batch"}
    )

    def __post_init__(self) -> None:
        valid = self.size == FULL_BATCH or (isinstance(self.size, int) and self.size >= 1)
        require(valid, f"batch.size={self.size}: a whole number from 1, or full, wanted")
        micro_valid = self.micro_size is None or self.micro_size >= 1
        require(micro_valid, f"batch.micro_size={self.micro_size}: at least 1, or null, wanted")


@dataclass(slots=True, kw_only=True)
class OrderConfig:
    """Any order of training; the group `order` picks the subclass."""


@dataclass(slots=True, kw_only=True)
class FullOrderConfig(OrderConfig):
    pass


@dataclass(slots=True, kw_only=True)
class WindowOrderConfig(OrderConfig):
    lanes: int = field(
        default=8, metadata={"help": "parts of a batch that read shards of their own; no fewer than hosts; divides it"}
    )
    window_chunks: int = field(default=4, metadata={"help": "chunks of a lane whose samples are mixed"})
    chunk_samples: int | None = field(
        default=None,
        metadata={"help": "samples of one shard that stay together; null: a whole shard, read once an epoch"},
    )

    def __post_init__(self) -> None:
        for name in ("lanes", "window_chunks", "chunk_samples"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"order.{name}={value}: at least 1 wanted")


@dataclass(slots=True, kw_only=True)
class AugmentConfig:
    flip: bool = field(default=False, metadata={"help": "mirror each image with probability 1/2"})
    crop_padding: int = field(default=0, metadata={"help": "shift by up to this many pixels, zeros come in; 0: off"})
    mixup_alpha: float | None = field(
        default=None,
        metadata={"help": "blend each sample with its neighbour in the batch, shares of Beta(alpha, alpha); null: off"},
    )

    def __post_init__(self) -> None:
        require(self.crop_padding >= 0, f"augment.crop_padding={self.crop_padding}: at least 0 wanted")
        alpha = self.mixup_alpha
        valid = alpha is None or 0 < alpha < math.inf
        require(valid, f"augment.mixup_alpha={alpha}: more than 0, or null, wanted")


@dataclass(slots=True, kw_only=True)
class ResizedCropConfig(AugmentConfig):
    flip: bool = field(default=True, metadata={"help": "mirror each image with probability 1/2"})
    least_area_frac: float = field(default=0.08, metadata={"help": "least share of the image's area that is seen"})
    most_area_frac: float = field(default=1.0, metadata={"help": "greatest share of the image's area that is seen"})
    least_aspect: float = field(default=0.75, metadata={"help": "least width over height of what is seen"})
    most_aspect: float = field(default=4 / 3, metadata={"help": "greatest width over height of what is seen"})

    def __post_init__(self) -> None:
        super(ResizedCropConfig, self).__post_init__()
        require(self.crop_padding == 0, f"augment.crop_padding={self.crop_padding}: a resized crop takes none")
        areas, aspects = (self.least_area_frac, self.most_area_frac), (self.least_aspect, self.most_aspect)
        require(
            0 < areas[0] <= areas[1] <= 1, f"augment.least_area_frac, most_area_frac = {areas}: 0 < least <= most <= 1"
        )
        require(0 < aspects[0] <= aspects[1], f"augment.least_aspect, most_aspect = {aspects}: 0 < least <= most")
