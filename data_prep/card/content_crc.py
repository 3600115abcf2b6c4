"""The CRC-32 of an image alone, from that of its whole record: the image itself is not read again.

    record = before + image + after             # headers and label; the image; padding
    middle_crc32(
        crc32(record), before=crc32(before), middle_bytes=len(image), after=crc32(after), after_bytes=len(after)
    )                                           # crc32(image)

The arithmetic is that of pipeline/shards/crc.py.
"""

from __future__ import annotations

import zlib
from functools import cache

import numpy as np
import numpy.typing as npt

from pipeline.shards.crc import CrcArray, shifted


def middle_crc32(
    whole: npt.ArrayLike,
    *,
    before: npt.ArrayLike,
    middle_bytes: npt.ArrayLike,
    after: npt.ArrayLike = 0,
    after_bytes: npt.ArrayLike = 0,
) -> CrcArray:
    """Return the CRC-32 of the middle of strings before + middle + after; arguments are numbers or equal arrays.

    Args:
        whole: CRC-32 of the whole strings.
        before: CRC-32 of what stands before the middle, 0 for nothing.
        middle_bytes: length of the middle.
        after: CRC-32 of what stands after it, 0 for nothing.
        after_bytes: its length.
    """
    middle_and_after = np.asarray(whole, dtype=np.uint32) ^ shifted(
        before, np.asarray(middle_bytes, dtype=np.int64) + np.asarray(after_bytes, dtype=np.int64)
    )
    return shifted(middle_and_after ^ np.asarray(after, dtype=np.uint32), -np.asarray(after_bytes, dtype=np.int64))


@cache
def crcs_of_zeros(max_bytes: int) -> CrcArray:
    """Return the CRC-32 of 0, 1, ... max_bytes zero bytes, by which records are padded."""
    return np.array([zlib.crc32(bytes(length)) for length in range(max_bytes + 1)], dtype=np.uint32)
