"""Images inside Parquet files, as Hugging Face keeps them: one row an image, its bytes and its label.

    source = open_parquet("hub/imagenet-1k/data")
    source.splits                                   # ("train", "val"), from train-00000-of-00294.parquet and so on
    next(source.list_items("train")).source_keys[0]     # "train-00000-of-00294.parquet#0": file and row
    source.read(path="train-00000-of-00294.parquet", offset=0, size_bytes=0)

Columns are found by the features that `datasets` stores in the file, or by name and type; the label is a class number,
a class name, or a list of them. Listing reads the label column alone. An image's bytes are read alone where the file
allows it, else with the whole row group that they lie in, of which the last few are kept (parquet_files.py): rows are
best read in the order of file and row, as shard tasks do. A path that stands beside the bytes is never followed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from data_prep.sources.base import Items, Rejected
from data_prep.sources.classes import MAX_CLASSES, classes_of_labels, is_name, numbered_classes
from data_prep.sources.parquet_columns import Columns, find_columns
from data_prep.sources.parquet_files import OpenFiles
from data_prep.sources.patterns import find_files, split_of_name, split_order
from data_prep.sources.rows import Row, check_image_bytes, gathered
from data_prep.sources.spelling import shown
from pipeline.shards.errors import UserError
from pipeline.shards.task import Task
from pipeline.storage import Store

logger = logging.getLogger(__name__)


def open_parquet(
    root: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    class_ids: Sequence[str] | None = None,
) -> ParquetSource:
    """Open a folder of Parquet files; their footers are read when they are needed.

    Args:
        root: folder or URL, one file, or names with braces.
        image_column: column of image bytes; None to find it.
        label_column: column of labels; None to find it.
        name: of the collection, for people; None for the folder's.
        classes: class names by number, instead of those that the files have.
        class_ids: the classes' ids in the collection.

    Raises:
        UserError: no Parquet file there.
    """
    store, files = find_files(root, extension=".parquet", what="Parquet files")
    return ParquetSource(
        store,
        [file.name for file in files],
        wanted_columns=(image_column, label_column),
        name=name or store.location.rstrip("/").rpartition("/")[2],
        classes=None if classes is None else tuple(classes),
        class_ids=None if class_ids is None else tuple(class_ids),
    )


class ParquetSource:
    """Opened Parquet files."""

    native_shape = None

    def __init__(
        self,
        store: Store,
        paths: list[str],
        *,
        wanted_columns: tuple[str | None, str | None],
        name: str,
        classes: tuple[str, ...] | None,
        class_ids: tuple[str, ...] | None,
    ) -> None:
        self.name, self.class_ids = name, class_ids
        self._files = OpenFiles(store)
        self._paths = paths
        self._wanted_columns = wanted_columns
        self._given_classes = classes

    @property
    def task(self) -> Task:
        """Several labels where the label column holds lists."""
        return Task.multilabel if self._columns.is_list else Task.classification

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Those given, or as the files' features have them, or else the labels that are in use."""
        names, given = self._columns.class_names, self._given_classes
        if given is not None and names is not None and len(given) != len(names):
            raise UserError(f"{self._where}: has {len(names):,} classes, {len(given):,} wanted; is it the right set?")
        if found := given or names:
            return found
        if not self._columns.is_number:
            return classes_of_labels(self._distinct_labels())
        return numbered_classes(max(map(int, self._distinct_labels()), default=0), where=self._where)

    @property
    def splits(self) -> tuple[str, ...]:
        """As the files' names have them; one whose first images have no label is none."""
        return tuple(self._paths_by_split)

    def list_items(self, split: str) -> Iterator[Items]:
        """List rows by file and number; only labels are read.

        Raises:
            UserError: a label that is no class, or a file whose columns differ from the others'.
            DamageError: a damaged file.
        """
        return gathered(self._rows(split))

    def read(self, *, path: str, offset: int, size_bytes: int) -> bytes:
        """Return the image file in row `offset` of a file.

        Raises:
            Rejected: the row has no image, or no label.
            DamageError: a damaged file.
        """
        if not path:
            raise Rejected("no label")
        content = self._files.image(path, offset, columns=self._columns)
        if content is None:
            raise Rejected("no image bytes in the row")
        check_image_bytes(len(content))
        return content

    @property
    def _where(self) -> str:
        return self._files.shown(self._paths[0])

    @cached_property
    def _columns(self) -> Columns:
        image, label = self._wanted_columns
        schema = self._files.schema(self._paths[0])
        return find_columns(schema, image=image, label=label, where=self._where)

    @cached_property
    def _paths_by_split(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        splits = [split_of_name(path) for path in self._paths]
        for path, split in zip(self._paths, splits, strict=True):
            if split is not None or not any(splits):
                found.setdefault(split or "train", []).append(path)
        if None in splits and any(splits):
            first = self._paths[splits.index(None)]
            logger.warning("%s: %d files of no split left out, such as %s", self._where, splits.count(None), first)
        for split in list(found):
            labels = next(self._files.labels(found[split][0], columns=self._columns), None)
            if labels is not None and len(labels) and all(map(_is_missing, labels.slice(0, 1000).to_pylist())):
                logger.warning("%s: its images have no labels: no split %s", found[split][0], split)
                del found[split]
        if not found:
            raise UserError(f"{self._where}: no split has labels in the column {self._columns.label!r}")
        return {split: found[split] for split in sorted(found, key=split_order)}

    def _distinct_labels(self) -> set[str]:
        """Return all labels that are in use, as text."""
        found: set[str] = set()
        for paths in self._paths_by_split.values():
            for path in paths:
                for labels in self._files.labels(path, columns=self._columns):
                    values = labels.flatten() if self._columns.is_list else labels
                    new = [value for value in values.unique().to_pylist() if not _is_missing(value)]
                    if bad := [value for value in new if isinstance(value, str) and not is_name(value)]:
                        raise UserError(f"{self._files.shown(path)}: label {shown(bad[0])} is no class name")
                    found.update(map(str, new))
                    if len(found) > MAX_CLASSES:
                        raise UserError(f"{self._files.shown(path)}: more than {MAX_CLASSES:,} labels; refused")
        return found

    def _rows(self, split: str) -> Iterator[Row]:
        numbers: dict[Any, int] = {name: number for number, name in enumerate(self.classes)}
        if self._columns.is_number:
            numbers = {number: number for number in range(len(self.classes))}
        for path in self._paths_by_split[split]:
            row = 0
            sizes_bytes = self._files.image_sizes(path, columns=self._columns)
            for labels, size_bytes in zip(self._files.labels(path, columns=self._columns), sizes_bytes, strict=True):
                for value in labels.to_pylist():
                    label, where = self._label(value, numbers, path=path, row=row), path
                    if label is None:
                        label, where = [] if self._columns.is_list else 0, ""
                    yield Row(label, f"{path}#{row}", where, row, size_bytes)
                    row += 1

    def _label(self, value: Any, numbers: dict[Any, int], *, path: str, row: int) -> int | list[int] | None:
        """Return the class number or numbers of a row, None where it has no label."""
        if _is_missing(value):
            return None
        try:
            return sorted({numbers[one] for one in value}) if self._columns.is_list else numbers[value]
        except KeyError as error:
            raise UserError(
                f"{self._files.shown(path)}: row {row}: label {shown(error.args[0])}: one of the"
                f" {len(self.classes):,} classes wanted"
            ) from None


def _is_missing(label: Any) -> bool:
    return label is None or (type(label) is int and label == -1)
