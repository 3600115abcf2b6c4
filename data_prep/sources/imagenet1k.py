"""ImageNet-1k as its publishers hand it out, with nothing extracted: the tars, Kaggle's tree or zip.

    source = open_imagenet1k("imagenet")            # a folder, or a URL prefix for the tars
    source.classes[0], source.class_ids[0]          # "tench, Tinca tinca", "n01440764"
    next(source.list_items("train")).source_keys[0] # "n01440764/n01440764_10026.JPEG"

Classes are numbered by their sorted WordNet ids, as the whole field does it. Which classes there are is said by the
publishers' lists (imagenet_labels.py), so that a cut with fewer classes keeps every class's number; without a list
they are the ones found. Either split may be missing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from data_prep.archives.zip import read_zip_entry
from data_prep.sources.base import Items
from data_prep.sources.class_tars import Image, items_of
from data_prep.sources.imagenet_labels import DEVKIT_ARCHIVE, SOLUTION_FILE, Labels, find_labels
from data_prep.sources.imagenet_places import (
    KAGGLE_FOLDER,
    KAGGLE_ZIP,
    MAX_IMAGE_BYTES,
    TRAIN_ARCHIVE,
    VAL_ARCHIVE,
    Train,
    Val,
    find_places,
)
from data_prep.sources.wordnet import WORDS_FILES, class_names
from pipeline.shards.errors import UserError
from pipeline.shards.task import Task
from pipeline.storage import Store, open_store

logger = logging.getLogger(__name__)

# Files that say which folder the publishers' lists lie in.
_LIST_FILES = (DEVKIT_ARCHIVE, SOLUTION_FILE, WORDS_FILES[0])


def open_imagenet1k(root: str) -> Imagenet1kSource:
    """Open ImageNet-1k below a folder or URL; images are only listed when they are asked for.

    Raises:
        UserError: none of its forms is there; the message says where each can be had.
    """
    store = open_store(root)
    train, val = find_places(store)
    if train is None and val is None:
        raise UserError(_missing(root, store))
    return Imagenet1kSource(store, train=train, val=val, lists=_lists_store(store))


class Imagenet1kSource:
    """Opened ImageNet-1k."""

    name = "ImageNet-1k"
    task = Task.classification
    native_shape = None

    def __init__(self, store: Store, *, train: Train | None, val: Val | None, lists: Store) -> None:
        self._store = store
        self._train = train
        self._val = val
        self._lists = lists

    @property
    def splits(self) -> tuple[str, ...]:
        """train, val, or both."""
        return tuple(name for name, place in (("train", self._train), ("val", self._val)) if place is not None)

    @cached_property
    def class_ids(self) -> tuple[str, ...]:
        """Sorted WordNet ids: the ones that the publishers' list names, else all that are found.

        Raises:
            UserError: a class tar or folder that the list does not name.
        """
        found = set(self._train.class_ids()) if self._train else set()
        listed = self._labels.class_ids
        if listed is None:
            in_folders = (class_id for _, class_id in self._val_images if class_id)
            return tuple(sorted(found.union(self._labels.by_number, self._labels.by_name.values(), in_folders)))
        unknown = sorted(found.difference(listed))
        if unknown:
            raise UserError(
                f"source.root={self._store.location}: train has class {unknown[0]}, which the list of {len(listed):,}"
                f" classes in {self._lists.location} does not name ({len(unknown)} such); is it another ImageNet?"
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
        yield from items_of(self._val_rows(numbers) if split == "val" else self._train_rows(numbers))

    def read(self, *, path: str, offset: int, size_bytes: int) -> bytes:
        """Return an image file's bytes.

        Raises:
            UserError: the archive or file is gone, or not what it was when it was listed.
        """
        if path == KAGGLE_ZIP:
            return read_zip_entry(self._store, path, offset=offset, size_bytes=size_bytes, max_bytes=MAX_IMAGE_BYTES)
        return self._store.read_at(path, offset=offset, size_bytes=size_bytes)

    @cached_property
    def _labels(self) -> Labels:
        return find_labels(self._lists)

    @cached_property
    def _val_images(self) -> list[tuple[Image, str | None]]:
        return self._val.images() if self._val else []

    def _train_rows(self, numbers: dict[str, int]) -> Iterator[tuple[int, list[Image]]]:
        assert self._train is not None
        num_classes = 0
        for class_id, images in self._train.images():
            num_classes += bool(images)
            yield numbers[class_id], images
        if num_classes < len(numbers):
            logger.info("train has images of %s of the %s classes", f"{num_classes:,}", f"{len(numbers):,}")

    def _val_rows(self, numbers: dict[str, int]) -> Iterator[tuple[int, list[Image]]]:
        images = [image for image, _ in self._val_images]
        class_ids = [class_id for _, class_id in self._val_images]
        if None in class_ids:
            class_ids = list(self._labels.ids_of(image.key for image in images))
        for image, class_id in zip(images, class_ids, strict=True):
            if class_id not in numbers:
                raise UserError(f"{self._store.location}: val has {image.key} of class {class_id}, which is in no list")
            yield numbers[class_id], [image]


def _lists_store(store: Store) -> Store:
    """Return the root, or one of the folders above it: Kaggle's lists lie beside ILSVRC, CLS-LOC is three below."""
    places = [store]
    if (path := store.local_path("train")) is not None:
        above = path.parent.resolve().parents[:3]
        if path.parent.resolve().name in ("ILSVRC", "CLS-LOC"):
            places += [open_store(str(folder)) for folder in above]
    for place in places:
        if any(place.size_of(name) is not None for name in _LIST_FILES):
            return place
    return store


def _missing(root: str, store: Store) -> str:
    """Return what to do where nothing is found: where each form can be had, and what to type."""
    folder = root.rstrip("/") or "/"
    remote = store.local_path("train") is None
    absent = not remote and not Path(root).expanduser().is_dir()
    return (
        f"source.root={root}: {'no such folder' if absent else 'no ImageNet-1k in it'}; looked for {TRAIN_ARCHIVE},"
        f" {VAL_ARCHIVE} (with {DEVKIT_ARCHIVE}), {KAGGLE_FOLDER}/train and val, {KAGGLE_ZIP}."
        " ImageNet may not be handed on, so each of its publishers wants a free account and your consent to its terms."
        " The tars: https://image-net.org/download-images (ILSVRC2012). The zip:"
        " https://www.kaggle.com/competitions/imagenet-object-localization-challenge, then"
        f" `kaggle competitions download -c imagenet-object-localization-challenge -p {folder}`."
        f' Put either into {folder} as it is, then type: make prepare-data ARGS="source=imagenet1k source.root={root}'
        ' out=data/imagenet1k-64 layout.resolution=64"'
    )
