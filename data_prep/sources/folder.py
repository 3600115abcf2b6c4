"""Class folders: each image lies below the folder of its class.

    photos/cat/1.jpg, photos/dog/old/2.png               some of each class are held out for val
    photos/train/cat/1.jpg, photos/val/cat/2.jpg         val may also be called validation or test

    source = open_folder("photos", val_frac=0.1)
    next(source.list_items("train")).source_keys[0]      # "cat/1.jpg", the path below the root

Items come sorted by their path, and which of them are held out is a keyed hash of the path: neither depends on the
file system. The tree is taken for a stranger's: links to folders, and links that lead out of it, are refused.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from data_prep.sources.base import Items
from data_prep.sources.bounded import existing_folder
from pipeline.shards.errors import UserError
from pipeline.shards.keyed import make_key
from pipeline.shards.task import Task

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset(("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm"))
VAL_FOLDERS = ("val", "validation", "test")
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class _Image:
    """An image file: its path below the root, and its size in bytes."""

    key: str
    size_bytes: int


ImagesByClass = dict[str, list[_Image]]


def open_folder(root: str | Path, *, val_frac: float) -> FolderSource:
    """Open a tree of class folders; the tree is only listed when its items are asked for.

    Args:
        root: the folder.
        val_frac: share of each class to hold out for val where there is no val folder.

    Raises:
        UserError: no such folder, nothing in it, or no class folder with an image in it.
    """
    folder = existing_folder(root)
    walk = _Walk(folder)
    train_folder, val_folder = _find_splits(walk)
    if next(walk.images(train_folder, inside_class=False), None) is None:
        loose = any(_is_image(entry.name) for entry in walk.entries(train_folder))
        raise UserError(
            f"source.root={root}: "
            + ("images lie beside each other" if loose else f"no image found in {folder / train_folder}")
            + "; class folders with images in them are wanted, as in cat/1.jpg or train/cat/1.jpg"
        )
    return FolderSource(folder, train_folder=train_folder, val_folder=val_folder, val_frac=val_frac)


class FolderSource:
    """An opened tree of class folders."""

    task = Task.classification
    class_ids = None
    native_shape = None

    def __init__(self, root: Path, *, train_folder: str, val_folder: str | None, val_frac: float) -> None:
        self.root = root
        self._train_folder = train_folder
        self._val_folder = val_folder
        self._val_frac = val_frac

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.resolve().name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the train folders that hold an image, sorted bytewise."""
        return tuple(sorted(self._listing["train"]))

    @property
    def splits(self) -> tuple[str, ...]:
        """train, and val where it has images."""
        return tuple(split for split, images_by_class in self._listing.items() if any(images_by_class.values()))

    def list_items(self, split: str) -> Iterator[Items]:
        """List a split, sorted bytewise by path.

        Raises:
            UserError: a link that is refused, a name that is not UTF-8, an unreadable folder, or a val class that
                train does not have.
        """
        numbers = {name: number for number, name in enumerate(self.classes)}
        rows = sorted(
            (image.key, image.size_bytes, numbers[name])
            for name, images in self._listing[split].items()
            for image in images
        )
        keys = [key for key, _, _ in rows]
        yield from Items(
            labels=np.array([label for _, _, label in rows], dtype=np.int64),
            source_keys=keys,
            paths=keys,
            offsets=np.zeros(len(rows), dtype=np.int64),
            sizes_bytes=np.array([size_bytes for _, size_bytes, _ in rows], dtype=np.int64),
        ).batches()

    def read(self, *, path: str, offset: int, size_bytes: int) -> bytes:
        """Return an image file's bytes.

        Raises:
            UserError: the file is gone, unreadable, or not as long as when it was listed.
        """
        if path.startswith("/") or ".." in path.split("/"):
            raise UserError(f"{path!r}: leads out of {self.root}; refused")
        file = f"{self.root}/{path}"
        try:
            # Unbuffered, and no pathlib: 29 us in place of 50 for an image of 110 kB.
            with open(file, "rb", buffering=0) as stream:  # noqa: PTH123
                content = stream.read(size_bytes + 1)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); it was there when it was listed") from None
        if len(content) != size_bytes:
            raise UserError(f"{file}: is no longer the {size_bytes} bytes that it had when it was listed")
        return content

    @cached_property
    def _listing(self) -> dict[str, ImagesByClass]:
        """All images by split and class, from one walk over the tree."""
        walk = _Walk(self.root)
        train = walk.images_by_class(self._train_folder)
        if self._val_folder is None:
            train, val = _hold_out(train, val_frac=self._val_frac)
        else:
            val = walk.images_by_class(self._val_folder)
            unknown = sorted(name for name in val if name not in train)
            if unknown:
                raise UserError(
                    f"{self.root / self._val_folder / unknown[0]}: a class that {self._train_folder}/ does not have"
                    f" ({len(unknown)} such); give it images there, or take it away here"
                )
        walk.tell_left_out()
        return {"train": train, "val": val}


def _hold_out(images_by_class: ImagesByClass, *, val_frac: float) -> tuple[ImagesByClass, ImagesByClass]:
    """Split each class by a keyed hash of the paths: `val_frac` of it, rounded up, but never its last image."""
    train, val = {}, {}
    for name, images in images_by_class.items():
        ordered = sorted(images, key=lambda image: (make_key("held out", image.key), image.key))
        # The inner rounding keeps 0.07 * 100 = 7.000000000000001 from becoming 8.
        num_held_out = min(int(np.ceil(round(len(images) * val_frac, 9))), len(images) - 1)
        val[name], train[name] = ordered[:num_held_out], ordered[num_held_out:]
    return train, val


def _find_splits(walk: _Walk) -> tuple[str, str | None]:
    """Return the folders of train and val below the root: ("train", "val" or None), or ("", None) for plain classes."""
    names = [entry.name for entry in walk.entries("") if walk.is_folder(entry)]
    if not any(walk.entries("")):
        raise UserError(f"source.root={walk.root}: the folder is empty; class folders with images in them are wanted")
    if "train" not in names or not any(walk.is_folder(entry) for entry in walk.entries("train")):
        return "", None
    val_folder = next((name for name in VAL_FOLDERS if name in names), None)
    others = sorted(set(names) - {"train", val_folder})
    if others:
        logger.warning("%s: beside train and val, left out: %s", walk.root, ", ".join(others[:_MOST_NAMED]))
    return "train", val_folder


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS and "." in name


class _Walk:
    """One walk over the tree; counts what it leaves out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real_root = os.path.realpath(root)
        self._other_extensions: Counter[str] = Counter()
        self._num_loose = 0
        self._empty_classes: list[str] = []

    def entries(self, folder: str) -> list[os.DirEntry[str]]:
        """Return what lies in a folder below the root, hidden things left out."""
        path = os.path.join(self.root, folder)  # noqa: PTH118  # a million times; pathlib is several times slower
        try:
            with os.scandir(path) as found:
                return [entry for entry in found if not entry.name.startswith(".")]
        except OSError as error:
            raise UserError(f"{_shown(path)}: cannot be listed ({error.strerror})") from None

    def is_folder(self, entry: os.DirEntry[str]) -> bool:
        """Tell folders from files.

        Raises:
            UserError: a link to a folder, to nothing, or out of the root; a name that is not UTF-8.
        """
        if not entry.name.isascii():
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                raise UserError(f"{_shown(entry.path)}: the name is not UTF-8; rename it") from None
        if not entry.is_symlink():
            return entry.is_dir()
        if os.path.isdir(entry.path):  # noqa: PTH112  # unlike entry.is_dir(), False for a link to itself
            raise UserError(f"{_shown(entry.path)}: a link to a folder; refused, put the folder itself there")
        target = os.path.realpath(entry.path)
        if os.path.commonpath((target, self._real_root)) != self._real_root:
            raise UserError(f"{_shown(entry.path)}: a link that leads out of {self.root}; refused, put the file there")
        if not os.path.isfile(entry.path):  # noqa: PTH113
            raise UserError(f"{_shown(entry.path)}: a link to nothing; remove it")
        return False

    def images(self, folder: str, *, inside_class: bool = True) -> Iterator[_Image]:
        """Yield the images below a folder, in no order; directly in it only where it is `inside_class`."""
        waiting = [(folder, inside_class)]
        while waiting:
            folder, inside_class = waiting.pop()
            prefix = f"{folder}/" if folder else ""
            for entry in self.entries(folder):
                if self.is_folder(entry):
                    waiting.append((prefix + entry.name, True))
                elif not _is_image(entry.name) or not entry.is_file():
                    self._other_extensions[entry.name.rpartition(".")[2].lower() if "." in entry.name else "none"] += 1
                elif inside_class:
                    yield _Image(prefix + entry.name, _size_bytes(entry))
                else:
                    self._num_loose += 1

    def images_by_class(self, folder: str) -> ImagesByClass:
        """Return the images of each class folder in `folder`; class folders without any are left out and told."""
        found: ImagesByClass = {}
        for entry in self.entries(folder):
            if not self.is_folder(entry):
                self._num_loose += _is_image(entry.name)
                continue
            images = list(self.images(f"{folder}/{entry.name}" if folder else entry.name))
            if images:
                found[entry.name] = images
            else:
                self._empty_classes.append(entry.name)
        return found

    def tell_left_out(self) -> None:
        """Say in one warning what was left out, if anything was."""
        left_out = []
        if self._other_extensions:
            most = ", ".join(f"{name}: {count}" for name, count in self._other_extensions.most_common(_MOST_NAMED))
            left_out.append(f"{self._other_extensions.total()} files that are no images by their extension ({most})")
        if self._num_loose:
            left_out.append(f"{self._num_loose} images outside any class folder")
        if self._empty_classes:
            names = ", ".join(sorted(self._empty_classes)[:_MOST_NAMED])
            left_out.append(f"{len(self._empty_classes)} class folders without images ({names})")
        if left_out:
            logger.warning("%s: left out: %s", self.root, "; ".join(left_out))


def _size_bytes(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError as error:
        raise UserError(f"{_shown(entry.path)}: went while the folder was listed ({error.strerror})") from None


def _shown(path: str) -> str:
    """Return a path for an error: what is not UTF-8 or would break the line is escaped."""
    return path if path.isprintable() else ascii(path)[1:-1]
