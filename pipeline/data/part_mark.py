"""How far a broken-off download came, told by the file itself: by a mark in its last bytes, which come last.

    mark(descriptor, came_bytes=16 << 20, size_bytes=1 << 30)
    came_bytes(descriptor, size_bytes=1 << 30)      # 16 << 20, also after a kill

The bytes of a file come in their order, into a file that has its full size from the start. Until the last of them are
there the mark is in their place, so it needs no file of its own, which could be left alone or take room that nobody has
counted. A kill between the bytes and their mark makes a mark that tells of fewer; after a loss of power the bytes that
it tells of may be lacking, which the checksum of the whole file finds.
"""

from __future__ import annotations

import os
import struct
import zlib

# What it is, how far the file came, and the checksum of both.
_MARK = struct.Struct("<8sQI")
_KIND = b"\x00tmpart\x01"


def mark(descriptor: int, *, came_bytes: int, size_bytes: int) -> None:
    """Store that the first `came_bytes` of a file of `size_bytes` have come; not once they reach the mark's place."""
    place = size_bytes - _MARK.size
    if came_bytes <= place:
        told = struct.pack("<8sQ", _KIND, came_bytes)
        os.pwrite(descriptor, told + struct.pack("<I", zlib.crc32(told)), place)


def came_bytes(descriptor: int, *, size_bytes: int) -> int:
    """Return how many of a file's bytes have come, as far as is known; 0 where there is no mark."""
    place = size_bytes - _MARK.size
    if place < 0:
        return 0
    found = os.pread(descriptor, _MARK.size, place)
    if len(found) < _MARK.size:
        return 0
    kind, came, checksum = _MARK.unpack(found)
    is_mark = kind == _KIND and checksum == zlib.crc32(found[:-4]) and came <= place
    return int(came) if is_mark else 0
