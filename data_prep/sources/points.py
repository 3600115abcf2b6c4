"""Points of the plane as images of two pixels, x and y: the smallest sets on which models differ, and can be drawn.

    source = PointsSource(samples=2000, val_samples=2000, classes=2, seed=0)
    source.read(path="train", offset=17, size_bytes=2)      # uint8 (1, 2, 1), the same for ever

Class k of K lies on a ring around the middle, of radius 0.9 (k + 1/2) / K in half widths, and within a quarter of
the distance between rings of it: no straight line separates two of them. 256 levels are fine enough for eyes and for
models. A point is a pure function of (seed, split, index).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from data_prep.sources.base import ImageArray, Items, numbered_items
from pipeline.shards.keyed import make_key, random_bits
from pipeline.shards.task import Task

OUTER_RADIUS = 0.9
# Of the distance between two rings, how far a point may lie from its own.
SPREAD = 0.25


class PointsSource:
    """A generator of points on rings, one ring a class."""

    name = "points"
    task = Task.classification
    class_ids = None
    native_shape = (1, 2, 1)

    def __init__(self, *, samples: int, val_samples: int, classes: int, seed: int) -> None:
        self._num_samples = {"train": samples} | ({"val": val_samples} if val_samples else {})
        self._num_classes = classes
        self._keys = {split: make_key("point", seed, split) for split in self._num_samples}

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, `ring-0` and so on, from the inside outwards."""
        return tuple(f"ring-{number}" for number in range(self._num_classes))

    @property
    def splits(self) -> tuple[str, ...]:
        """train, and val where it has points."""
        return tuple(self._num_samples)

    def list_items(self, split: str) -> Iterator[Items]:
        """List a split; labels go round, so that classes differ by at most one point in number."""
        return numbered_items(split, num_items=self._num_samples[split], num_classes=self._num_classes, item_bytes=2)

    def read(self, *, path: str, offset: int, size_bytes: int) -> ImageArray:
        """Make point number `offset` of split `path`: uint8 (1, 2, 1), its x and y, 0 to 255."""
        bits = int(random_bits(self._keys[path], np.array([offset]))[0])
        angle = 2 * math.pi * (bits >> 32) / 2**32
        distance = OUTER_RADIUS / self._num_classes
        off_ring = SPREAD * (2 * (bits & 0xFFFFFFFF) / 2**32 - 1)
        radius = distance * (offset % self._num_classes + 0.5 + off_ring)
        x, y = (round(127.5 + 127.5 * radius * share) for share in (math.cos(angle), math.sin(angle)))
        return np.array([[[x], [y]]], dtype=np.uint8)
