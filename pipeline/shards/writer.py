"""Writing one shard and its sidecar, whole or not at all.

    with ShardWriter(Path("train"), number=0) as writer:
        writer.add(record, label=3, height=64, width=64, image_offset=1536, image_bytes=12352, source_key=b"a/b.jpg")
    writer.entry        # the manifest's row

The sidecar is published before the shard: a shard under its name always has its sidecar.
"""

from __future__ import annotations

import hashlib
import zlib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pipeline.shards.index import INDEX_SUFFIX, encode_index, index_dtype
from pipeline.shards.publish import publish, publish_bytes
from pipeline.shards.record import END_OF_ARCHIVE


def shard_name(number: int) -> str:
    """Return the file name of shard `number`, as in shard-000042.tar."""
    return f"shard-{number:06d}.tar"


class ShardWriter:
    """Appends records to a tar under a temporary name; publishes it, after its sidecar, when the block ends."""

    def __init__(self, folder: Path, *, number: int) -> None:
        self.path = folder / shard_name(number)
        self.index_path = folder / (self.path.stem + INDEX_SUFFIX)
        self.entry: dict[str, Any] | None = None
        self._rows: list[tuple[int, int, int, int, int, int, int, int, bytes]] = []
        self._offset = 0
        self._sha256 = hashlib.sha256()
        self._stack = ExitStack()

    def __enter__(self) -> ShardWriter:
        self._stream = self._stack.enter_context(publish(self.path))
        return self

    def add(
        self,
        record: bytes,
        *,
        label: int,
        height: int,
        width: int,
        image_offset: int,
        image_bytes: int,
        source_key: bytes,
    ) -> None:
        """Append a record; `image_offset` counts from the record's first byte."""
        self._stream.write(record)
        self._sha256.update(record)
        crc32 = zlib.crc32(record)
        start = self._offset
        self._rows.append(
            (start, len(record), start + image_offset, image_bytes, crc32, height, width, label, source_key)
        )
        self._offset += len(record)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:
            self._stream.write(END_OF_ARCHIVE)
            self._sha256.update(END_OF_ARCHIVE)
            source_key_bytes = max((len(row[-1]) for row in self._rows), default=1) or 1
            index = encode_index(np.array(self._rows, dtype=index_dtype(source_key_bytes=source_key_bytes)))
            publish_bytes(self.index_path, index)
        self.entry = {
            "url": self.path.name,
            "nsamples": len(self._rows),
            "filesize": self._offset + len(END_OF_ARCHIVE),
            "sha256": self._sha256.hexdigest(),
            "index": {
                "url": self.index_path.name,
                "filesize": len(index),
                "sha256": hashlib.sha256(index).hexdigest(),
            },
        }
