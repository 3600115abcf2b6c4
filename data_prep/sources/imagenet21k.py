"""ImageNet-21k as its publishers hand it out, with nothing extracted: class tars, or one tar or tar.gz of them.

    imagenet21k/n00004475.tar, imagenet21k/n00005787.tar ...        a folder or a URL prefix
    imagenet21k/winter21_whole.tar.gz, or fall11_whole.tar          or any such tar, named in source.root itself

    source = open_imagenet21k("imagenet21k", min_images=500, val_per_class=50)
    source.classes[0]                                               # "person, individual, someone, ..."

Classes are numbered by their sorted WordNet ids, those left out by `min_images` not counted. There is no official
validation split: `val_per_class` images of each class are held out by a keyed hash of their names, never more than a
tenth of a class. With 500 and 50 that is the practice of ImageNet-21K-P (arXiv 2104.10972), with other images held out.
One walk over all headers serves both splits; its result lies in a temporary file, so that memory stays flat.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from data_prep.archives.gzip import open_gzip
from data_prep.progress import Progress
from data_prep.sources.base import Items
from data_prep.sources.class_spool import ClassSpool
from data_prep.sources.class_tars import ClassTar, Image, class_of_tar, images_of, sorted_tars, tars_inside
from data_prep.sources.rows import Row, gathered
from data_prep.sources.wordnet import IDS_FILE, class_names, find_words, is_wordnet_id, lines_of, read_text
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.keyed import make_key
from pipeline.shards.task import Task
from pipeline.storage import Store, open_store

logger = logging.getLogger(__name__)

WHOLE_TARS = ("winter21_whole.tar.gz", "winter21_whole.tar", "fall11_whole.tar", "fall11_whole.tar.gz")
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
# At most one image in so many of a class is held out: a class of nine keeps all.
_IMAGES_PER_HELD_OUT = 10


class _Class(NamedTuple):
    """A class that stays: its number in the spool, whose lists hold its images for train, then those for val."""

    class_id: str
    listed_as: int
    num_train: int
    num_val: int


def open_imagenet21k(root: str, *, min_images: int, val_per_class: int) -> Imagenet21kSource:
    """Open ImageNet-21k; nothing is listed yet, but the index of a tar.gz is made where there is none.

    Args:
        root: folder or URL prefix with the class tars, or with one tar or tar.gz of them; or that one itself.
        min_images: classes with fewer images are left out.
        val_per_class: images of each class to hold out for val, at most a tenth of it; 0 for no val.

    Raises:
        UserError: the one tar that `root` names is not there, or is no gzip file although it is called so.
    """
    folder, _, name = root.rstrip("/").rpartition("/")
    if name.endswith(_TAR_SUFFIXES):
        store = open_store(folder or ("/" if root.startswith("/") else "."))
        whole = name if store.size_of(name) is not None else None
        if whole is None:
            raise UserError(_missing(root))
    else:
        store = open_store(root)
        whole = next((name for name in WHOLE_TARS if store.size_of(name) is not None), None)
    images = store
    if whole is not None and not whole.endswith(".tar"):
        images = _open_packed(store, whole)
    return Imagenet21kSource(
        root, images=images, lists=store, whole=whole, min_images=min_images, val_per_class=val_per_class
    )


class Imagenet21kSource:
    """Opened ImageNet-21k."""

    name = "ImageNet-21k"
    task = Task.classification
    native_shape = None

    def __init__(
        self, root: str, *, images: Store, lists: Store, whole: str | None, min_images: int, val_per_class: int
    ) -> None:
        self._root = root
        self._images = images
        self._lists = lists
        self._whole = whole
        self._min_images = min_images
        self._val_per_class = val_per_class

    @property
    def splits(self) -> tuple[str, ...]:
        """train, and val where a class is large enough to give images to it."""
        return ("train", "val") if any(found.num_val for found in self._classes) else ("train",)

    @property
    def class_ids(self) -> tuple[str, ...]:
        """Sorted WordNet ids of the classes that stay."""
        return tuple(found.class_id for found in self._classes)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """WordNet's words where a list of them lies beside the tars, else the ids."""
        words = find_words(self._lists)
        return class_names(self.class_ids, words[1] if words else {})

    def list_items(self, split: str) -> Iterator[Items]:
        """List a split by class and name.

        Raises:
            UserError, DamageError: there are no class tars, or one is not what it should be.
        """
        yield from gathered(self._rows(split))

    def read(self, *, path: str, offset: int, size_bytes: int) -> bytes:
        """Return an image file's bytes.

        Raises:
            UserError: the tar is gone, or not what it was when it was listed.
        """
        return self._images.read_at(path, offset=offset, size_bytes=size_bytes)

    def _rows(self, split: str) -> Iterator[Row]:
        for label, (_, listed_as, num_train, num_val) in enumerate(self._classes):
            start, end = (0, num_train) if split == "train" else (num_train, num_train + num_val)
            yield from (Row(label, *image) for image in self._spool.images(listed_as, start=start, end=end))

    @cached_property
    def _spool(self) -> ClassSpool:
        return ClassSpool()  # not before there is something to list: workers only read

    @cached_property
    def _classes(self) -> list[_Class]:
        """The classes that stay, their images in the spool: from one walk over all tars."""
        classes, num_small, num_lost = [], 0, 0
        tars = self._tars()
        with Progress(total=len(tars), unit="classes", label="listing") as progress:
            for tar, images in images_of(self._images, tars):
                progress.update(1)
                if len(images) < self._min_images:
                    num_small, num_lost = num_small + 1, num_lost + len(images)
                    continue
                num_val = min(self._val_per_class, len(images) // _IMAGES_PER_HELD_OUT)
                listed_as = self._spool.add(_held_out_last(images, num_held_out=num_val), path=tar.path)
                classes.append(_Class(tar.class_id, listed_as, len(images) - num_val, num_val))
        if num_small:
            logger.info(
                "left out: %s classes with fewer than %s images (%s images); %s classes stay",
                *(f"{count:,}" for count in (num_small, self._min_images, num_lost, len(classes))),
            )
        if not classes:
            raise UserError(
                f"source.root={self._root}: no class has source.min_images={self._min_images} images; choose fewer"
            )
        return classes

    def _tars(self) -> list[ClassTar]:
        if self._whole is not None:
            return tars_inside(self._images, self._whole)
        if self._root.startswith(("http://", "https://")):
            return self._tars_by_ids()
        tars = [
            ClassTar(class_id, file.name, 0, file.size_bytes)
            for file in self._images.list_files()
            if (class_id := class_of_tar(file.name)) is not None
        ]
        if not tars:
            raise UserError(_missing(self._root))
        return sorted_tars(tars, where=self._root)

    def _tars_by_ids(self) -> list[ClassTar]:
        """Return the class tars of a web server, which cannot list what it has: a list of ids must lie there."""
        if self._lists.size_of(IDS_FILE) is None:
            raise UserError(
                f"source.root={self._root}: none of {', '.join(WHOLE_TARS)}, and no {IDS_FILE} that says which class"
                " tars there are, which a web server cannot list; put one there, or name the one tar in source.root"
            )
        where = f"{self._lists.location}/{IDS_FILE}"
        ids = lines_of(read_text(self._lists, IDS_FILE), where=where)
        for number, class_id in enumerate(ids, start=1):
            if not is_wordnet_id(class_id):
                raise DamageError(f"{where}: line {number}: {class_id[:40]!r}; a WordNet id wanted")
        return sorted_tars((ClassTar(class_id, f"{class_id}.tar") for class_id in ids), where=where)


def _held_out_last(images: list[Image], *, num_held_out: int) -> list[Image]:
    """Put those that a keyed hash of their keys holds out behind the others; both parts keep the order."""
    if num_held_out == 0:
        return images
    ranked = sorted(images, key=lambda image: (make_key("held out", image.key), image.key))
    chosen = {image.key for image in ranked[:num_held_out]}
    return sorted(images, key=lambda image: image.key in chosen)


def _open_packed(store: Store, name: str) -> Store:
    """Open a tar.gz at unpacked offsets; its index is made first where there is none, in one pass over the file."""
    index_path = _index_path(store, name)
    if index_path.exists():
        return open_gzip(store, name, index_path=index_path)
    logger.info("making %s, so that %s can be read in place; this is done once", index_path, name)
    index_path.parent.mkdir(parents=True, exist_ok=True)
    with Progress(total=store.size_of(name), unit="bytes", label="indexing") as progress:
        return open_gzip(store, name, index_path=index_path, on_progress=progress.update)


def _index_path(store: Store, name: str) -> Path:
    """Return where the index of a tar.gz is kept: beside it, or in the user's cache where that cannot be written."""
    beside = store.local_path(f"{name}.index")
    if beside is not None and (beside.exists() or os.access(beside.parent, os.W_OK)):
        return beside
    digest = hashlib.sha256(f"{store.location}/{name}".encode()).hexdigest()[:16]
    return Path.home() / ".cache" / "tarmac" / f"{digest}-{name}.index"


def _missing(root: str) -> str:
    """Return what to do where nothing is found: where it can be had, and what to type."""
    quoted = shlex.quote(root)
    return (
        f"source.root={root}: no ImageNet-21k in it; looked for class tars as in n00004475.tar, and for"
        f" {', '.join(WHOLE_TARS)}. ImageNet may not be handed on, so it wants a free account and your consent to its"
        " terms: https://image-net.org/download-images, there winter21_whole.tar.gz (1.1 TB), which"
        f" `tar xzf winter21_whole.tar.gz -C {quoted}` turns into class tars, the fastest form to read. Then type:"
        f' make prepare-data ARGS="source=imagenet21k source.root={quoted} source.min_images=500'
        ' out=data/imagenet21k-64 layout.resolution=64"'
    )
