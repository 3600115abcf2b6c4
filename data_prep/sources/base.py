"""What every source gives: a list of its items, and one item's image on request.

    source = open_source(config.source, resolution=None)
    for items in source.list_items("train"):    # tables of at most MAX_BATCH_ITEMS rows; nothing is decoded
        ...
    image = source.read(path=..., offset=..., size_bytes=...)

A source is opened anew in each worker process, so it keeps no state that listing leaves behind: what `read`
needs stands in the item's own row. A split may have more items than fit into memory, hence the tables in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.shards.task import Task

ImageArray = npt.NDArray[np.uint8]

MAX_BATCH_ITEMS = 65_536


class Rejected(Exception):
    """An item that cannot become a record; the message is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Consecutive items of one split, as parallel columns of equal length.

    Attributes:
        labels: int64 (items,), class numbers in 0..classes-1; for several labels a sorted list of distinct class
            numbers an item, which may be empty; for a regression float32 (items, targets).
        source_keys: the source's own name for each item (a path below the root, an index), unique in the split.
        paths: the file that holds each item, relative to the root; empty where the source needs none.
        offsets: int64 (items,), byte offset in that file, or row number for sources of fixed-size rows.
        sizes_bytes: int64 (items,), stored bytes of each item; what shard sizes are planned from.
        boxes: int32 (items, 4), the part of the image that the item is: left, top, width, height in pixels; None where
            items are whole images.
        details: the text of one JSON object an item, kept beside its image in the encoded layout; None for none.
    """

    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32] | list[list[int]]
    source_keys: list[str]
    paths: list[str]
    offsets: npt.NDArray[np.int64]
    sizes_bytes: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int32] | None = None
    details: list[str] | None = None

    def __post_init__(self) -> None:
        columns = (self.labels, self.source_keys, self.paths, self.offsets, self.sizes_bytes, self.boxes, self.details)
        lengths = {len(column) for column in columns if column is not None}
        if len(lengths) != 1:
            raise ValueError(f"columns of different lengths {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.source_keys)

    def batches(self) -> Iterator[Items]:
        """Yield these items in tables of at most MAX_BATCH_ITEMS."""
        for start in range(0, len(self), MAX_BATCH_ITEMS):
            part = slice(start, start + MAX_BATCH_ITEMS)
            yield Items(
                labels=self.labels[part],
                source_keys=self.source_keys[part],
                paths=self.paths[part],
                offsets=self.offsets[part],
                sizes_bytes=self.sizes_bytes[part],
                boxes=None if self.boxes is None else self.boxes[part],
                details=None if self.details is None else self.details[part],
            )


def numbered_items(
    split: str,
    *,
    num_items: int,
    item_bytes: int,
    labels_of: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64] | npt.NDArray[np.float32]],
) -> Iterator[Items]:
    """List items that a generator makes by their number.

    Args:
        labels_of: from numbers of items to their labels or targets, as `Items` has them.
    """
    for start in range(0, num_items, MAX_BATCH_ITEMS):
        numbers = np.arange(start, min(start + MAX_BATCH_ITEMS, num_items), dtype=np.int64)
        yield Items(
            labels=labels_of(numbers),
            source_keys=[f"{split}/{number:09d}" for number in numbers],
            paths=[split] * len(numbers),
            offsets=numbers,
            sizes_bytes=np.full(len(numbers), item_bytes, dtype=np.int64),
        )


class Source(Protocol):
    """An image collection, opened for reading."""

    @property
    def name(self) -> str:
        """Name for people, such as CIFAR-10."""

    @property
    def task(self) -> Task:
        """One label an item, several, or targets."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names for people; a label is an index into them. Of a regression: names of the targets."""

    @property
    def class_ids(self) -> tuple[str, ...] | None:
        """The source's own ids of the classes (WordNet ids, category ids); None where names are all there is."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that exist, train first."""

    @property
    def native_shape(self) -> tuple[int, int, int] | None:
        """(height, width, channels) where all images share it, else None."""

    def list_items(self, split: str) -> Iterator[Items]:
        """List a split without decoding anything, in an order that depends on the collection alone."""

    def read(self, *, path: str, offset: int, size_bytes: int) -> bytes | ImageArray:
        """Return one item: the bytes of an image file, or uint8 pixels (height, width, channels).

        Raises:
            Rejected: this one cannot be had, others can.
            UserError: the collection is not what it was when it was listed.
        """
