"""Which part of each image a batch shows: a pure function of (seed, epoch, position, height, width).

    crop = RandomCrop(seed=7)
    views = crop.views(positions_B, epoch=3, heights_B=heights_B, widths_B=widths_B, size=(224, 224))
    views.boxes[0]          # left, top, width, height in pixels: what becomes the 224x224 image
    views.flips[0]          # whether it is mirrored

Known before anything is decoded, so that no more is decoded than is seen. `RandomCrop` has the distribution of
torchvision's RandomResizedCrop (Szegedy et al. 2014, "Going deeper with convolutions") and RandomHorizontalFlip;
`CentreCrop` is evaluation's.

Axes: B batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.shards.keyed import make_key, random_bits

# As in torchvision: of this many random boxes the first that fits is taken, else a centred one.
TRIES = 10
# Numbers of 64 bits a sample: one a try (area and shape), one for the place, one for the mirror.
DRAWS = TRIES + 2

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What a batch shows of its images.

    Attributes:
        boxes: float64 (B, 4), left, top, width, height: what is resized to the output.
        regions: int64 (B, 4), the pixels that may have a part in it; a random crop's is its box, since cropping comes
            before resizing there, a centre crop's is wider by what the filter reaches.
        flips: bool (B,), whether the output is mirrored.
    """

    boxes: FloatArray
    regions: Int64Array
    flips: npt.NDArray[np.bool_]


class Crop(Protocol):
    """Decides what is seen of each image."""

    def views(
        self, positions_B: Int64Array, *, epoch: int, heights_B: Int64Array, widths_B: Int64Array, size: tuple[int, int]
    ) -> Views:
        """Return the views of images of these sizes, at these positions in an epoch's order.

        Args:
            size: height and width of the output.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomCrop:
    """Training's: a box of random area and shape, mirrored at random.

    Attributes:
        scale: least and greatest share of the image's area.
        ratio: least and greatest width over height; its logarithm is uniform.
        flip: mirror half of the images.
    """

    seed: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale={self.scale}: 0 < least <= greatest <= 1 wanted")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"ratio={self.ratio}: 0 < least <= greatest wanted")

    def views(
        self, positions_B: Int64Array, *, epoch: int, heights_B: Int64Array, widths_B: Int64Array, size: tuple[int, int]
    ) -> Views:
        counters = positions_B[:, None] * DRAWS + np.arange(DRAWS)
        bits = random_bits(make_key("crop", self.seed, epoch), counters)
        firsts, seconds = _uniform(bits >> np.uint64(32)), _uniform(bits & np.uint64(0xFFFFFFFF))
        heights, widths = self._shapes(firsts[:, :TRIES], seconds[:, :TRIES], heights_B, widths_B)
        tops = np.floor(firsts[:, TRIES] * (heights_B - heights + 1)).astype(np.int64)
        lefts = np.floor(seconds[:, TRIES] * (widths_B - widths + 1)).astype(np.int64)
        # A box that no try gave is centred; it fills at least one side.
        fallback_heights, fallback_widths = self._fallback(heights_B, widths_B)
        missing = heights == 0
        heights, widths = np.where(missing, fallback_heights, heights), np.where(missing, fallback_widths, widths)
        tops = np.where(missing, (heights_B - heights) // 2, tops)
        lefts = np.where(missing, (widths_B - widths) // 2, lefts)
        regions = np.stack([lefts, tops, widths, heights], axis=1)
        flips = (firsts[:, TRIES + 1] < 0.5) & self.flip
        return Views(boxes=regions.astype(np.float64), regions=regions, flips=flips)

    def _shapes(
        self, firsts: FloatArray, seconds: FloatArray, heights_B: Int64Array, widths_B: Int64Array
    ) -> tuple[Int64Array, Int64Array]:
        """Return heights and widths of the first tries that fit, 0 where none does."""
        areas = (heights_B * widths_B)[:, None] * (self.scale[0] + firsts * (self.scale[1] - self.scale[0]))
        least, greatest = np.log(self.ratio)
        ratios = np.exp(least + seconds * (greatest - least))
        widths = np.rint(np.sqrt(areas * ratios)).astype(np.int64)
        heights = np.rint(np.sqrt(areas / ratios)).astype(np.int64)
        fits = (widths > 0) & (widths <= widths_B[:, None]) & (heights > 0) & (heights <= heights_B[:, None])
        chosen = np.arange(len(fits)), fits.argmax(axis=1)
        found = fits[chosen]
        return np.where(found, heights[chosen], 0), np.where(found, widths[chosen], 0)

    def _fallback(self, heights_B: Int64Array, widths_B: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return heights and widths of the largest boxes whose shape is in range."""
        heights = np.minimum(heights_B, np.rint(widths_B / self.ratio[0]).astype(np.int64))
        widths = np.minimum(widths_B, np.rint(heights_B * self.ratio[1]).astype(np.int64))
        return np.maximum(heights, 1), np.maximum(widths, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CentreCrop:
    """Evaluation's: the largest centred box of the output's shape, of which `frac` of each side is seen.

    With 0.875 and 224x224 it is what others call "resize the shorter side to 256, cut out the centre", in one step and
    without rounding the size in between.
    """

    frac: float = 0.875

    def __post_init__(self) -> None:
        if not 0 < self.frac <= 1:
            raise ValueError(f"frac={self.frac}: 0 < frac <= 1 wanted")

    def views(
        self, positions_B: Int64Array, *, epoch: int, heights_B: Int64Array, widths_B: Int64Array, size: tuple[int, int]
    ) -> Views:
        height, width = size
        scales = self.frac * np.minimum(heights_B / height, widths_B / width)
        sides = np.stack([np.minimum(scales * width, widths_B), np.minimum(scales * height, heights_B)], axis=1)
        whole = np.stack([widths_B, heights_B], axis=1)
        starts = (whole - sides) / 2
        # The triangle filter reaches one output pixel, and at least one input pixel, beyond the box.
        reach = np.ceil(np.maximum(scales, 1.0))[:, None]
        firsts = np.maximum(np.floor(starts - reach), 0).astype(np.int64)
        ends = np.minimum(np.ceil(starts + sides + reach), whole).astype(np.int64)
        return Views(
            boxes=np.concatenate([starts, sides], axis=1),
            regions=np.concatenate([firsts, ends - firsts], axis=1),
            flips=np.zeros(len(positions_B), dtype=np.bool_),
        )


def _uniform(bits: npt.NDArray[Any]) -> FloatArray:
    """Return the middles of 2^32 equal parts of [0, 1) for 32 random bits each."""
    return (bits.astype(np.float64) + 0.5) / 2.0**32
