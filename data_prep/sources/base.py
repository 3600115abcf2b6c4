"""What every source gives: a list of its items, and one item's image on request.

    source = open_source(config.source, resolution=None)
    items = source.list_items("train")          # a table; nothing is decoded
    image = source.read(path=..., offset=..., size_bytes=...)

A source is opened anew in each worker process, so it keeps no state that listing leaves behind: what `read`
needs stands in the item's own row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

ImageArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """The items of one split, as parallel columns of equal length.

    Attributes:
        labels: int64 (items,), class numbers in 0..classes-1.
        source_keys: the source's own name for each item (a path below the root, an index), unique in the split.
        paths: the file that holds each item, relative to the root; empty where the source needs none.
        offsets: int64 (items,), byte offset in that file, or row number for sources of fixed-size rows.
        sizes_bytes: int64 (items,), stored bytes of each item; what shard sizes are planned from.
    """

    labels: npt.NDArray[np.int64]
    source_keys: list[str]
    paths: list[str] = field(default_factory=list)
    offsets: npt.NDArray[np.int64]
    sizes_bytes: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        lengths = {len(self.labels), len(self.source_keys), len(self.paths), len(self.offsets), len(self.sizes_bytes)}
        if len(lengths) != 1:
            raise ValueError(f"columns of different lengths {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.source_keys)


class Source(Protocol):
    """An image collection, opened for reading."""

    @property
    def name(self) -> str:
        """Name for people, such as CIFAR-10."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that exist, train first."""

    @property
    def native_shape(self) -> tuple[int, int, int] | None:
        """(height, width, channels) where all images share it, else None."""

    def list_items(self, split: str) -> Items:
        """List a split without decoding anything, in an order that depends on the collection alone."""

    def read(self, *, path: str, offset: int, size_bytes: int) -> bytes | ImageArray:
        """Return one item: the bytes of an image file, or uint8 pixels (height, width, channels)."""
