"""Tars that others made for the webdataset library, to be made into shards of ours.

    source = open_webdataset("web/imagenet", train="*train*", val="*val*", label_field="label", classes=None)
    next(source.list_items("train")).source_keys[0]     # "train-000.tar/n01440764/10026"

A sample has an image (`.jpg`, `.png`, ...) and a label: a class number or name in `.cls`, in a field of `.json`, or in
`.txt`, the first of them that is there; a list in `.json` makes several labels. Tars are read in place, labels while
listing. Without a file of class names the tars are walked once more at the start, to see which labels there are:
numbers stay class numbers, and names are sorted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from data_prep.archives.tar import TarMember, walk_tar
from data_prep.sources.base import Items, Rejected
from data_prep.sources.classes import (
    MAX_CLASSES,
    classes_of_labels,
    is_number,
    label_numbers,
    numbered_classes,
    read_classes_file,
)
from data_prep.sources.image_sizes import REMOTE_THREADS
from data_prep.sources.patterns import find_files
from data_prep.sources.rows import Row, check_image_bytes, gathered
from data_prep.sources.spelling import shown
from data_prep.sources.webdataset_samples import (
    IMAGE_MEMBERS,
    LABEL_MEMBERS,
    Sample,
    image_of,
    parse_label,
    samples_of,
)
from pipeline.shards.errors import UserError
from pipeline.shards.task import Task
from pipeline.storage import Store

logger = logging.getLogger(__name__)

_CHUNK_SAMPLES = 4096
# A sample that cannot be had is an item without a path, whose offset is the number of the reason.
_NO_IMAGE, _NO_LABEL, _BAD_LABEL, _OTHER_KIND = range(4)


class OptionNames(NamedTuple):
    """What a user calls the arguments of `open_webdataset`, for errors."""

    root: str = "source.root"
    train: str = "source.train"
    val: str = "source.val"
    label_field: str = "source.label_field"
    classes: str = "source.classes"


SOURCE_OPTIONS = OptionNames()


class Found(NamedTuple):
    """A sample with its image and its class number or numbers; where it cannot be had, without, and with the reason."""

    tar: str
    sample: Sample
    image: TarMember | None
    label: int | list[int]
    reason: int | None


class Labelled(NamedTuple):
    """A sample with its label, or with the number of the reason why it has none."""

    tar: str
    sample: Sample
    label: str | list[str] | int


def open_webdataset(
    root: str,
    *,
    train: str,
    val: str,
    label_field: str,
    classes: str | None,
    image: str | None = None,
    options: OptionNames = SOURCE_OPTIONS,
) -> WebDatasetSource:
    """Open tars; they are walked when their items are asked for.

    Args:
        root: folder or URL, one tar, or names with braces.
        train: pattern of the training tars' paths below the root; where no tar fits `train` or `val`, all are train.
        val: pattern of the validation tars' paths.
        label_field: field of the `.json` members that holds the label.
        classes: file of class names, one a line; labels are these names or their numbers. None: as found.
        image: the member that is the image, as in "jpg" or "left.png". None: the first of IMAGE_MEMBERS that is there.
        options: what the user calls all this.

    Raises:
        UserError: no tar there, or one that fits both patterns.
    """
    store, files = find_files(root, extension=".tar", what="tars", option=options.root)
    return WebDatasetSource(
        store,
        _by_split([file.name for file in files], train=train, val=val, where=root, options=options),
        label_field=label_field,
        class_names=None if classes is None else read_classes_file(classes, option=options.classes),
        image=None if image is None else image.removeprefix(".").lower(),
        options=options,
    )


def _by_split(tars: list[str], *, train: str, val: str, where: str, options: OptionNames) -> dict[str, list[str]]:
    patterns = {"train": train, "val": val}
    found = {split: [tar for tar in tars if fnmatchcase(tar, pattern)] for split, pattern in patterns.items()}
    if both := sorted(set(found["train"]) & set(found["val"])):
        raise UserError(
            f"{options.root}={where}: {both[0]} fits {options.train}={train} and {options.val}={val}; make one of them"
            " narrower"
        )
    num_left_out = len(tars) - sum(map(len, found.values()))
    if num_left_out == len(tars):
        logger.warning("%s: no tar fits %s or %s: all %s are train", where, train, val, f"{len(tars):,}")
        return {"train": tars}
    if num_left_out:
        logger.warning("%s: %s tars that fit neither %s nor %s left out", where, f"{num_left_out:,}", train, val)
    return {split: names for split, names in found.items() if names}


class WebDatasetSource:
    """Opened tars."""

    class_ids = None
    native_shape = None

    def __init__(
        self,
        store: Store,
        tars: dict[str, list[str]],
        *,
        label_field: str,
        class_names: tuple[str, ...] | None,
        image: str | None,
        options: OptionNames,
    ) -> None:
        self._store = store
        self._tars = tars
        self._label_field = label_field
        self._class_names = class_names
        self._image = image
        self._options = options
        self.reasons = (
            f"no image in the sample ({image or ', '.join(IMAGE_MEMBERS)})",
            f"no label in the sample (.cls, .json with the field {options.label_field}, .txt)",
            "the sample's label is none: not UTF-8, not JSON, too long, or neither a class name nor a number",
            "the sample has one label where the first has a list, or the other way round",
        )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._store.location.rstrip("/").rpartition("/")[2] or "webdataset"

    @cached_property
    def task(self) -> Task:
        """Several labels where the first label is a list."""
        for split in self._tars:
            for found in self._labelled(split):
                if not isinstance(found.label, int):
                    return Task.multilabel if isinstance(found.label, list) else Task.classification
        raise UserError(f"{self._store.location}: no sample with a label: {self.reasons[_NO_LABEL]} is looked for")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names given, or else the labels in use."""
        if self._class_names:
            return self._class_names
        labels: set[str] = set()
        for split in self._tars:
            for found in self._labelled(split):
                if isinstance(found.label, int):
                    continue
                labels.update([found.label] if isinstance(found.label, str) else found.label)
                if len(labels) > MAX_CLASSES:
                    raise UserError(
                        f"{self._store.location}/{found.tar}: more than {MAX_CLASSES:,} different labels; refused: are"
                        " they captions?"
                    )
        if all(map(is_number, labels)):
            return numbered_classes(max(map(int, labels), default=0), where=self._store.location)
        return classes_of_labels(labels)

    @property
    def splits(self) -> tuple[str, ...]:
        """train, val, or both."""
        return tuple(self._tars)

    def list_items(self, split: str) -> Iterator[Items]:
        """List samples by tar and by their place in it.

        Raises:
            UserError: a label that is no class, or a member that is refused by name.
            DamageError: a damaged tar, or a key that stands in it twice.
        """
        return gathered(self._rows(split))

    def read(self, *, path: str, offset: int, size_bytes: int) -> bytes:
        """Return a sample's image.

        Raises:
            Rejected: the sample has no image or no label.
        """
        if not path:
            raise Rejected(self.reasons[offset])
        check_image_bytes(size_bytes)
        return self._store.read_at(path, offset=offset, size_bytes=size_bytes) if size_bytes else b""

    @property
    def tars(self) -> dict[str, list[str]]:
        """The tars of each split, below `store`."""
        return self._tars

    @property
    def store(self) -> Store:
        return self._store

    def _rows(self, split: str) -> Iterator[Row]:
        for tar, sample, image, label, reason in self.samples(split):
            source_key = f"{tar}/{sample.key}"
            if image is None or reason is not None:
                yield Row(label, source_key, "", reason or _NO_IMAGE, 0)
            else:
                yield Row(label, source_key, tar, image.offset, image.size_bytes)

    def samples(self, split: str) -> Iterator[Found]:
        """Yield all samples of a split, by tar and by their place in it.

        Raises:
            UserError, DamageError: as `list_items`.
        """
        numbers = label_numbers(self.classes, numbers_too=self._class_names is not None)
        several = self.task is Task.multilabel
        for tar, sample, label in self._labelled(split):
            if (image := image_of(sample, self._image)) is None:
                label = _NO_IMAGE
            elif not isinstance(label, int) and isinstance(label, list) != several:
                label = _OTHER_KIND
            if isinstance(label, int):
                yield Found(tar, sample, None, [] if several else 0, label)
                continue
            try:
                value = sorted({numbers[one] for one in label}) if isinstance(label, list) else numbers[label]
            except KeyError as error:
                raise UserError(
                    f"{self._store.location}/{tar}: {shown(sample.key)}: label {shown(error.args[0])} is no class in"
                    f" {self._options.classes}"
                ) from None
            yield Found(tar, sample, image, value, None)

    def _labelled(self, split: str) -> Iterator[Labelled]:
        """Yield all samples of a split with their labels."""
        for tar in self._tars[split]:
            samples = samples_of(walk_tar(self._store, tar), where=f"{self._store.location}/{tar}")
            if self._store.local_path(tar) is not None:
                for sample in samples:
                    yield Labelled(tar, sample, self._label(tar, sample))
                continue
            with ThreadPoolExecutor(REMOTE_THREADS) as pool:
                while chunk := list(islice(samples, _CHUNK_SAMPLES)):
                    labels = pool.map(lambda sample, tar=tar: self._label(tar, sample), chunk)
                    for sample, label in zip(chunk, labels, strict=True):
                        yield Labelled(tar, sample, label)

    def _label(self, tar: str, sample: Sample) -> str | list[str] | int:
        """Return a sample's label, or the number of the reason why it has none."""
        for kind, max_bytes in LABEL_MEMBERS.items():
            if (member := sample.members.get(kind)) is None:
                continue
            if not 0 < member.size_bytes <= max_bytes:
                return _BAD_LABEL
            content = self._store.read_at(tar, offset=member.offset, size_bytes=member.size_bytes)
            try:
                label = parse_label(kind, content, label_field=self._label_field)
            except (ValueError, RecursionError):
                return _BAD_LABEL
            if label is not None:
                return label
        return _NO_LABEL
