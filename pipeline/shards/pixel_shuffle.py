"""One permutation of the pixels of all images: to see what is learned where their places say nothing.

    shuffle_pixels(image_HWC, seed=5)       # pixel 3 of every image where its first was, and so on

Pixels move whole, their channels together, so statistics of channels stay as they were. The order is a function of the
seed and of the number of pixels. It is known from "permuted MNIST" (Goodfellow et al. 2013, arXiv 1312.6211).

Axes: H height, W width, C channels, P = H*W pixels.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from pipeline.shards.keyed import make_key, random_bits

UInt8Array = npt.NDArray[np.uint8]


# All images of a data set share one, and to sort takes some four times as long as to move an image's pixels.
@functools.lru_cache(maxsize=1)
def pixel_order(num_pixels: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Return int64 (P,): which pixel stands at each place, in reading order. It cannot be written to."""
    order = np.argsort(random_bits(make_key("pixel_shuffle", seed), np.arange(num_pixels)), kind="stable")
    order.flags.writeable = False
    return order


def shuffle_pixels(image_HWC: UInt8Array, *, seed: int) -> UInt8Array:
    """Return a copy with its pixels in the order of the seed."""
    height, width, channels = image_HWC.shape
    pixels_PC = image_HWC.reshape(height * width, channels)
    return pixels_PC[pixel_order(height * width, seed=seed)].reshape(image_HWC.shape)
