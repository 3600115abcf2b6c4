"""The middle of a Snappy stream, read without its beginning.

    stream = SnappyStream(read_at, start=4711, stored_bytes=11_308_901, unpacked_bytes=11_370_366)
    length = stream.peek(65_530, 4)                 # positions in rising order; goes on over the stream's tags
    blocks = stream.finish()                        # where each 64 KiB of unpacked bytes starts in the file
    blocks.unpack(read_at, position=1_048_576, size_bytes=110_000)

Compressors pack each 64 KiB on their own, so that decoding can begin at any of them. Nothing in the format says that
they must: a stream whose tags cross such a border is refused (ContentError), one whose copies do fails in the decoder.
JPEG does not pack, which leaves a few literals a block: their tags are read and the bytes between them skipped. Data
that does pack has tags all over and is refused too, as one is better off unpacking all of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.sources.parquet_headers import ContentError, read_varint

ReadAt = Callable[[int, int], bytes]  # of (position in the file, bytes)

BLOCK_BYTES = 1 << 16
MIN_BYTES_A_TAG = 128  # on average; JPEGs of ImageNet have 2,000


@dataclass(frozen=True, slots=True, kw_only=True)
class SnappyBlocks:
    """Where blocks start in the file, int64 (blocks + 1,), the end of the last one included."""

    starts: npt.NDArray[np.int64]
    unpacked_bytes: int

    def unpack(self, read_at: ReadAt, *, position: int, size_bytes: int) -> memoryview:
        """Return `size_bytes` unpacked bytes from `position` on.

        Raises:
            ContentError: a block refers to another one, or is damaged.
        """
        if size_bytes == 0:
            return memoryview(b"")
        first, last = position // BLOCK_BYTES, (position + size_bytes - 1) // BLOCK_BYTES
        start, end = int(self.starts[first]), int(self.starts[last + 1])
        unpacked_bytes = min(self.unpacked_bytes, (last + 1) * BLOCK_BYTES) - first * BLOCK_BYTES
        unpacked = _decompress(read_at(start, end - start), unpacked_bytes)
        return memoryview(unpacked)[position - first * BLOCK_BYTES :][:size_bytes]


class SnappyStream:
    """Goes once over the tags of a stream."""

    def __init__(self, read_at: ReadAt, *, start: int, stored_bytes: int, unpacked_bytes: int) -> None:
        self._read_at = read_at
        self._end = start + stored_bytes
        self._unpacked_bytes = unpacked_bytes
        promised, length = read_varint(read_at(start, min(10, stored_bytes)), 0)
        if promised != unpacked_bytes:
            raise ContentError("another length than the page's")
        self._starts = [start + length]
        self._tags_left = max(BLOCK_BYTES, unpacked_bytes // MIN_BYTES_A_TAG)
        # The literals of the last block: where each starts among the unpacked bytes, its end there, and in the file.
        self._literals: list[tuple[int, int, int]] = []

    def peek(self, position: int, size_bytes: int) -> bytes:
        """Return the unpacked bytes at a position not before the last one's block."""
        end = position + size_bytes
        if end > self._unpacked_bytes:
            raise ContentError("cut short")
        while (len(self._starts) - 1) * BLOCK_BYTES <= position:
            self._next_block()
        number = bisect_right(self._literals, (position, self._unpacked_bytes, 0)) - 1
        if number >= 0:
            first, last, place = self._literals[number]
            if end <= last:
                return self._read_at(place + position - first, size_bytes)
        while (len(self._starts) - 1) * BLOCK_BYTES < end and self._starts[-1] < self._end:
            self._next_block()
        return bytes(self._blocks().unpack(self._read_at, position=position, size_bytes=size_bytes))

    def finish(self) -> SnappyBlocks:
        """Go on to the stream's end and return all of its blocks."""
        while (len(self._starts) - 1) * BLOCK_BYTES < self._unpacked_bytes:
            self._next_block()
        if self._starts[-1] != self._end:
            raise ContentError("goes on behind its end")
        return self._blocks()

    def _blocks(self) -> SnappyBlocks:
        return SnappyBlocks(starts=np.array(self._starts, dtype=np.int64), unpacked_bytes=self._unpacked_bytes)

    def _next_block(self) -> None:
        position = (len(self._starts) - 1) * BLOCK_BYTES
        block_end = min(position + BLOCK_BYTES, self._unpacked_bytes)
        place, read_at = self._starts[-1], self._read_at
        self._literals = []
        while position < block_end:
            if (left := self._end - place) <= 0:
                raise ContentError("cut short")
            head = read_at(place, min(5, left))
            tag = head[0]
            self._tags_left -= 1
            if tag & 3 == 0:
                length, place = (tag >> 2) + 1, place + 1
                if length > 60:
                    extra = length - 60
                    length, place = int.from_bytes(head[1 : 1 + extra], "little") + 1, place + extra
                self._literals.append((position, position + length, place))
                place += length
            elif tag & 3 == 1:
                length, place = (tag >> 2 & 7) + 4, place + 2
            else:
                length, place = (tag >> 2) + 1, place + (3 if tag & 3 == 2 else 5)
            position += length
        if position > block_end or place > self._end:
            raise ContentError("a block that does not end where it should")
        if self._tags_left < 0:
            raise ContentError("packs too well")
        self._starts.append(place)


def _decompress(content: bytes, unpacked_bytes: int) -> pa.Buffer:
    """Unpack tags that have lost the length in front of them."""
    length, rest = bytearray(), unpacked_bytes
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    length.append(rest)
    return unpack_snappy(bytes(length) + content, unpacked_bytes)


def unpack_snappy(content: bytes, unpacked_bytes: int) -> pa.Buffer:
    """Return a whole stream unpacked, which has so many bytes then.

    Raises:
        ContentError: it has not, or is damaged.
    """
    if read_varint(content, 0)[0] != unpacked_bytes:
        raise ContentError("another length than the page's")
    try:
        return pa.Codec("snappy").decompress(content, decompressed_size=unpacked_bytes)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ContentError(f"Snappy: {error}") from None
