"""Items one by one, gathered into tables: what sources that walk a file or an archive share.

    def rows() -> Iterator[Row]:
        yield Row(label=3, source_key="cat/1.jpg", path="cat/1.jpg", size_bytes=51_200)

    for items in gathered(rows()):      # tables of at most MAX_BATCH_ITEMS rows
        ...

Also what they share about reading: files in pieces, and images that are still what they were when listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.sources.base import MAX_BATCH_ITEMS, Items, Rejected
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import Store

MAX_IMAGE_BYTES = 1 << 28
_PIECE_BYTES = 1 << 20


class Row(NamedTuple):
    """One item, as a row of Items; a tuple, as listing makes millions of them. Targets are float32 (targets,)."""

    label: int | list[int] | npt.NDArray[np.float32]
    source_key: str
    path: str
    offset: int = 0
    size_bytes: int = 0
    box: tuple[int, int, int, int] | None = None
    details: str | None = None


def gathered(rows: Iterable[Row]) -> Iterator[Items]:
    """Yield rows as tables; `box` and `details` stand in every row or in none, and labels are of one kind."""
    rows = iter(rows)
    table: npt.NDArray[np.int64] | npt.NDArray[np.float32] | list[list[int]]
    while batch := list(islice(rows, MAX_BATCH_ITEMS)):
        first = batch[0]
        labels, source_keys, paths, offsets, sizes_bytes, boxes, details = zip(*batch, strict=True)
        if isinstance(first.label, list):
            table = list(labels)
        else:
            table = np.stack(labels) if isinstance(first.label, np.ndarray) else np.array(labels, dtype=np.int64)
        yield Items(
            labels=table,
            source_keys=list(source_keys),
            paths=list(paths),
            offsets=np.array(offsets, dtype=np.int64),
            sizes_bytes=np.array(sizes_bytes, dtype=np.int64),
            boxes=None if first.box is None else np.array(boxes, dtype=np.int32),
            details=None if first.details is None else list(details),
        )


def pieces_of(stream: BinaryIO) -> Iterator[bytes]:
    """Yield a stream's bytes in pieces of a mebibyte."""
    while piece := stream.read(_PIECE_BYTES):
        yield piece


def read_image_file(store: Store, path: str, *, size_bytes: int) -> bytes:
    """Return the bytes of an image file that had `size_bytes` when it was listed.

    Raises:
        Rejected: longer than any image.
        UserError: it is gone, or of another length now.
    """
    check_image_bytes(size_bytes)
    told = f"{store.location}/{path}: is no longer the {size_bytes} bytes that it had when it was listed"
    try:
        content = store.read_bytes(path, max_bytes=size_bytes)
    except DamageError as error:
        raise UserError(f"{told} ({error})") from None
    if len(content) != size_bytes:
        raise UserError(told)
    return content


def check_image_bytes(size_bytes: int) -> None:
    """Raise Rejected for a size that no image has."""
    if size_bytes > MAX_IMAGE_BYTES:
        raise Rejected(f"{size_bytes:,} bytes, more than the {MAX_IMAGE_BYTES:,} that an image may have")
