"""Synthetic images: any number, any size, learnable classes, cheap; the load generator of the benchmarks.

    source = SyntheticSource(samples=1_000_000, val_samples=10_000, classes=1000, channels=3, seed=0, resolution=64)
    source.read(path="train", offset=17, size_bytes=12288)      # uint8 (64, 64, 3), the same for ever

An image is the sum of four parts, each picked by keyed random numbers, so that it is a pure function of (seed, split,
index) and costs three additions of arrays:

    pattern      a window of a smooth field; it lies where the class has its place, shifted a little by the sample
    texture      a window of another smooth field, of larger amplitude; depends on the sample
    grain        a window of independent noise; depends on the sample
    brightness   one number; depends on the sample

Amplitudes add up to at most 255, so nothing overflows. All classes share the one pattern field, so memory does not
grow with their number: three fields of at most (resolution + 1024) squared. Texture and pattern are equally smooth,
so no filter separates them, and no linear map undoes the shift: of 10 classes at 64x64, averaged down to 32x32, ridge
regression got about 80 % right after 4,000 images and 1,500 random rectified features 87 % (seed 0 alone; the better
of two ridge strengths); of 100 classes, after 8,000, about 38 and 41 %. Whole numbers only: the same bytes on every
machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from data_prep.sources.base import ImageArray, Items, numbered_items
from pipeline.shards.keyed import make_key, random_bits
from pipeline.shards.task import Task

DEFAULT_RESOLUTION = 64
CELLS_ACROSS = 4
MAX_MARGIN = 1024
PATTERN_LEVELS = 44
TEXTURE_LEVELS = 136
GRAIN_LEVELS = 48
BRIGHTNESS_LEVELS = 24


class SyntheticSource:
    """A generator of images, holding three fields and one window a class."""

    name = "synthetic"
    task = Task.classification
    class_ids = None

    def __init__(
        self, *, samples: int, val_samples: int, classes: int, channels: int, seed: int, resolution: int | None
    ) -> None:
        side = resolution or DEFAULT_RESOLUTION
        margin = min(CELLS_ACROSS * side, MAX_MARGIN)
        field_shape = (side + margin, side + margin, channels)
        cell = max(1, margin // CELLS_ACROSS**2)
        self._side = side
        self._num_windows = margin + 1
        self._num_shifts = cell + 1
        self._num_samples = {"train": samples} | ({"val": val_samples} if val_samples else {})
        self._num_classes = classes
        self._channels = channels
        self._pattern = _smooth_field(make_key("pattern", seed), shape=field_shape, cell=cell, levels=PATTERN_LEVELS)
        self._texture = _smooth_field(make_key("texture", seed), shape=field_shape, cell=cell, levels=TEXTURE_LEVELS)
        self._grain = _smooth_field(make_key("grain", seed), shape=field_shape, cell=1, levels=GRAIN_LEVELS)
        class_bits = random_bits(make_key("class", seed), np.arange(classes))
        self._class_windows = np.stack([class_bits >> np.uint64(32), class_bits & np.uint64(0xFFFFFFFF)], axis=1)
        self._class_windows %= np.uint64(margin - cell + 1)
        self._keys = {split: make_key("sample", seed, split) for split in self._num_samples}

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, `class-0000` and so on."""
        return tuple(f"class-{number:04d}" for number in range(self._num_classes))

    @property
    def splits(self) -> tuple[str, ...]:
        """train, and val where it has images."""
        return tuple(self._num_samples)

    @property
    def native_shape(self) -> tuple[int, int, int]:
        """(resolution, resolution, channels)."""
        return self._side, self._side, self._channels

    def list_items(self, split: str) -> Iterator[Items]:
        """List a split; labels go round, so that classes differ by at most one image in number."""
        item_bytes = self._side * self._side * self._channels
        num_items, num_classes = self._num_samples[split], self._num_classes
        return numbered_items(
            split, num_items=num_items, item_bytes=item_bytes, labels_of=lambda numbers: numbers % num_classes
        )

    def read(self, *, path: str, offset: int, size_bytes: int) -> ImageArray:
        """Make image number `offset` of split `path`: uint8 (resolution, resolution, channels), values 0 to 248."""
        side, num_windows = self._side, self._num_windows
        places = int(random_bits(self._keys[path], np.array([offset]))[0])
        places, texture_top = divmod(places, num_windows)
        places, texture_left = divmod(places, num_windows)
        places, grain_top = divmod(places, num_windows)
        places, grain_left = divmod(places, num_windows)
        places, down = divmod(places, self._num_shifts)
        places, right = divmod(places, self._num_shifts)
        brightness = places % BRIGHTNESS_LEVELS
        top, left = self._class_windows[offset % self._num_classes].tolist()
        top, left = top + down, left + right
        image_HWC = (
            self._pattern[top : top + side, left : left + side]
            + self._texture[texture_top : texture_top + side, texture_left : texture_left + side]
        )
        image_HWC += self._grain[grain_top : grain_top + side, grain_left : grain_left + side]
        image_HWC += np.uint8(brightness)
        return image_HWC


def _smooth_field(key: int, *, shape: tuple[int, int, int], cell: int, levels: int) -> npt.NDArray[np.uint8]:
    """Return uint8 values in [0, levels): random numbers on a grid of `cell` pixels, interpolated linearly.

    Args:
        key: of the random numbers.
        shape: (rows, columns, channels).
        cell: distance of the grid's points in pixels; 1 gives independent noise.
        levels: 1 to 256.
    """
    height, width, channels = shape
    grid_shape = (height // cell + 2, width // cell + 2, channels)
    bits = random_bits(key, np.arange(np.prod(grid_shape)))
    grid = (bits >> np.uint64(48)).astype(np.int64).reshape(grid_shape)
    rows, row_shares = np.divmod(np.arange(height), cell)
    columns, column_shares = np.divmod(np.arange(width), cell)
    row_shares, column_shares = row_shares[:, None, None], column_shares[None, :, None]
    grid = grid[rows] * (cell - row_shares) + grid[rows + 1] * row_shares
    field = grid[:, columns] * (cell - column_shares) + grid[:, columns + 1] * column_shares
    return np.ascontiguousarray(field * levels // (cell * cell << 16), dtype=np.uint8)
