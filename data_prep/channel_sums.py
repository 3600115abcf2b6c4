"""Exact sums of channels and of their squares over many images, from which mean and standard deviation follow.

    sums = ChannelSums()
    sums.add(pixels_HWC)                        # uint8, any size, any number of times
    sums.totals()                               # (2, channels) int64: sums, sums of squares
    sums.num_pixels

Rows of several images are laid under each other in one float32 buffer and its columns summed at once: a call of numpy
costs as much as the arithmetic of a 64x64 image.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.sources.base import ImageArray

# float32 holds every sum of that many squares of bytes: 256 * 255**2 < 2**24.
MAX_ROWS = 256
PIECE_PIXELS = 1 << 20  # the buffer's most, for images of any width


class ChannelSums:
    """Sums over all pixels added; all images have one number of channels."""

    def __init__(self) -> None:
        self.num_pixels = 0
        self._totals: npt.NDArray[np.int64] | None = None
        self._buffer = np.empty((0, 0), dtype=np.float32)
        self._filled = 0
        self._channels = 0

    def add(self, pixels_HWC: ImageArray) -> None:
        """Count an image in.

        Raises:
            ValueError: another number of channels than before.
        """
        height, width, channels = pixels_HWC.shape
        self._check_channels(channels)
        columns = width * channels
        if self._buffer.shape[1] != columns:
            self._flush()
            self._buffer = np.empty((min(max(PIECE_PIXELS // width, 1), MAX_ROWS), columns), dtype=np.float32)
        rows = pixels_HWC.reshape(height, columns)
        while len(rows):
            if self._filled == len(self._buffer):
                self._flush()
            piece = rows[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            rows = rows[len(piece) :]
        self.num_pixels += height * width

    def totals(self) -> npt.NDArray[np.int64] | None:
        """Return (2, channels): the sums and the sums of squares; None before the first image."""
        self._flush()
        return self._totals

    def _check_channels(self, channels: int) -> None:
        if self._channels not in (0, channels):
            raise ValueError(f"an image of {channels} channels among images of {self._channels}")
        self._channels = channels

    def _flush(self) -> None:
        if self._filled == 0:
            return
        rows = self._buffer[: self._filled]
        # Not a product with a vector of ones: BLAS would wake a thread a core for it, in every worker.
        sums = rows.sum(axis=0)
        rows *= rows
        both = np.stack([sums, rows.sum(axis=0)]).reshape(2, -1, self._channels)
        found = both.sum(axis=1, dtype=np.float64).astype(np.int64)
        self._totals = found if self._totals is None else self._totals + found
        self._filled = 0
