"""What others want of a store: a file as a seekable stream (pyarrow, zipfile), a folder to publish into (shards).

pq.ParquetFile(open_stored(store, "plan/train.parquet"))
"""

from __future__ import annotations

import io

from pipeline.shards.errors import UserError
from pipeline.shards.publish import Publish
from pipeline.storage import Store

BUFFER_BYTES = 1 << 20


def open_stored(store: Store, name: str) -> io.BufferedReader:
    """Return a buffered, seekable stream of a stored file.

    Raises:
        UserError: there is no such file.
    """
    size_bytes = store.size_of(name)
    if size_bytes is None:
        raise UserError(f"{store.location}/{name}: missing")
    return io.BufferedReader(_RangedFile(store, name, size_bytes=size_bytes), BUFFER_BYTES)


def publish_below(store: Store, folder: str) -> Publish:
    """Return the function that publishes names in one folder of a store."""
    return lambda name: store.publish(f"{folder}/{name}")


class _RangedFile(io.RawIOBase):
    def __init__(self, store: Store, name: str, *, size_bytes: int) -> None:
        self._store, self._name, self._size_bytes = store, name, size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted_bytes = max(0, min(len(buffer), self._size_bytes - self._position))
        if wanted_bytes:
            buffer[:wanted_bytes] = self._store.read_at(self._name, offset=self._position, size_bytes=wanted_bytes)
            self._position += wanted_bytes
        return wanted_bytes
