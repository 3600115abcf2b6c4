"""CRC-32 of strings put together, from those of their parts: nothing is read again.

    shifted(crc32(first), len(second)) ^ crc32(second)          # crc32(first + second)

CRC-32 is linear: a shift by n bytes multiplies by x^8n modulo the CRC's polynomial (Adler's `crc32_combine` in
zlib). The polynomial is primitive, so x^(2^32 - 1) = 1 and a shift can be undone by one the other way round. Shifts are
tables of a GF(2) matrix for each power of two, so that whole arrays of different lengths are shifted at once.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

CrcArray = npt.NDArray[np.uint32]

# zlib's polynomial without its x^32; as in a CRC the highest bit is the lowest power of x.
_POLYNOMIAL = 0xEDB88320
_ORDER = (1 << 32) - 1
_ONE = 1 << 31


def shifted(crcs: npt.ArrayLike, num_bytes: npt.ArrayLike) -> CrcArray:
    """Multiply each CRC by x^(8 * num_bytes), a negative number undoing a positive one."""
    crcs, rest = np.broadcast_arrays(
        np.asarray(crcs, dtype=np.uint32), np.asarray(num_bytes, dtype=np.int64) % np.int64(_ORDER)
    )
    for power in range(int(rest.max(initial=0)).bit_length()):
        moved = _apply(_shift_tables()[power], crcs)
        crcs = np.where(rest >> power & 1, moved, crcs)
    return np.array(crcs, dtype=np.uint32)


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
