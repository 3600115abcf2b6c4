"""Pieces of a shard, read by offset.

with opened(shard) as read_at:
    read_at(1536, 12_352)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.shards.errors import DamageError
from pipeline.shards.manifest import ShardEntry

# (offset, size in bytes) -> exactly that many bytes.
ReadAt = Callable[[int, int], bytes]


@contextmanager
def opened(shard: ShardEntry) -> Iterator[ReadAt]:
    """Yield a function that reads all of a piece.

    Raises:
        DamageError: the shard cannot be opened, or ends before the piece does.
    """
    try:
        descriptor = os.open(shard.path, os.O_RDONLY)
    except OSError as error:
        raise DamageError(f"{shard.path}: the shard cannot be read ({error.strerror})") from None

    def read_at(offset: int, size_bytes: int) -> bytes:
        content = os.pread(descriptor, size_bytes, offset)
        if len(content) != size_bytes:
            raise DamageError(f"{shard.path}: cut short: no {size_bytes} bytes at {offset}")
        return content

    try:
        yield read_at
    finally:
        os.close(descriptor)
