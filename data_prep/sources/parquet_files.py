"""Parquet files of strangers, read by row groups with a small cache.

    files = OpenFiles(store)
    for labels in files.labels(path, columns=columns):      # an Arrow array a row group
        ...
    files.image(path, 4711, columns=columns)                # the bytes in row 4,711

Safe to be called from several threads: one reads a row group, the others wait for it and take their rows from it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.sources.parquet_columns import Columns
from data_prep.store_file import open_stored
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import Store

MAX_GROUP_BYTES = 2 << 30
MAX_OPEN_FILES = 8
MAX_GROUPS = 2


class OpenFiles:
    """The Parquet files of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = Lock()
        self._files: OrderedDict[str, tuple[pq.ParquetFile, npt.NDArray[np.int64]]] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], pa.Array] = OrderedDict()

    def shown(self, path: str) -> str:
        """Return a file's name for people."""
        return f"{self._store.location}/{path}"

    def schema(self, path: str) -> pa.Schema:
        """Return a file's columns."""
        with self._lock, self._explain(path):
            return self._opened(path)[0].schema_arrow

    def labels(self, path: str, *, columns: Columns) -> Iterator[pa.Array]:
        """Yield the labels of each row group."""
        number = 0
        while True:
            with self._lock, self._explain(path):
                file, starts = self._opened(path)
                if number == len(starts) - 1:
                    return
                self._check_columns(path, file, columns)
                labels = _one_array(file.read_row_group(number, columns=[columns.label], use_threads=False))
                if len(labels) != starts[number + 1] - starts[number]:
                    raise DamageError(f"{self.shown(path)}: row group {number} has {len(labels)} labels; damaged")
            yield labels.dictionary_decode() if pa.types.is_dictionary(labels.type) else labels
            number += 1

    def image_sizes(self, path: str, *, columns: Columns) -> list[int]:
        """Return the mean bytes of an image in each row group: all that the file's footer says of them."""
        with self._lock, self._explain(path):
            file, _ = self._opened(path)
            self._check_columns(path, file, columns)
            sizes = []
            for number in range(file.num_row_groups):
                group = file.metadata.row_group(number)
                sizes.append(_image_bytes(group, columns) // max(1, group.num_rows))
            return sizes

    def image(self, path: str, row: int, *, columns: Columns) -> bytes | None:
        """Return the bytes of one row's image, None where it has none.

        Raises:
            UserError: a row group of more than 2 GiB, or the file is not what it was when it was listed.
            DamageError: a damaged file.
        """
        with self._lock, self._explain(path):
            file, starts = self._opened(path)
            if not 0 <= row < starts[-1]:
                raise UserError(f"{self.shown(path)}: has no row {row}; it is not what it was when it was listed")
            number = int(np.searchsorted(starts, row, side="right")) - 1
            group = self._groups.get((path, number))
            if group is None:
                group = self._read_images(path, file, number, columns)
                self._groups[path, number] = group
                while len(self._groups) > MAX_GROUPS:
                    self._groups.popitem(last=False)
            value: Any = group[row - int(starts[number])]
        return bytes(value.as_buffer()) if value.is_valid else None

    def _read_images(self, path: str, file: pq.ParquetFile, number: int, columns: Columns) -> pa.Array:
        self._check_columns(path, file, columns)
        size_bytes = _image_bytes(file.metadata.row_group(number), columns)
        if size_bytes > MAX_GROUP_BYTES:
            raise UserError(
                f"{self.shown(path)}: row group {number} has {size_bytes:,} bytes of images, at most"
                f" {MAX_GROUP_BYTES:,} are read; write the file anew with smaller row groups"
            )
        images = _one_array(file.read_row_group(number, columns=[columns.image_leaf], use_threads=False))
        if pa.types.is_struct(images.type):
            images = images.field("bytes")
        num_rows = file.metadata.row_group(number).num_rows
        if len(images) != num_rows:
            raise DamageError(
                f"{self.shown(path)}: row group {number} has {len(images)} images, {num_rows} promised; damaged"
            )
        return images

    def _opened(self, path: str) -> tuple[pq.ParquetFile, npt.NDArray[np.int64]]:
        """Return a file and the rows at which its row groups start, its own number of rows last."""
        if path not in self._files:
            file = pq.ParquetFile(open_stored(self._store, path), pre_buffer=False)
            rows = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            if min(rows, default=0) < 0:
                raise DamageError(f"{self.shown(path)}: a row group of {min(rows)} rows; damaged")
            self._files[path] = file, np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
            while len(self._files) > MAX_OPEN_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(path)
        return self._files[path]

    def _check_columns(self, path: str, file: pq.ParquetFile, columns: Columns) -> None:
        names = {file.schema.column(number).path for number in range(len(file.schema))}
        labels = [name for name in names if name == columns.label or name.startswith(f"{columns.label}.")]
        if columns.image_leaf not in names or not labels:
            raise UserError(
                f"{self.shown(path)}: has no columns {columns.image_leaf} and {columns.label} as the others have"
            )

    @contextmanager
    def _explain(self, path: str) -> Iterator[None]:
        """Turn what pyarrow raises into errors that name the file."""
        try:
            yield
        except UserError:
            raise
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            told = " ".join(str(error).split())[:300]
            raise DamageError(f"{self.shown(path)}: not Parquet, or damaged ({told}); get the file again") from None


def _one_array(table: pa.Table) -> pa.Array:
    column = table.column(0).combine_chunks()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _image_bytes(group: Any, columns: Columns) -> int:
    columns_of_group = map(group.column, range(group.num_columns))
    sizes = [int(c.total_uncompressed_size) for c in columns_of_group if c.path_in_schema == columns.image_leaf]
    return max([0, *sizes])
