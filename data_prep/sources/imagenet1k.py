"""ImageNet-1k as its publishers hand it out, with nothing extracted: the tars, Kaggle's tree or zip, Parquet shards.

    source = open_imagenet1k("imagenet")            # a folder, or a URL prefix for the tars, the zip and Parquet
    source.classes[0], source.class_ids[0]          # "tench, Tinca tinca", "n01440764"
    next(source.list_items("train")).source_keys[0] # "n01440764/n01440764_10026.JPEG"

Classes are numbered by their sorted WordNet ids, as the whole field does it. Which classes there are is said by the
publishers' lists (imagenet_labels.py), so that a cut with fewer classes keeps every class's number; without a list
they are the ones found. Either split may be missing.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from data_prep.sources.base import Items, Source
from data_prep.sources.class_tars import Image
from data_prep.sources.imagenet_labels import DEVKIT_ARCHIVE, Labels, find_labels
from data_prep.sources.imagenet_places import (
    KAGGLE_FOLDER,
    KAGGLE_ZIP,
    TRAIN_ARCHIVE,
    VAL_ARCHIVE,
    Places,
    find_places,
)
from data_prep.sources.parquet import open_parquet
from data_prep.sources.rows import Row, gathered
from data_prep.sources.wordnet import class_names
from data_prep.sources.zip_files import read_listed
from pipeline.shards.errors import UserError
from pipeline.shards.task import Task
from pipeline.storage import Store, open_store

logger = logging.getLogger(__name__)


def open_imagenet1k(root: str) -> Source:
    """Open ImageNet-1k below a folder or URL; images are only listed when they are asked for.

    Raises:
        UserError: none of its forms is there; the message says where each can be had.
    """
    store = open_store(root)
    places = find_places(store)
    if places.train is not None or places.val is not None:
        return Imagenet1kSource(store, places=places)
    if "{" in root or _has_parquet(store):
        # Hugging Face numbers the classes by their sorted WordNet ids too, so that the publishers' lists fit.
        labels = find_labels(store) if "{" not in root else None
        class_ids = labels.class_ids if labels else None
        classes = class_names(class_ids, labels.words) if labels and class_ids else None
        return open_parquet(root, name=Imagenet1kSource.name, classes=classes, class_ids=class_ids)
    raise UserError(_missing(root, store))


class Imagenet1kSource:
    """Opened ImageNet-1k."""

    name = "ImageNet-1k"
    task = Task.classification
    native_shape = None

    def __init__(self, store: Store, *, places: Places) -> None:
        self._store = store
        self._places = places

    @property
    def splits(self) -> tuple[str, ...]:
        """train, val, or both."""
        return tuple(
            name for name, place in (("train", self._places.train), ("val", self._places.val)) if place is not None
        )

    @cached_property
    def class_ids(self) -> tuple[str, ...]:
        """Sorted WordNet ids: the ones that the publishers' list names, else all that are found.

        Raises:
            UserError: a class tar or folder that the list does not name.
        """
        found = set(self._places.train.class_ids()) if self._places.train else set()
        listed = self._labels.class_ids
        if listed is None:
            in_folders = (class_id for _, class_id in self._val_images if class_id)
            return tuple(sorted(found.union(self._labels.by_number, self._labels.by_name.values(), in_folders)))
        unknown = sorted(found.difference(listed))
        if unknown:
            raise UserError(
                f"source.root={self._store.location}: train has class {unknown[0]}, which the list of {len(listed):,}"
                f" classes in {self._places.lists.location} does not name ({len(unknown)} such);"
                " source=imagenet21k takes any classes"
            )
        return listed

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """WordNet's words, such as "tench, Tinca tinca"; words that two classes share carry the id behind them."""
        return class_names(self.class_ids, self._labels.words)

    def list_items(self, split: str) -> Iterator[Items]:
        """List a split: train by class and name, val by name.

        Raises:
            UserError, DamageError: an archive or a list is not what it should be, or they do not fit together.
        """
        numbers = {class_id: number for number, class_id in enumerate(self.class_ids)}
        yield from gathered(self._val_rows(numbers) if split == "val" else self._train_rows(numbers))

    def read(self, *, path: str, offset: int, size_bytes: int) -> bytes:
        """Return an image file's bytes.

        Raises:
            UserError: the archive or file is gone, or not what it was when it was listed.
        """
        return read_listed(self._store, path, offset=offset, size_bytes=size_bytes)

    @cached_property
    def _labels(self) -> Labels:
        return find_labels(self._places.lists)

    @cached_property
    def _val_images(self) -> list[tuple[Image, str | None]]:
        return self._places.val.images() if self._places.val else []

    def _train_rows(self, numbers: dict[str, int]) -> Iterator[Row]:
        assert self._places.train is not None
        num_classes = 0
        for class_id, images in self._places.train.images():
            num_classes += bool(images)
            label = numbers[class_id]
            yield from (Row(label, *image) for image in images)
        if self._places.val is None:
            logger.info("there is no %s, nor another form of it: no split val", VAL_ARCHIVE)
        if num_classes < len(numbers):
            logger.info("train has images of %s of the %s classes", f"{num_classes:,}", f"{len(numbers):,}")

    def _val_rows(self, numbers: dict[str, int]) -> Iterator[Row]:
        images = [image for image, _ in self._val_images]
        class_ids = [class_id for _, class_id in self._val_images]
        if None in class_ids:
            class_ids = list(self._labels.ids_of(image.key for image in images))
        for image, class_id in zip(images, class_ids, strict=True):
            if class_id not in numbers:
                raise UserError(f"{self._store.location}: val has {image.key} of class {class_id}, which is in no list")
            yield Row(numbers[class_id], *image)


def _has_parquet(store: Store) -> bool:
    """Tell whether Parquet files lie below a store's root; a web server, which cannot list, never has any."""
    if store.location.startswith(("http://", "https://")):
        return False
    return any(file.name.endswith(".parquet") for file in store.list_files())


def _missing(root: str, store: Store) -> str:
    """Return what to do where nothing is found: where each form can be had, and what to type."""
    remote = store.local_path("train") is None
    absent = not remote and not Path(root).expanduser().is_dir()
    quoted = shlex.quote(root)
    folder = "." if remote else quoted
    return (
        f"source.root={root}: {'no such folder' if absent else 'no ImageNet-1k in it'}; looked for {TRAIN_ARCHIVE},"
        f" {VAL_ARCHIVE} (with {DEVKIT_ARCHIVE}), {KAGGLE_FOLDER}/train and val, {KAGGLE_ZIP}, Parquet files."
        " ImageNet may not be handed on, so each of its publishers wants a free account and your consent to its terms."
        " The tars: https://image-net.org/download-images (ILSVRC2012). The zip:"
        " https://www.kaggle.com/competitions/imagenet-object-localization-challenge, then"
        f" `kaggle competitions download -c imagenet-object-localization-challenge -p {folder}`."
        " Parquet: https://huggingface.co/datasets/ILSVRC/imagenet-1k, then"
        f" `hf download ILSVRC/imagenet-1k --repo-type dataset --local-dir {folder}`."
        f" Put one of them into {root} as it is, then type: make prepare-data"
        f' ARGS="source=imagenet1k source.root={quoted} out=data/imagenet1k-64 layout.resolution=64"'
    )
