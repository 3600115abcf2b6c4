"""Sources: image collections of every form, opened by one function.

source = open_source(config.source, resolution=config.layout.resolution)
"""

from __future__ import annotations

from data_prep.source_config import (
    Cifar10SourceConfig,
    Cifar100SourceConfig,
    CocoSourceConfig,
    CsvSourceConfig,
    DefaultSourceConfig,
    FolderSourceConfig,
    FunctionSourceConfig,
    IdxSourceConfig,
    Imagenet1kSourceConfig,
    Imagenet21kSourceConfig,
    JsonlSourceConfig,
    ParquetSourceConfig,
    PointsSourceConfig,
    SourceConfig,
    SyntheticSourceConfig,
    TinyImagenetSourceConfig,
    WebdatasetSourceConfig,
)
from data_prep.sources.base import Source
from data_prep.sources.cifar import CIFAR10, CIFAR100, open_cifar
from data_prep.sources.coco import open_coco
from data_prep.sources.default import open_default
from data_prep.sources.folder import open_folder
from data_prep.sources.function import FunctionSource
from data_prep.sources.idx import open_idx
from data_prep.sources.imagenet1k import open_imagenet1k
from data_prep.sources.imagenet21k import open_imagenet21k
from data_prep.sources.list_entries import csv_entries, jsonl_entries
from data_prep.sources.lists import open_list
from data_prep.sources.parquet import open_parquet
from data_prep.sources.points import PointsSource
from data_prep.sources.synthetic import SyntheticSource
from data_prep.sources.tiny_imagenet import open_tiny_imagenet
from data_prep.sources.webdataset import open_webdataset


def open_source(config: SourceConfig, *, resolution: int | None) -> Source:
    """Open the source that `config` describes, downloading it first where it says so.

    Args:
        config: one of the subclasses of SourceConfig.
        resolution: height and width of synthetic images in pixels, None for 64; other sources have their own.

    Raises:
        UserError: nothing is there, what is there is not of the source's form, or it cannot be downloaded.
    """
    match config:
        case FolderSourceConfig():
            return open_folder(config.root, val_frac=config.val_frac)
        case Cifar10SourceConfig():
            return open_cifar(config.root, collection=CIFAR10, download=config.download)
        case Cifar100SourceConfig():
            return open_cifar(config.root, collection=CIFAR100, download=config.download)
        case IdxSourceConfig():
            return open_idx(config.root, download=config.download)
        case DefaultSourceConfig():
            return open_default(config.root)
        case CocoSourceConfig():
            return open_coco(config.root, task=config.task, min_size=config.min_size)
        case Imagenet1kSourceConfig():
            return open_imagenet1k(config.root)
        case Imagenet21kSourceConfig():
            return open_imagenet21k(config.root, min_images=config.min_images, val_per_class=config.val_per_class)
        case CsvSourceConfig() | JsonlSourceConfig():
            return open_list(
                config.root,
                entries=csv_entries if isinstance(config, CsvSourceConfig) else jsonl_entries,
                images=config.images,
                classes=config.classes,
                val_frac=config.val_frac,
            )
        case TinyImagenetSourceConfig():
            return open_tiny_imagenet(config.root)
        case ParquetSourceConfig():
            return open_parquet(config.root, image_column=config.image_column, label_column=config.label_column)
        case WebdatasetSourceConfig():
            return open_webdataset(
                config.root,
                train=config.train,
                val=config.val,
                label_field=config.label_field,
                classes=config.classes,
            )
        case SyntheticSourceConfig():
            return SyntheticSource(
                samples=config.samples,
                val_samples=config.val_samples,
                classes=config.classes,
                channels=config.channels,
                seed=config.seed,
                resolution=resolution,
            )
        case PointsSourceConfig():
            return PointsSource(
                samples=config.samples,
                val_samples=config.val_samples,
                classes=config.classes,
                shape=config.shape,
                gap=config.gap,
                seed=config.seed,
            )
        case FunctionSourceConfig():
            return FunctionSource(
                function=config.function,
                samples=config.samples,
                val_samples=config.val_samples,
                noise=config.noise,
                seed=config.seed,
            )
    raise ValueError(f"{type(config).__name__}: no such source")
