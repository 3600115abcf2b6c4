"""A zip's central directory: pure functions of bytes. PKWARE's APPNOTE 6.3 is the specification, zip64 included.

    end = find_end(tail, file_bytes=816_000_000)            # the directory's place, and how many entries it has
    for entry in parse_directory(directory, end): ...       # name, method, flags, sizes, offset

What only some readers take is damage here: a directory that does not end where the end record starts, another number
of entries than said, two end records that differ.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

MAX_TAIL_BYTES = 22 + 0xFFFF + 20 + 56  # the end record with the longest comment, and zip64's two records before it
MIN_ENTRY_BYTES = 46

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_ZIP64_EXTRA_ID = 1
_UNIX = 3
_MAX_VERSION = 63  # of APPNOTE, times 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryPlace:
    """Where the directory lies, and how many entries it has."""

    offset: int
    size_bytes: int
    num_entries: int


class DirectoryEntry(NamedTuple):
    """An entry as the directory has it."""

    raw_name: bytes
    offset: int
    size_bytes: int
    unpacked_bytes: int
    method: int
    flags: int
    is_special: bool  # a link, a device or a pipe


def find_end(tail: bytes, *, file_bytes: int) -> DirectoryPlace:
    """Return where the directory lies, from the last bytes of a file (all of it, or `MAX_TAIL_BYTES`).

    Raises:
        ValueError: saying what is wrong.
    """
    start = len(tail)
    while (start := tail.rfind(b"PK\5\6", 0, start)) >= 0:
        record = tail[start : start + _END.size]
        if len(record) == _END.size and start + _END.size + _END.unpack(record)[-1] == len(tail):
            break
    else:
        raise ValueError("no zip, or cut short: its end record is missing")
    _, disk, first_disk, here, total, size_bytes, offset, _ = _END.unpack(record)
    end = file_bytes - len(tail) + start
    locator = start - _END64_LOCATOR.size
    if locator >= 0 and tail.startswith(b"PK\6\7", locator):
        _, _, end64, num_disks = _END64_LOCATOR.unpack_from(tail, locator)
        start64 = end64 - (file_bytes - len(tail))
        if start64 < 0 or start64 + _END64.size != locator or not tail.startswith(b"PK\6\6", start64):
            raise ValueError("its zip64 end record is not where the locator says")
        short = (disk, first_disk, here, total, size_bytes, offset)
        disk, first_disk, here, total, size_bytes, offset = _END64.unpack_from(tail, start64)[4:]
        limits = (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        long = (disk, first_disk, here, total, size_bytes, offset)
        if num_disks > 1 or any(a not in (b, limit) for a, b, limit in zip(short, long, limits, strict=True)):
            raise ValueError("its two end records differ")
        end = end64
    if (disk, first_disk, here) != (0, 0, total):
        raise ValueError("it is one of several parts")
    if offset + size_bytes != end or total * MIN_ENTRY_BYTES > size_bytes:
        raise ValueError(f"its directory, {size_bytes} bytes at {offset}, does not end at byte {end}")
    return DirectoryPlace(offset=offset, size_bytes=size_bytes, num_entries=total)


def parse_directory(directory: bytes, place: DirectoryPlace) -> Iterator[DirectoryEntry]:
    """Yield the entries of a directory.

    Raises:
        ValueError: saying what is wrong.
    """
    start = 0
    for number in range(place.num_entries):
        if start + _ENTRY.size > len(directory):
            raise ValueError(f"its directory ends after {number} entries, {place.num_entries} were promised")
        (
            signature, maker, version, flags, method, _, _, _, size_bytes, unpacked_bytes,
            name_bytes, extra_bytes, comment_bytes, disk, _, attributes, offset,
        ) = _ENTRY.unpack_from(directory, start)  # fmt: skip
        name_start = start + _ENTRY.size
        extra_start = name_start + name_bytes
        start = extra_start + extra_bytes + comment_bytes
        if signature != b"PK\1\2" or start > len(directory) or disk:
            raise ValueError(f"entry {number} of its directory is damaged")
        if version > _MAX_VERSION:
            raise ValueError(f"entry {number} wants a reader of version {version / 10}")
        if 0xFFFFFFFF in (size_bytes, unpacked_bytes, offset):
            extra = directory[extra_start : extra_start + extra_bytes]
            unpacked_bytes, size_bytes, offset = read_zip64(extra, (unpacked_bytes, size_bytes, offset))
        mode = attributes >> 16 if maker >> 8 == _UNIX else 0
        is_special = stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR)
        raw_name = directory[name_start:extra_start]
        yield DirectoryEntry(raw_name, offset, size_bytes, unpacked_bytes, method, flags, is_special)
    if start != len(directory):
        raise ValueError(f"its directory has more than the {place.num_entries} entries promised")


def read_zip64(extra: bytes, fields: tuple[int, ...]) -> tuple[int, ...]:
    """Return the fields with each that is 0xFFFFFFFF taken from zip64's extra field, where they stand in this order.

    Raises:
        ValueError: it has not got them.
    """
    start = 0
    while start + 4 <= len(extra):
        kind, size_bytes = struct.unpack_from("<2H", extra, start)
        if kind == _ZIP64_EXTRA_ID:
            num_long = sum(field == 0xFFFFFFFF for field in fields)
            content = extra[start + 4 : start + 4 + size_bytes]
            if len(content) < 8 * num_long:
                break
            long = iter(struct.unpack_from(f"<{num_long}Q", content))
            return tuple(next(long) if field == 0xFFFFFFFF else field for field in fields)
        start += 4 + size_bytes
    raise ValueError("a size or offset that needs zip64, without it")
