"""Images named by a list, CSV or JSON lines, that lie anywhere below one folder or URL.

    source = open_list("photos/labels.csv", entries=csv_entries, images=None, classes=None, val_frac=0.1)
    next(source.list_items("train")).source_keys[0]         # "cats/1.jpg#2": path and line

The list is read twice and never held: once for the classes and splits in it, once for the items. Where it names no
splits, a keyed hash of the path decides which images are held out: of each class `val_frac`, rounded up, but never
its last image. In classes of more than 1,000 images the hash alone decides, which comes close to the same share.
"""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import numpy.typing as npt

from data_prep.sources.base import Items, Rejected
from data_prep.sources.classes import MAX_CLASSES, classes_of_labels, label_numbers, read_classes_file, split_location
from data_prep.sources.image_sizes import ImageSizes
from data_prep.sources.list_entries import Entry
from data_prep.sources.rows import Row, gathered, read_image_file
from data_prep.sources.spelling import shown
from data_prep.store_file import open_stored
from pipeline.shards.errors import UserError
from pipeline.shards.keyed import make_key
from pipeline.shards.task import Task
from pipeline.storage import Store, open_store

logger = logging.getLogger(__name__)

ReadEntries = Callable[..., Iterator[Entry]]

MAX_SPLITS = 100
SMALL_CLASS = 1000
_CHUNK_ROWS = 4096


def open_list(
    root: str, *, entries: ReadEntries, images: str | None, classes: str | None, val_frac: float
) -> ListSource:
    """Open a list of images.

    Args:
        root: path or URL of the list.
        entries: `csv_entries` or `jsonl_entries`.
        images: folder or URL that the listed paths are below, None for the list's own.
        classes: file of class names, one a line; labels are then these names or their numbers. None: labels are the
            names.
        val_frac: share to hold out for val where the list names no splits.

    Raises:
        UserError: no such list.
    """
    folder, name = split_location(root)
    store = open_store(folder)
    if not name or store.size_of(name) is None:
        raise UserError(
            f"source.root={root}: no such file; a list of images is wanted, as path,label in its first line and"
            " cats/1.jpg,cat in the next, or as lines of JSON with source=jsonl (docs/OWN_IMAGES.md has examples)"
        )
    return ListSource(
        store,
        name,
        entries=entries,
        images=open_store(images or folder),
        class_names=None if classes is None else read_classes_file(classes),
        val_frac=val_frac,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a first reading of the list finds.

    Attributes:
        labels: the distinct labels.
        splits: the splits that it names, none where it names none.
        thresholds: by label (by None for several labels and targets), the hash up to which images are held out, -1 for
            none.
    """

    labels: set[str]
    splits: tuple[str, ...]
    thresholds: dict[str | None, int]


class ListSource:
    """An opened list."""

    class_ids = None
    native_shape = None

    def __init__(
        self,
        store: Store,
        list_name: str,
        *,
        entries: ReadEntries,
        images: Store,
        class_names: tuple[str, ...] | None,
        val_frac: float,
    ) -> None:
        self._store, self._list_name = store, list_name
        self._read_entries = entries
        self._images = images
        self._class_names = class_names
        self._val_frac = val_frac

    @property
    def name(self) -> str:
        """The list's name without its extension."""
        return self._list_name.partition(".")[0] or self._list_name

    @cached_property
    def task(self) -> Task:
        """As the first line has it: a label, a list of them, or targets."""
        if isinstance(self._first.labels, dict):
            return Task.regression
        return Task.multilabel if isinstance(self._first.labels, list) else Task.classification

    @cached_property
    def _first(self) -> Entry:
        first = next(self._entries(), None)
        if first is None:
            raise UserError(f"{self._where}: lists no image")
        return first

    @property
    def classes(self) -> tuple[str, ...]:
        """The names given, or else the labels, sorted; of targets their names as in the first line."""
        if isinstance(self._first.labels, dict):
            if self._class_names is not None:
                raise UserError(f"{self._where}: its images have targets and no classes: leave source.classes out")
            return tuple(self._first.labels)
        return self._class_names or classes_of_labels(self._survey.labels)

    @property
    def splits(self) -> tuple[str, ...]:
        """As the list names them; or train, and val where some are held out."""
        if self._survey.splits:
            return self._survey.splits
        return ("train", "val") if any(threshold >= 0 for threshold in self._survey.thresholds.values()) else ("train",)

    def list_items(self, split: str) -> Iterator[Items]:
        """List a split's images in the list's order.

        Raises:
            UserError: a line that is wrong, a label that is no class, or no image where the list says.
        """
        return gathered(self._rows(split))

    def read(self, *, path: str, offset: int, size_bytes: int) -> bytes:
        """Return an image file's bytes.

        Raises:
            Rejected: it was not there when it was listed, and is not now.
            UserError: it is gone, unreadable, or not as long as when it was listed.
        """
        if size_bytes == 0 and self._images.size_of(path) is None:
            raise Rejected("in the list, but there is no such file")
        return read_image_file(self._images, path, size_bytes=size_bytes)

    @property
    def _where(self) -> str:
        return f"{self._store.location}/{self._list_name}"

    def _entries(self) -> Iterator[Entry]:
        with open_stored(self._store, self._list_name) as stream:
            yield from self._read_entries(stream, where=self._where)

    @cached_property
    def _survey(self) -> Survey:
        return survey(self._entries(), val_frac=self._val_frac, where=self._where)

    def _in_split(self, entry: Entry, split: str) -> bool:
        if entry.split is not None:
            return entry.split == split
        threshold = self._survey.thresholds[_group(entry)]
        return (hash_of(entry.path) <= threshold) == (split == "val")

    def _rows(self, split: str) -> Iterator[Row]:
        rows, sizes_of = self._labelled(split), ImageSizes(self._images)
        num_found = num_missing = 0
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            for row, size_bytes in zip(chunk, sizes_of([row.path for row in chunk]), strict=True):
                num_found += size_bytes is not None
                num_missing += size_bytes is None
                yield row._replace(size_bytes=size_bytes or 0)
            if not num_found:
                raise UserError(
                    f"{self._where}: none of the first {num_missing:,} images of {split} is below"
                    f" {self._images.location}, such as {shown(chunk[0].path)}; say where they are with"
                    " source.images=FOLDER"
                )
        if num_missing:
            logger.warning("%s: %s listed images of %s are not there", self._where, f"{num_missing:,}", split)

    def _labelled(self, split: str) -> Iterator[Row]:
        """Yield a split's rows before anything is known of their files; names of labels, which are long, are gone."""
        names = self.classes
        numbers = label_numbers(names, numbers_too=self._class_names is not None)
        for entry in self._entries():
            if not self._in_split(entry, split):
                continue
            label: int | list[int] | npt.NDArray[np.float32]
            try:
                if isinstance(entry.labels, dict):
                    label = np.array([entry.labels[name] for name in names], dtype=np.float32)
                elif isinstance(entry.labels, str):
                    label = numbers[entry.labels]
                else:
                    label = sorted({numbers[name] for name in entry.labels})
            except KeyError as error:
                raise UserError(
                    f"{self._where}: line {entry.line}: label {error} is no class in source.classes"
                ) from None
            yield Row(label, f"{entry.path}#{entry.line}", entry.path, box=entry.box)


def survey(entries: Iterator[Entry], *, val_frac: float, where: str) -> Survey:
    """Read a list once.

    Raises:
        UserError: lines of different kinds, more than 100,000 labels or 100 splits, or a line that is wrong.
    """
    labels: set[str] = set()
    splits: set[str] = set()
    hashes: dict[str | None, array[int] | None] = {}
    first: Entry | None = None
    for entry in entries:
        if first is None:
            first = entry
        if (entry.split is None) != (first.split is None) or (entry.box is None) != (first.box is None):
            raise UserError(f"{where}: line {entry.line}: a split, and a box, stand in every line or in none")
        if type(entry.labels) is not type(first.labels):
            raise UserError(f"{where}: line {entry.line}: every line has `label`, or every line `labels`, or `targets`")
        if isinstance(entry.labels, dict) and isinstance(first.labels, dict):
            if entry.labels.keys() != first.labels.keys():
                names = ", ".join(first.labels)
                raise UserError(f"{where}: line {entry.line}: not the targets of the first line, {names[:200]}")
        else:
            labels.update((entry.labels,) if isinstance(entry.labels, str) else entry.labels)
        if len(labels) > MAX_CLASSES:
            raise UserError(f"{where}: line {entry.line}: more than {MAX_CLASSES:,} different labels; refused")
        if entry.split is not None:
            splits.add(entry.split)
            if len(splits) > MAX_SPLITS:
                raise UserError(f"{where}: line {entry.line}: more than {MAX_SPLITS} different splits; refused")
            continue
        small = hashes.setdefault(_group(entry), array("Q"))
        if small is not None:
            small.append(hash_of(entry.path))
            if len(small) > SMALL_CLASS:
                hashes[_group(entry)] = None
    return Survey(
        labels=labels,
        splits=tuple(sorted(splits, key=lambda name: ({"train": 0, "val": 1}.get(name, 2), name))),
        thresholds={group: threshold(small, val_frac=val_frac) for group, small in hashes.items()},
    )


def threshold(hashes: array[int] | None, *, val_frac: float) -> int:
    """Return the hash up to which images are held out, -1 for none; for no hashes a share of all 2**64."""
    if hashes is None:
        return int(val_frac * 2**64) - 1
    ordered = sorted(set(hashes))
    # The inner rounding keeps 0.07 * 100 = 7.000000000000001 from becoming 8.
    num_held_out = min(math.ceil(round(len(ordered) * val_frac, 9)), len(ordered) - 1)
    return ordered[num_held_out - 1] if num_held_out else -1


def hash_of(path: str) -> int:
    """Return the 64 bits that decide whether an image is held out; class folders use the same."""
    return make_key("held out", path)


def _group(entry: Entry) -> str | None:
    return entry.labels if isinstance(entry.labels, str) else None
