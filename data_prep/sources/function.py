"""A continuous function of one or two variables as a data set: images of so many pixels, and the value as the target.

    source = FunctionSource(function=Function.waves, samples=2000, val_samples=2000, noise=0.1, seed=0)
    source.read(path="train", offset=17, size_bytes=1)      # uint8 (1, 1, 1): the level of x, the same for ever
    value(Function.waves, np.array([[0.25]]))               # float64 (1,): what a model is to give there

Each variable is drawn uniformly from the 256 levels of a pixel, k / 255 for k = 0 to 255: steps that eyes do not see.
Training targets are the function's value and noise, normal and independent of sample to sample; validation targets are
the value alone, so that a model's mean squared error there is its distance from the function itself. A sample is a pure
function of (seed, split, index).

Axes: N samples, V variables.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.source_config import Function
from data_prep.sources.base import ImageArray, Items, numbered_items
from pipeline.shards.keyed import make_key, random_bits
from pipeline.shards.task import Task

FloatArray = npt.NDArray[np.float64]

LEVELS = 256
# Corners of `kinks`, at equal distances from 0 to 1.
KINKS = (0.0, 0.8, -0.4, 0.2, -1.0, 0.6, 1.0, -0.2, 0.4)
# Middle, width and height of each bump of `hills`.
HILLS = ((0.3, 0.3, 0.15, 1.0), (0.7, 0.6, 0.2, -1.0), (0.25, 0.75, 0.1, 0.8), (0.8, 0.2, 0.12, 0.7))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """A function of points (N, V) in the unit interval or square, with values in about -1 to 1."""

    num_variables: int
    of: Callable[[FloatArray], FloatArray]


def _waves(points_NV: FloatArray) -> FloatArray:
    x_N = 2 * np.pi * points_NV[:, 0]
    values_N: FloatArray = 0.5 * np.sin(x_N) + 0.3 * np.sin(2 * x_N + 1) + 0.2 * np.sin(4 * x_N + 2)
    return values_N


def _kinks(points_NV: FloatArray) -> FloatArray:
    return np.interp(points_NV[:, 0], np.linspace(0, 1, len(KINKS)), KINKS)


def _hills(points_NV: FloatArray) -> FloatArray:
    values_N = np.zeros(len(points_NV))
    for x, y, width, height in HILLS:
        values_N += height * np.exp(-((points_NV[:, 0] - x) ** 2 + (points_NV[:, 1] - y) ** 2) / (2 * width**2))
    return values_N


def _ripples(points_NV: FloatArray) -> FloatArray:
    distance_N = np.hypot(points_NV[:, 0] - 0.5, points_NV[:, 1] - 0.5)
    values_N: FloatArray = np.cos(4 * np.pi * distance_N)
    return values_N


SHAPES: Mapping[Function, _Shape] = {
    Function.waves: _Shape(num_variables=1, of=_waves),
    Function.kinks: _Shape(num_variables=1, of=_kinks),
    Function.hills: _Shape(num_variables=2, of=_hills),
    Function.ripples: _Shape(num_variables=2, of=_ripples),
}


def value(function: Function, points_NV: FloatArray) -> FloatArray:
    """Return the function's values (N,) at points (N, V), each coordinate in 0 to 1."""
    return SHAPES[function].of(points_NV)


class FunctionSource:
    """A generator of points and of the values of a function there."""

    name = "function"
    task = Task.regression
    class_ids = None

    def __init__(self, *, function: Function, samples: int, val_samples: int, noise: float, seed: int) -> None:
        self.function, self._noise = function, noise
        self._num_samples = {"train": samples} | ({"val": val_samples} if val_samples else {})
        self._keys = {split: make_key("function point", seed, split) for split in self._num_samples}
        self._noise_keys = [make_key("function noise", seed, part) for part in range(2)]

    @property
    def classes(self) -> tuple[str, ...]:
        """The target's name, that of the function."""
        return (self.function.value,)

    @property
    def splits(self) -> tuple[str, ...]:
        """train, and val where it has points."""
        return tuple(self._num_samples)

    @property
    def native_shape(self) -> tuple[int, int, int]:
        """(1, variables, 1)."""
        return 1, SHAPES[self.function].num_variables, 1

    def list_items(self, split: str) -> Iterator[Items]:
        """List a split's points with their targets."""
        return numbered_items(
            split,
            num_items=self._num_samples[split],
            item_bytes=SHAPES[self.function].num_variables,
            labels_of=functools.partial(self._targets, split),
        )

    def read(self, *, path: str, offset: int, size_bytes: int) -> ImageArray:
        """Make point number `offset` of split `path`: uint8 (1, variables, 1), the levels of its coordinates."""
        return self._levels(path, np.array([offset])).astype(np.uint8)[:, :, None]

    def _targets(self, split: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the targets of points, (N, 1)."""
        targets_N = value(self.function, self._levels(split, numbers) / (LEVELS - 1))
        if split == "train":
            targets_N = targets_N + self._noise * self._normal(numbers)
        return targets_N[:, None].astype(np.float32)

    def _levels(self, split: str, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the levels of points, (N, V), 0 to 255."""
        bits_N = random_bits(self._keys[split], offsets)
        shifts_V = np.arange(SHAPES[self.function].num_variables, dtype=np.uint64) * np.uint64(8)
        levels_NV: npt.NDArray[np.int64] = ((bits_N[:, None] >> shifts_V) % np.uint64(LEVELS)).astype(np.int64)
        return levels_NV

    def _normal(self, offsets: npt.NDArray[np.int64]) -> FloatArray:
        """Return standard normal numbers (N,) by the polar form of two uniform ones (Box and Muller 1958)."""
        first_N, second_N = (
            ((random_bits(key, offsets) >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
            for key in self._noise_keys
        )
        normal_N: FloatArray = np.sqrt(-2 * np.log(first_N)) * np.cos(2 * np.pi * second_N)
        return normal_N
