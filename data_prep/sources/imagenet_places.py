"""Where the two splits of ImageNet-1k lie below a root, and their images: archives, folders, or Kaggle's one zip.

    places = find_places(open_store("imagenet"))    # the tars, else class folders, else Kaggle's zip, else None
    places.train.class_ids()                        # ["n01440764", ...]
    places.val.images()                             # [(Image("ILSVRC2012_val_00000001.JPEG", ...), None), ...]

Keys are the same in every form: `n01440764/n01440764_10026.JPEG` and `ILSVRC2012_val_00000001.JPEG`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from data_prep.archives.tar import walk_tar
from data_prep.sources.class_tars import (
    ClassTar,
    Image,
    images_of,
    is_image,
    sorted_images,
    tars_inside,
    tell_others,
)
from data_prep.sources.imagenet_labels import DEVKIT_ARCHIVE, SOLUTION_FILE
from data_prep.sources.wordnet import MAX_SYNSETS, WORDS_FILES, Lists, is_wordnet_id
from data_prep.sources.zip_files import ZipFiles
from pipeline.shards.errors import UserError
from pipeline.storage import Store, open_store

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VAL_ARCHIVE = "ILSVRC2012_img_val.tar"
KAGGLE_ZIP = "imagenet-object-localization-challenge.zip"
KAGGLE_FOLDER = "ILSVRC/Data/CLS-LOC"
# Below the root, where the root is the folder above ILSVRC, ILSVRC itself, or CLS-LOC.
FOLDERS = (f"{KAGGLE_FOLDER}/", "Data/CLS-LOC/", "")
# Files that say that the publishers' lists lie here.
LIST_FILES = (DEVKIT_ARCHIVE, SOLUTION_FILE, WORDS_FILES[0])


class Train(Protocol):
    """The training images by class."""

    def class_ids(self) -> list[str]:
        """Return the sorted WordNet ids of the classes that are there."""

    def images(self) -> Iterator[tuple[str, list[Image]]]:
        """Yield each class with its images, classes by id and images by key."""


class Val(Protocol):
    """The validation images."""

    def images(self) -> list[tuple[Image, str | None]]:
        """Return the images, sorted by key, each with its class where a folder says it."""


@dataclass(frozen=True)
class Places:
    """What was found; either split may be missing."""

    store: Store
    train: Train | None
    val: Val | None
    kaggle_zip: ZipFiles | None

    @cached_property
    def lists(self) -> Lists:
        """Where the publishers' lists lie: the root, a folder above it, or the zip; the root where there are none.

        Kaggle puts them beside the folder ILSVRC, three above CLS-LOC.
        """
        places: list[Lists] = [self.store]
        inside = self.store.local_path("train")
        if inside is not None and inside.parent.resolve().name in ("ILSVRC", "CLS-LOC"):
            places += [open_store(str(folder)) for folder in inside.parent.resolve().parents[:3]]
        places += [self.kaggle_zip] if self.kaggle_zip else []
        return next(
            (place for place in places if any(place.size_of(name) is not None for name in LIST_FILES)), places[0]
        )


def find_places(store: Store) -> Places:
    """Return where the images lie below a store's root, each split in the first form found."""
    kaggle_zip = ZipFiles(store, KAGGLE_ZIP) if store.size_of(KAGGLE_ZIP) is not None else None
    return Places(
        store=store, train=_find_train(store, kaggle_zip), val=_find_val(store, kaggle_zip), kaggle_zip=kaggle_zip
    )


def _find_train(store: Store, kaggle_zip: ZipFiles | None) -> Train | None:
    if store.size_of(TRAIN_ARCHIVE) is not None:
        return _TrainTar(store)
    for prefix in FOLDERS:
        if any(map(is_wordnet_id, _folder_names(store, f"{prefix}train"))):
            return _ClassFolders(store, f"{prefix}train")
    return _ZipTrain(kaggle_zip) if kaggle_zip else None


def _find_val(store: Store, kaggle_zip: ZipFiles | None) -> Val | None:
    if store.size_of(VAL_ARCHIVE) is not None:
        return _ValTar(store)
    for prefix in FOLDERS:
        names = _folder_names(store, f"{prefix}val")
        if any(is_wordnet_id(name) or name.startswith("ILSVRC2012_val_") for name in names):
            return _ValFolder(store, f"{prefix}val")
    return _ZipVal(kaggle_zip) if kaggle_zip else None


@dataclass(frozen=True)
class _TrainTar:
    """The tar of class tars."""

    store: Store

    @cached_property
    def _tars(self) -> list[ClassTar]:
        return tars_inside(self.store, TRAIN_ARCHIVE)

    def class_ids(self) -> list[str]:
        return [tar.class_id for tar in self._tars]

    def images(self) -> Iterator[tuple[str, list[Image]]]:
        for tar, images in images_of(self.store, self._tars):
            yield tar.class_id, images


@dataclass(frozen=True)
class _ClassFolders:
    """A folder of class folders on this machine."""

    store: Store
    folder: str

    def class_ids(self) -> list[str]:
        return sorted(filter(is_wordnet_id, _folder_names(self.store, self.folder)))

    def images(self) -> Iterator[tuple[str, list[Image]]]:
        others: Counter[str] = Counter()
        for class_id in self.class_ids():
            files = self.store.list_files(f"{self.folder}/{class_id}")
            images = [
                Image(file.name.removeprefix(f"{self.folder}/"), file.name, 0, file.size_bytes)
                for file in files
                if is_image(file.name, others=others)
            ]
            yield class_id, sorted_images(images, where=f"{self.store.location}/{self.folder}")
        tell_others(others, where=f"{self.store.location}/{self.folder}")


@dataclass(frozen=True)
class _ValTar:
    """The flat tar."""

    store: Store

    def images(self) -> list[tuple[Image, str | None]]:
        files = [
            Image(member.name, VAL_ARCHIVE, member.offset, member.size_bytes)
            for member in walk_tar(self.store, VAL_ARCHIVE)
        ]
        return _val_images(files, where=f"{self.store.location}/{VAL_ARCHIVE}")


@dataclass(frozen=True)
class _ValFolder:
    """A flat folder, or one of class folders as many make them, on this machine."""

    store: Store
    folder: str

    def images(self) -> list[tuple[Image, str | None]]:
        files = [
            Image(file.name.removeprefix(f"{self.folder}/"), file.name, 0, file.size_bytes)
            for file in self.store.list_files(self.folder)
        ]
        return _val_images(files, where=f"{self.store.location}/{self.folder}")


@dataclass(frozen=True)
class _ZipTrain:
    zip: ZipFiles

    @cached_property
    def _by_class(self) -> dict[str, list[Image]]:
        others: Counter[str] = Counter()
        found: dict[str, list[Image]] = {}
        where = self.zip.location
        for image in self.zip.below(f"{KAGGLE_FOLDER}/train"):
            class_id, slash, _ = image.key.partition("/")
            if not slash or not is_wordnet_id(class_id):
                raise UserError(f"{where}: {image.key[:200]!r} lies in no class folder")
            if is_image(image.key, others=others):
                found.setdefault(class_id, []).append(image)
            if len(found) > MAX_SYNSETS:
                raise UserError(f"{where}: more than {MAX_SYNSETS:,} class folders; WordNet has fewer nouns")
        tell_others(others, where=where)
        return {class_id: sorted_images(found[class_id], where=where) for class_id in sorted(found)}

    def class_ids(self) -> list[str]:
        return list(self._by_class)

    def images(self) -> Iterator[tuple[str, list[Image]]]:
        yield from self._by_class.items()


@dataclass(frozen=True)
class _ZipVal:
    zip: ZipFiles

    def images(self) -> list[tuple[Image, str | None]]:
        return _val_images(list(self.zip.below(f"{KAGGLE_FOLDER}/val")), where=self.zip.location)


def _val_images(files: list[Image], *, where: str) -> list[tuple[Image, str | None]]:
    """Return the images among the files, sorted by name, with the class of each that lies in a class folder.

    Their key is the bare name: what folders a tar or a tree puts around them says nothing but the class.
    """
    others: Counter[str] = Counter()
    classes: dict[str, str | None] = {}
    images = []
    for file in files:
        if not is_image(file.key, others=others):
            continue
        folders, _, name = file.key.rpartition("/")
        folder = folders.rpartition("/")[2]
        classes[name] = folder if is_wordnet_id(folder) else None
        images.append(file._replace(key=name))
    tell_others(others, where=where)
    return [(image, classes[image.key]) for image in sorted_images(images, where=where)]


def _folder_names(store: Store, folder: str) -> list[str]:
    """Return the names in a folder on this machine; none where it is elsewhere or not there."""
    path = store.local_path(folder)
    try:
        return os.listdir(path) if path is not None else []  # noqa: PTH208  # names alone, of up to 50,000 files
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be listed ({error.strerror})") from None
