"""Writing one shard and its sidecar, whole or not at all.

    with ShardWriter(publish_into(Path("train")), number=0) as writer:
        writer.add(record, label=3, height=64, width=64, image_offset=1536, image_bytes=12352, source_key=b"a/b.jpg")
    writer.entry        # the manifest's row

The sidecar is published before the shard: a shard under its name always has its sidecar.
"""

from __future__ import annotations

import hashlib
import zlib
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np

from pipeline.shards.crc import shifted
from pipeline.shards.index import INDEX_SUFFIX, IndexRows, encode_index, make_index
from pipeline.shards.manifest import shard_row
from pipeline.shards.publish import Publish
from pipeline.shards.record import END_OF_ARCHIVE, Label


def shard_name(number: int) -> str:
    """Return the file name of shard `number`, as in shard-000042.tar."""
    return f"shard-{number:06d}.tar"


class ShardWriter:
    """Appends records to a tar under a temporary name; publishes it, after its sidecar, when the block ends.

    `entry`, the manifest's row, is there afterwards; None where no record was added: such a shard is not kept.
    `image_crcs` are the CRC-32 of the records' images, without padding.
    """

    def __init__(self, publish: Publish, *, number: int) -> None:
        self.name = shard_name(number)
        self.index_name = self.name.removesuffix(".tar") + INDEX_SUFFIX
        self.entry: dict[str, Any] | None = None
        self._publish = publish
        self.image_crcs: list[int] = []
        self._rows: list[tuple[int, int, int, int, int, int, int]] = []
        self._rest_crcs: list[int] = []
        self._labels: list[Label] = []
        self._source_keys: list[bytes] = []
        self._offset = 0
        self._sha256 = hashlib.sha256()
        self._stack = ExitStack()

    def __enter__(self) -> ShardWriter:
        self._stream = self._stack.enter_context(self._publish(self.name))
        return self

    def add(
        self,
        record: bytes,
        *,
        label: Label,
        height: int,
        width: int,
        image_offset: int,
        image_bytes: int,
        source_key: bytes,
    ) -> None:
        """Append a record; `image_offset` counts from the record's first byte. All labels are of one kind."""
        self._stream.write(record)
        self._sha256.update(record)
        start = self._offset
        # The image's bytes are gone over once, for its own CRC; the record's follows from its parts' (_index_rows).
        view, image_end = memoryview(record), image_offset + image_bytes
        head_crc, image_crc = zlib.crc32(view[:image_offset]), zlib.crc32(view[image_offset:image_end])
        self._rows.append((start, len(record), start + image_offset, image_bytes, head_crc, height, width))
        self.image_crcs.append(image_crc)
        self._rest_crcs.append(zlib.crc32(view[image_end:], image_crc))
        self._labels.append(label)
        self._source_keys.append(source_key)
        self._offset += len(record)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None or not self._rows:
            nothing = _Nothing()
            self._stack.__exit__(kind or _Nothing, error or nothing, traceback)
            return
        with self._stack:
            self._stream.write(END_OF_ARCHIVE)
            self._sha256.update(END_OF_ARCHIVE)
            index = encode_index(self._index_rows())
            with self._publish(self.index_name) as stream:
                stream.write(index)
        self.entry = shard_row(
            self.name,
            samples=len(self._rows),
            size_bytes=self._offset + len(END_OF_ARCHIVE),
            sha256=self._sha256.hexdigest(),
            index_name=self.index_name,
            index=index,
        )

    def _index_rows(self) -> IndexRows:
        rows = make_index(self._rows, labels=self._labels, source_keys=self._source_keys)
        rest_bytes = rows["record_bytes"] - (rows["image_offset"] - rows["record_offset"])
        rows["crc32"] = shifted(rows["crc32"], rest_bytes) ^ np.array(self._rest_crcs, dtype=np.uint32)
        return rows


class _Nothing(Exception):
    """Makes the publishing of an empty shard give up."""
