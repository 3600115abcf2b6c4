"""Parquet files of strangers: labels by row groups, images one by one.

    files = OpenFiles(store)
    for labels in files.labels(path, columns=columns):      # an Arrow array a row group
        ...
    files.image(path, 4711, columns=columns)                # the bytes in row 4,711

The first image asked of a row group has the places of all of them looked up (parquet_places.py), which are kept, so
that each is read alone. Where images cannot be had alone, they are read with the whole row group; the last few groups
are kept. From a server a column is looked through whole, as a thousand small requests cost more, and kept likewise.
Safe to be called from several threads: one looks through or reads a row group, the others wait for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.sources.parquet_columns import Columns
from data_prep.sources.parquet_headers import ContentError
from data_prep.sources.parquet_places import Chunk, Places, find_places
from data_prep.sources.parquet_snappy import ReadAt
from data_prep.sources.rows import check_image_bytes
from data_prep.store_file import open_stored
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import Store

MAX_GROUP_BYTES = 2 << 30
MAX_OPEN_FILES = 8
MAX_GROUPS = 2
MAX_PLACES_BYTES = 64 << 20
LOCAL_WINDOW_BYTES = 1 << 10
REMOTE_WINDOW_BYTES = 128 << 20


class OpenFiles:
    """The Parquet files of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = Lock()
        self._files: OrderedDict[str, tuple[pq.ParquetFile, npt.NDArray[np.int64]]] = OrderedDict()
        self._starts: dict[str, npt.NDArray[np.int64]] = {}  # stay where files are closed, so that few are reopened
        self._groups: OrderedDict[tuple[str, int], pa.Array] = OrderedDict()
        self._places: OrderedDict[tuple[str, int], Places | None] = OrderedDict()
        self._places_bytes = 0
        self._windows: OrderedDict[tuple[str, int], _Window] = OrderedDict()

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
            Rejected: longer than any image.
            UserError: a row group of more than 2 GiB, or the file is not what it was when it was listed.
            DamageError: a damaged file.
        """
        with self._lock, self._explain(path):
            starts = self._starts[path] if path in self._starts else self._opened(path)[1]
            if not 0 <= row < starts[-1]:
                raise UserError(f"{self.shown(path)}: has no row {row}; it is not what it was when it was listed")
            number = int(np.searchsorted(starts, row, side="right")) - 1
            row_of_group = row - int(starts[number])
            if (path, number) not in self._places:
                self._keep_places(path, number, self._find_places(path, self._opened(path)[0], number, columns))
            places, window = self._places[path, number], self._windows.get((path, number))
        if places is not None:
            try:
                size_bytes = places.size_of(row_of_group)
                if size_bytes is None:
                    return None
                check_image_bytes(size_bytes)
                return places.read(window or self._direct(path), row_of_group)
            except ContentError:  # a place that leads nowhere: pyarrow has the last word
                pass
        return self._image_of_group(path, number, row_of_group, columns)

    def _image_of_group(self, path: str, number: int, row_of_group: int, columns: Columns) -> bytes | None:
        with self._lock, self._explain(path):
            group = self._groups.get((path, number))
            if group is None:
                group = self._read_images(path, self._opened(path)[0], number, columns)
                self._groups[path, number] = group
                while len(self._groups) > MAX_GROUPS:
                    self._groups.popitem(last=False)
            value: Any = group[row_of_group]
        return bytes(value.as_buffer()) if value.is_valid else None

    def _find_places(self, path: str, file: pq.ParquetFile, number: int, columns: Columns) -> Places | None:
        """Return where a row group's images lie, None where they cannot be read one by one."""
        self._check_columns(path, file, columns)
        chunk = _chunk_of(file, number, columns)
        if chunk is None:
            return None
        is_remote = self._store.local_path(path) is None
        window = _Window(
            self._direct(path), chunk, window_bytes=REMOTE_WINDOW_BYTES if is_remote else LOCAL_WINDOW_BYTES
        )
        try:
            places = find_places(window, chunk)
        except (ContentError, DamageError):  # another kind of column, or damage: pyarrow has the last word
            return None
        if is_remote and chunk.stored_bytes <= REMOTE_WINDOW_BYTES:
            self._windows[path, number] = window
            while len(self._windows) > MAX_GROUPS:
                self._windows.popitem(last=False)
        return places

    def _keep_places(self, path: str, number: int, places: Places | None) -> None:
        """Keep them; of too many those before the last go: each task goes over all groups, so the oldest come next."""
        self._places[path, number] = places
        self._places_bytes += places.memory_bytes if places else 0
        while self._places_bytes > MAX_PLACES_BYTES and len(self._places) > MAX_GROUPS:
            dropped = self._places.pop(next(islice(reversed(self._places), MAX_GROUPS, None)))
            self._places_bytes -= dropped.memory_bytes if dropped else 0

    def _direct(self, path: str) -> ReadAt:
        return lambda position, size_bytes: self._store.read_at(path, offset=position, size_bytes=size_bytes)

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
            file = pq.ParquetFile(open_stored(self._store, path).detach(), pre_buffer=False)
            rows = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            if min(rows, default=0) < 0:
                raise DamageError(f"{self.shown(path)}: a row group of {min(rows)} rows; damaged")
            self._starts[path] = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
            self._files[path] = file, self._starts[path]
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


class _Window:
    """A column chunk's bytes, read `window_bytes` at once; what lies in the last such piece comes from memory."""

    def __init__(self, read_at: ReadAt, chunk: Chunk, *, window_bytes: int) -> None:
        self._read_at = read_at
        self._end = chunk.start + chunk.stored_bytes
        self._window_bytes = window_bytes
        self._held: tuple[int, bytes] = 0, b""

    def __call__(self, position: int, size_bytes: int) -> bytes:
        start, held = self._held
        if not start <= position <= position + size_bytes <= start + len(held):
            if position + size_bytes > self._end:
                raise ContentError("goes on behind its column")
            wanted_bytes = min(max(size_bytes, self._window_bytes), self._end - position)
            start, held = self._held = position, self._read_at(position, wanted_bytes)
        return held[position - start : position - start + size_bytes]


def _chunk_of(file: pq.ParquetFile, number: int, columns: Columns) -> Chunk | None:
    """Return where a row group has its images, None where they are none of a kind that is read one by one."""
    group = file.metadata.row_group(number)
    found = [column for column in range(group.num_columns) if file.schema.column(column).path == columns.image_leaf]
    if len(found) != 1:
        return None
    stored, kind = group.column(found[0]), file.schema.column(found[0])
    if stored.compression not in ("UNCOMPRESSED", "SNAPPY") or stored.physical_type != "BYTE_ARRAY":
        return None
    if kind.max_repetition_level or stored.file_path:
        return None
    # Some writers put 0 where there is no dictionary.
    start = min(stored.dictionary_page_offset or stored.data_page_offset, stored.data_page_offset)
    if start < len(b"PAR1") or stored.total_compressed_size < 0:
        return None
    return Chunk(
        start=start,
        stored_bytes=stored.total_compressed_size,
        num_rows=group.num_rows,
        is_snappy=stored.compression == "SNAPPY",
        max_level=kind.max_definition_level,
    )


def _one_array(table: pa.Table) -> pa.Array:
    column = table.column(0).combine_chunks()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _image_bytes(group: Any, columns: Columns) -> int:
    columns_of_group = map(group.column, range(group.num_columns))
    sizes = [int(c.total_uncompressed_size) for c in columns_of_group if c.path_in_schema == columns.image_leaf]
    return max([0, *sizes])
