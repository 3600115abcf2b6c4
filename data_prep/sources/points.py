"""Points of the plane as images of two pixels, x and y: the smallest sets on which models differ, and can be drawn.

    source = PointsSource(samples=2000, val_samples=2000, classes=2, shape=PointsShape.rings, gap=0.0, seed=0)
    source.read(path="train", offset=17, size_bytes=2)      # uint8 (1, 2, 1), the same for ever

rings: class k of K lies on a ring around the middle, of radius 0.9 (k + 1/2) / K in half widths, and within a quarter
of the distance between rings of it: no straight line separates two of them.

halves: two classes, one on each side of a straight line, and at least `gap` half widths away from it; with a gap below
0 points lie up to as far on the wrong side, so no line separates them all.

256 levels are fine enough for eyes and for models. A point is a pure function of (seed, split, index).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from data_prep.source_config import PointsShape
from data_prep.sources.base import ImageArray, Items, numbered_items
from pipeline.shards.keyed import make_key, random_bits
from pipeline.shards.task import Task

OUTER_RADIUS = 0.9
# Of the distance between two rings, how far a point may lie from its own.
SPREAD = 0.25
# The line that halves are parted by: the direction of its normal, its distance from the middle, and how far points lie
# along it and away from it, so that all of them are within the image.
NORMAL_ANGLE, LINE_OFFSET, REACH = math.radians(60), 0.1, 0.6


class PointsSource:
    """A generator of points: one ring a class, or one half plane."""

    name = "points"
    task = Task.classification
    class_ids = None
    native_shape = (1, 2, 1)

    def __init__(
        self,
        *,
        samples: int,
        val_samples: int,
        classes: int,
        seed: int,
        shape: PointsShape = PointsShape.rings,
        gap: float = 0.0,
    ) -> None:
        self._num_samples = {"train": samples} | ({"val": val_samples} if val_samples else {})
        self._num_classes, self._shape, self._gap = classes, shape, gap
        self._keys = {split: make_key("point", seed, split) for split in self._num_samples}

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names: `ring-0` and so on, from the inside outwards, or `below` and `above` the line."""
        if self._shape is PointsShape.halves:
            return ("below", "above")
        return tuple(f"ring-{number}" for number in range(self._num_classes))

    @property
    def splits(self) -> tuple[str, ...]:
        """train, and val where it has points."""
        return tuple(self._num_samples)

    def list_items(self, split: str) -> Iterator[Items]:
        """List a split; labels go round, so that classes differ by at most one point in number."""
        num_items, num_classes = self._num_samples[split], self._num_classes
        return numbered_items(split, num_items=num_items, item_bytes=2, labels_of=lambda numbers: numbers % num_classes)

    def read(self, *, path: str, offset: int, size_bytes: int) -> ImageArray:
        """Make point number `offset` of split `path`: uint8 (1, 2, 1), its x and y, 0 to 255."""
        bits = int(random_bits(self._keys[path], np.array([offset]))[0])
        shares = ((bits >> 32) / 2**32, (bits & 0xFFFFFFFF) / 2**32)
        label = offset % self._num_classes
        place = self._on_ring(label, shares) if self._shape is PointsShape.rings else self._on_side(label, shares)
        return np.array([[[round(127.5 + 127.5 * share)] for share in place]], dtype=np.uint8)

    def _on_ring(self, label: int, shares: tuple[float, float]) -> tuple[float, float]:
        angle = 2 * math.pi * shares[0]
        off_ring = SPREAD * (2 * shares[1] - 1)
        radius = OUTER_RADIUS / self._num_classes * (label + 0.5 + off_ring)
        return radius * math.cos(angle), radius * math.sin(angle)

    def _on_side(self, label: int, shares: tuple[float, float]) -> tuple[float, float]:
        along = REACH * (2 * shares[0] - 1)
        away = self._gap + (REACH - self._gap) * shares[1]
        height = LINE_OFFSET + (away if label == 1 else -away)
        cos, sin = math.cos(NORMAL_ANGLE), math.sin(NORMAL_ANGLE)
        return height * cos - along * sin, height * sin + along * cos
