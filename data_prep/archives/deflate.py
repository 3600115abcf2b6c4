"""Entering a deflate stream in its midst, with nothing but zlib.

    inflated = inflate_from(packed, bits=5, window=window, max_bytes=1 << 20)

A block of deflate may start at any bit, zlib at whole bytes only. So the bits of the first byte that belong to the
block before are replaced, and blocks that unpack to nothing put in front, as many and as long as make the bits even.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

_TRAILER_BYTES = 8  # a member's CRC-32 and length, behind its stream

# (value, number of bits), lowest first. A block of fixed codes: not the last, kind 1, end of block. 10 bits.
_FIXED = ((0, 1), (1, 2), (0, 7))
# A block with codes of its own: not the last, kind 2; 257 and 1 codes, 19 code lengths; 18: 1 bit, 0 and 1: 2 bits;
# 138 and 118 zeros, the end of block of 1 bit, no distance; end of block. 95 bits: the odd number that it is for.
_LENGTHS = {18: 1, 0: 2, 1: 2}
_LENGTH_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
_DYNAMIC = (
    *((0, 1), (2, 2), (0, 5), (0, 5), (15, 4)),
    *((_LENGTHS.get(symbol, 0), 3) for symbol in _LENGTH_ORDER),
    *((0, 1), (138 - 11, 7), (0, 1), (118 - 11, 7), (3, 2), (1, 2), (0, 1)),
)


def inflate_from(packed: bytes, *, bits: int, window: bytes, max_bytes: int) -> bytes:
    """Unpack a gzip file from the start of one of its stream's blocks, on through the members that follow.

    Args:
        packed: from the byte on in which the block starts; may go on behind what is wanted.
        bits: how many bits of the first byte belong to what is before.
        window: the 32 KiB unpacked before, which the block may refer to.
        max_bytes: unpack no more than this, one at least.

    Raises:
        zlib.error: the stream is damaged.
    """
    return _inflate(packed, bits=bits, window=window, max_bytes=max_bytes)[0]


def is_whole_end(packed: bytes, *, bits: int, window: bytes, max_bytes: int) -> bool:
    """Tell whether the rest of a gzip file, from the start of a block on, ends with the end of a member."""
    try:
        return _inflate(packed, bits=bits, window=window, max_bytes=max_bytes)[1]
    except zlib.error:
        return False


def _inflate(packed: bytes, *, bits: int, window: bytes, max_bytes: int) -> tuple[bytes, bool]:
    stream = zlib.decompressobj(-zlib.MAX_WBITS, zdict=window)
    head = _filler(bits)
    if bits:
        head = head[:-1] + bytes([head[-1] | packed[0] >> bits << bits])
        packed = packed[1:]
    pieces = [stream.decompress(head + packed, max_bytes)]
    is_whole = stream.eof and len(stream.unused_data) == _TRAILER_BYTES
    rest = stream.unused_data[_TRAILER_BYTES:]
    while rest and sum(map(len, pieces)) < max_bytes:
        stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        pieces.append(stream.decompress(rest, max_bytes - sum(map(len, pieces))))
        is_whole = stream.eof and not stream.unused_data
        rest = stream.unused_data
    return b"".join(pieces), is_whole


def _filler(bits: int) -> bytes:
    """Return blocks that unpack to nothing and end `bits` bits into a byte."""
    blocks: Sequence[tuple[int, int]] = _DYNAMIC if bits % 2 else ()
    num_fixed = (bits + 1) // 2 % 4 if bits % 2 else bits // 2
    value = length = 0
    for part, size in (*blocks, *(_FIXED * num_fixed)):
        value |= part << length
        length += size
    return value.to_bytes(-(-length // 8), "little")
