"""A gzip file read at unpacked offsets, without unpacking it to disk.

    unpacked = open_gzip(store, "winter21_whole.tar.gz", index_path=Path("work/winter21_whole.index"))
    for member in walk_tar(unpacked, "winter21_whole.tar.gz"): ...

The first opening makes the index, in one pass over the whole file; others, in other processes too, use it, and need
neither that pass nor the library that made it. A read unpacks about 1 MiB, with zlib, and holds it against the
CRC-32s of the index. That is some ten times the work of decoding a JPEG: for shuffled reading, and a disk that has
the room, `gunzip` first is the faster way.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np

from data_prep.archives.deflate import inflate_from
from data_prep.archives.gzip_index import CELL_BYTES, GzipIndex, build_index, ends_crc32, read_index, write_index
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import Store, StoredFile

CACHED_STRETCHES = 16


def open_gzip(store: Store, name: str, *, index_path: Path, on_progress: Callable[[int], None] | None = None) -> Store:
    """Return a store in which the file `name` stands for what the gzip file `name` unpacks to.

    Args:
        store: where the gzip file lies.
        name: its name there.
        index_path: the index; made and kept there when it is missing.
        on_progress: called with the packed bytes newly read while the index is made.

    Raises:
        UserError: to make the index, rapidgzip is wanted and not installed; the file is missing or unreadable; the
            index is of another file.
        DamageError: the file or the index is damaged.
    """
    if not index_path.exists():
        write_index(index_path, build_index(store, name, on_progress=on_progress))
    index = read_index(index_path)
    packed_bytes = store.size_of(name)
    if packed_bytes is None:
        raise UserError(f"{store.location}/{name}: missing")
    if packed_bytes != index.packed_bytes or ends_crc32(store, name, packed_bytes=packed_bytes) != index.ends_crc32:
        raise UserError(f"{index_path}: the index of another file than {store.location}/{name}; remove it")
    return GzipStore(store, name, index)


class GzipStore:
    """A store with one gzip file of it shown unpacked; the others are as they are."""

    def __init__(self, store: Store, name: str, index: GzipIndex) -> None:
        self.location = store.location
        self._store, self._name, self._index = store, name, index
        self._stretches: OrderedDict[int, tuple[int, bytes]] = OrderedDict()
        self._lock = Lock()

    def size_of(self, name: str) -> int | None:
        """Return a file's size in bytes, unpacked for the gzip file; None where there is no such file."""
        return self._index.unpacked_bytes if name == self._name else self._store.size_of(name)

    def read_bytes(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole file of at most `max_bytes`."""
        if name != self._name:
            return self._store.read_bytes(name, max_bytes=max_bytes)
        if self._index.unpacked_bytes > max_bytes:
            raise DamageError(f"{self.location}/{name}: unpacks to more than the {max_bytes} bytes that can be right")
        return self.read_at(name, offset=0, size_bytes=self._index.unpacked_bytes)

    def read_at(self, name: str, *, offset: int, size_bytes: int) -> bytes:
        """Return exactly `size_bytes` bytes from `offset` on."""
        if name != self._name:
            return self._store.read_at(name, offset=offset, size_bytes=size_bytes)
        end = offset + size_bytes
        if end > self._index.unpacked_bytes:
            raise DamageError(
                f"{self.location}/{name}: unpacks to {self._index.unpacked_bytes} bytes, {end} were wanted"
            )
        pieces = []
        while offset < end:
            start, content = self._stretch_at(offset)
            pieces.append(content[offset - start : end - start])
            offset += len(pieces[-1])
        return b"".join(pieces)

    def list_files(self, prefix: str = "") -> list[StoredFile]:
        """Return all files below the folder `prefix`, sorted by name."""
        return [
            replace(file, size_bytes=self._index.unpacked_bytes) if file.name == self._name else file
            for file in self._store.list_files(prefix)
        ]

    def publish(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Write a file; not over the gzip file."""
        self._check_not_ours(name)
        return self._store.publish(name)

    def remove(self, name: str) -> None:
        """Remove a file; not the gzip file."""
        self._check_not_ours(name)
        self._store.remove(name)

    def local_path(self, name: str) -> Path | None:
        """Return the file's path where it lies on this machine as it is shown here, so None for the gzip file."""
        return None if name == self._name else self._store.local_path(name)

    def _check_not_ours(self, name: str) -> None:
        if name == self._name:
            raise UserError(f"{self.location}/{name}: is read unpacked here, and cannot be changed")

    def _stretch_at(self, offset: int) -> tuple[int, bytes]:
        """Return whole cells around an unpacked offset, and where they start; a few are kept."""
        cell = offset // CELL_BYTES
        point = int(np.searchsorted(self._index.points["unpacked"], cell * CELL_BYTES, side="right")) - 1
        with self._lock:
            found = self._stretches.get(point)
            if found is not None:
                self._stretches.move_to_end(point)
                return found
        found = self._unpack(point)
        with self._lock:
            self._stretches[point] = found
            while len(self._stretches) > CACHED_STRETCHES:
                self._stretches.popitem(last=False)
        return found

    def _unpack(self, point: int) -> tuple[int, bytes]:
        """Return the cells that start between a point and the next, checked, and where the first starts."""
        index, points = self._index, self._index.points
        entered = int(points["unpacked"][point])
        after = int(points["unpacked"][point + 1]) if point + 1 < len(points) else index.unpacked_bytes
        first_cell, end_cell = -(-entered // CELL_BYTES), -(-after // CELL_BYTES)
        start, end = first_cell * CELL_BYTES, min(end_cell * CELL_BYTES, index.unpacked_bytes)
        end_point = int(np.searchsorted(points["unpacked"], end))
        packed_bit = int(points["packed_bit"][point])
        packed_end = int(points["packed_bit"][end_point]) // 8 + 1 if end_point < len(points) else index.packed_bytes
        packed_start, bits = divmod(packed_bit, 8)
        size_bytes = min(packed_end, index.packed_bytes) - packed_start
        packed = self._store.read_at(self._name, offset=packed_start, size_bytes=size_bytes)
        try:
            window = index.window(point)
            content = inflate_from(packed, bits=bits, window=window, max_bytes=end - entered)[start - entered :]
        except zlib.error as error:
            raise DamageError(f"{self._at(packed_start)}: {error}; get the file again") from None
        for cell in range(first_cell, end_cell):
            begin = cell * CELL_BYTES - start
            if zlib.crc32(content[begin : begin + CELL_BYTES]) != index.cell_crc32s[cell]:
                raise DamageError(f"{self._at(packed_start)}: is no longer what it was when its index was made")
        return start, content

    def _at(self, offset: int) -> str:
        return f"{self.location}/{self._name}, packed byte {offset}"
