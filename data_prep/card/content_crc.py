"""The CRC-32 of an image alone, from that of its whole record: the image itself is not read again.

    record = before + image + after             # headers and label; the image; padding
    middle_crc32(
        crc32(record), before=crc32(before), middle_bytes=len(image), after=crc32(after), after_bytes=len(after)
    )                                           # crc32(image)

CRC-32 is linear: the CRC of two strings is crc32(first) shifted by the length of the second, exclusive-or
crc32(second), where a shift by n bytes multiplies by x^8n modulo the CRC's polynomial (Adler's `crc32_combine` in
zlib). The polynomial is primitive, so x^(2^32 - 1) = 1 and a shift can be undone by one the other way round. Shifts are
tables of a GF(2) matrix for each power of two, so that whole arrays of different lengths are shifted at once.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

CrcArray = npt.NDArray[np.uint32]

# zlib's polynomial without its x^32; as in a CRC the highest bit is the lowest power of x.
_POLYNOMIAL = 0xEDB88320
_ORDER = (1 << 32) - 1
_ONE = 1 << 31


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


def shifted(crcs: npt.ArrayLike, num_bytes: npt.ArrayLike) -> CrcArray:
    """Multiply each CRC by x^(8 * num_bytes), a negative number undoing a positive one."""
    crcs, rest = np.broadcast_arrays(
        np.asarray(crcs, dtype=np.uint32), np.asarray(num_bytes, dtype=np.int64) % np.int64(_ORDER)
    )
    for power in range(int(rest.max(initial=0)).bit_length()):
        moved = _apply(_shift_tables()[power], crcs)
        crcs = np.where(rest >> power & 1, moved, crcs)
    return np.array(crcs, dtype=np.uint32)


@cache
def crcs_of_zeros(max_bytes: int) -> CrcArray:
    """Return the CRC-32 of 0, 1, ... max_bytes zero bytes, by which records are padded."""
    return np.array([zlib.crc32(bytes(length)) for length in range(max_bytes + 1)], dtype=np.uint32)


def _apply(tables: CrcArray, crcs: CrcArray) -> Any:
    """Multiply by a matrix given as the images of each of the four bytes' values."""
    return tables[0, crcs & 0xFF] ^ tables[1, crcs >> 8 & 0xFF] ^ tables[2, crcs >> 16 & 0xFF] ^ tables[3, crcs >> 24]


@cache
def _shift_tables() -> CrcArray:
    """Return tables (32, 4, 256): entry (k, j, v) is the byte v at bit 8j, multiplied by x^(8 * 2^k)."""
    tables = np.zeros((32, 4, 256), dtype=np.uint32)
    values = np.arange(256)
    factor = _ONE >> 8
    for power in range(32):
        for bit in range(32):
            image = np.uint32(_product(factor, 1 << bit))
            tables[power, bit // 8] ^= np.where(values >> bit % 8 & 1, image, 0).astype(np.uint32)
        factor = _product(factor, factor)
    return tables


def _product(first: int, second: int) -> int:
    """Multiply two polynomials over GF(2) modulo the CRC's."""
    result = 0
    for bit in range(31, -1, -1):
        if first >> bit & 1:
            result ^= second
        second = second >> 1 ^ (_POLYNOMIAL if second & 1 else 0)
    return result
