"""Tiny ImageNet, 200 classes of 64x64 images, from its original zip or from what that unpacks to.

    tiny-imagenet-200.zip: tiny-imagenet-200/wnids.txt, words.txt, train/n01443537/images/n01443537_0.JPEG ...,
                           val/val_annotations.txt, val/images/val_0.JPEG ..., test/ (has no labels; left alone)

    source = open_tiny_imagenet("downloads")
    source.classes[0], source.class_ids[0]              # "goldfish, Carassius auratus", "n01443537"
    next(source.list_items("val")).source_keys[0]       # "val_0.JPEG"

Classes are numbered by their sorted WordNet ids, not in the order of wnids.txt.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from data_prep.sources.base import Items
from data_prep.sources.class_tars import Image, is_image, sorted_images, tell_others
from data_prep.sources.rows import Row, gathered
from data_prep.sources.wordnet import Lists, class_names, is_wordnet_id, lines_of, parse_words, read_text
from data_prep.sources.zip_files import ZipFiles, read_listed
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.task import Task
from pipeline.storage import Store, open_store

FOLDER = "tiny-imagenet-200"
ARCHIVE = f"{FOLDER}.zip"
URL = f"http://cs231n.stanford.edu/{ARCHIVE}"
IDS_FILE, WORDS_FILE, VAL_LABELS_FILE = "wnids.txt", "words.txt", "val/val_annotations.txt"
MAX_VAL_IMAGES = 1_000_000


class _Files(Lists, Protocol):
    def below(self, folder: str) -> Iterator[Image]:
        """Yield all files below a folder; their keys are the names without it."""


def open_tiny_imagenet(root: str) -> TinyImagenetSource:
    """Open Tiny ImageNet below a folder or URL; nothing is listed yet.

    Raises:
        UserError: neither the zip nor what it unpacks to is there; the message says where it can be had.
    """
    store = open_store(root)
    if store.size_of(ARCHIVE) is not None:
        return TinyImagenetSource(store, files=ZipFiles(store, ARCHIVE), prefix=f"{FOLDER}/")
    for prefix in (f"{FOLDER}/", ""):
        if store.size_of(prefix + IDS_FILE) is not None:
            return TinyImagenetSource(store, files=_StoredFiles(store), prefix=prefix)
    quoted = shlex.quote(root)
    raise UserError(
        f"source.root={root}: no Tiny ImageNet in it; looked for {ARCHIVE}, {FOLDER}/{IDS_FILE} and {IDS_FILE}."
        f" Its authors hand it out without an account: `curl --create-dirs --output-dir {quoted} -LO {URL}` (248 MB);"
        f' then type: make prepare-data ARGS="source=tiny_imagenet source.root={quoted} out=data/tiny-imagenet"'
    )


class TinyImagenetSource:
    """Opened Tiny ImageNet."""

    name = "Tiny ImageNet"
    task = Task.classification
    splits = ("train", "val")
    native_shape = None  # 64x64 all of them, but about 2 % are grey

    def __init__(self, store: Store, *, files: _Files, prefix: str) -> None:
        self._store = store
        self._files = files
        self._prefix = prefix

    @cached_property
    def class_ids(self) -> tuple[str, ...]:
        """Sorted WordNet ids.

        Raises:
            DamageError: wnids.txt has lines of another form, or one twice.
        """
        where = f"{self._files.location}/{self._prefix}{IDS_FILE}"
        ids = lines_of(read_text(self._files, self._prefix + IDS_FILE), where=where)
        for number, class_id in enumerate(ids, start=1):
            if not is_wordnet_id(class_id):
                raise DamageError(f"{where}: line {number}: {class_id[:40]!r}; a WordNet id wanted")
        if not ids or len(set(ids)) != len(ids):
            raise DamageError(f"{where}: {len(ids)} lines, {len(set(ids))} classes; get it again")
        return tuple(sorted(ids))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """WordNet's words from words.txt, the ids where it is not there."""
        name = self._prefix + WORDS_FILE
        if self._files.size_of(name) is None:
            return self.class_ids
        words = parse_words(read_text(self._files, name), where=f"{self._files.location}/{name}")
        return class_names(self.class_ids, words)

    def list_items(self, split: str) -> Iterator[Items]:
        """List a split: train by class and name, val by name.

        Raises:
            UserError: an image lies in no class's folder.
            DamageError: val_annotations.txt is not of its form, or an image has no line in it.
        """
        yield from gathered(self._val_rows() if split == "val" else self._train_rows())

    def read(self, *, path: str, offset: int, size_bytes: int) -> bytes:
        """Return an image file's bytes.

        Raises:
            UserError: the zip or file is gone, or not what it was when it was listed.
        """
        return read_listed(self._store, path, offset=offset, size_bytes=size_bytes)

    def _train_rows(self) -> Iterator[Row]:
        numbers = {class_id: number for number, class_id in enumerate(self.class_ids)}
        for image in self._images("train", leave_out="_boxes.txt"):
            class_id = image.key.partition("/")[0]
            if class_id not in numbers:
                raise UserError(
                    f"{self._files.location}: train/{image.key[:200]} lies in the folder of no class of {IDS_FILE}"
                )
            yield Row(numbers[class_id], *image)

    def _val_rows(self) -> Iterator[Row]:
        name = self._prefix + VAL_LABELS_FILE
        where = f"{self._files.location}/{name}"
        numbers = {class_id: number for number, class_id in enumerate(self.class_ids)}
        labels = parse_val_labels(read_text(self._files, name), numbers=numbers, where=where)
        images = self._images("val", leave_out="val_annotations.txt")
        if len(images) != len(labels):
            raise DamageError(f"{where}: {len(labels):,} lines for {len(images):,} validation images")
        for image in images:
            if image.key not in labels:
                raise DamageError(f"{where}: has no line for the validation image {image.key[:200]}")
            yield Row(labels[image.key], *image)

    def _images(self, split: str, *, leave_out: str) -> list[Image]:
        """Return a split's images, sorted by key; the folder `images` around them says nothing and is left out."""
        others: Counter[str] = Counter()
        images = [
            image._replace(key=f"/{image.key}".replace("/images/", "/").removeprefix("/"))
            for image in self._files.below(f"{self._prefix}{split}")
            if not image.key.endswith(leave_out) and is_image(image.key, others=others)
        ]
        tell_others(others, where=f"{self._files.location}/{self._prefix}{split}")
        if not images:
            raise UserError(f"{self._files.location}: no image in {self._prefix}{split}; get it again")
        return sorted_images(images, where=self._files.location)


def parse_val_labels(text: str, *, numbers: dict[str, int], where: str) -> dict[str, int]:
    """Return class numbers by image name from lines such as `val_0.JPEG  n03444034  0  32  44  62`, tabs between.

    Raises:
        DamageError: a line of another form, a class that is in no list, or an image that comes twice.
    """
    labels: dict[str, int] = {}
    for number, line in enumerate(lines_of(text, where=where, max_lines=MAX_VAL_IMAGES), start=1):
        name, class_id, *_ = [*line.split("\t"), ""]
        if class_id not in numbers:
            raise DamageError(f"{where}: line {number}: {line[:80]!r}; an image and one of the classes wanted")
        if name in labels:
            raise DamageError(f"{where}: line {number}: {name[:80]!r} stands there twice")
        labels[name] = numbers[class_id]
    return labels


@dataclass(frozen=True)
class _StoredFiles:
    """What the zip unpacks to, in a store."""

    store: Store

    @property
    def location(self) -> str:
        return self.store.location

    def size_of(self, name: str) -> int | None:
        return self.store.size_of(name)

    def read_bytes(self, name: str, *, max_bytes: int) -> bytes:
        return self.store.read_bytes(name, max_bytes=max_bytes)

    def below(self, folder: str) -> Iterator[Image]:
        for file in self.store.list_files(folder):
            yield Image(file.name.removeprefix(f"{folder}/"), file.name, 0, file.size_bytes)
