"""Zips read in place: the directory once, then each entry by one ranged read.

    for entry in list_zip(store, "train2017.zip"):
        read_zip_entry(store, "train2017.zip", offset=entry.offset, size_bytes=entry.size_bytes, max_bytes=1 << 26)

An entry's CRC-32 is that of its local header, or of the data descriptor behind its bytes where the zip was written
as a stream. Refused by name: encrypted entries, methods other than stored and deflate, links and devices, names that
lead out of the archive, entries that share bytes or claim more than deflate can pack (the two forms of a zip bomb).
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from data_prep.archives.names import RefusedNameError, member_name
from data_prep.archives.zip_directory import (
    MAX_TAIL_BYTES,
    MIN_ENTRY_BYTES,
    DirectoryEntry,
    find_end,
    parse_directory,
    read_zip64,
)
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import Store

MAX_DIRECTORY_BYTES = 1 << 30  # some ten million entries
MAX_DEFLATE_RATIO = 1_032  # zlib's manual; ten bytes' worth is granted to the shortest streams

_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _HAS_DESCRIPTOR = 1 << 0 | 1 << 6 | 1 << 13, 1 << 3
_DESCRIPTOR_BYTES = 24
# Behind every entry there are at least its own one in the directory and the end record, so this much may be read on:
# enough for the name and the extra field of most local headers.
_READ_ON_BYTES = MIN_ENTRY_BYTES + 22


class ZipEntry(NamedTuple):
    """A file in a zip: its name, where its local header lies, its packed and its unpacked size."""

    name: str
    offset: int
    size_bytes: int
    unpacked_bytes: int


def list_zip(store: Store, name: str) -> list[ZipEntry]:
    """Return the files of a zip in the order of its directory; folders are skipped. Nothing is unpacked.

    Raises:
        UserError: missing or unreadable, or an entry that is refused by name.
        DamageError: the zip is cut short or damaged.
    """
    where = f"{store.location}/{name}"
    file_bytes = store.size_of(name)
    if file_bytes is None:
        raise UserError(f"{where}: missing")
    tail_bytes = min(file_bytes, MAX_TAIL_BYTES)
    tail = store.read_at(name, offset=file_bytes - tail_bytes, size_bytes=tail_bytes)
    try:
        place = find_end(tail, file_bytes=file_bytes)
        if place.size_bytes > MAX_DIRECTORY_BYTES:
            raise ValueError(f"a directory of {place.size_bytes} bytes")
        directory = store.read_at(name, offset=place.offset, size_bytes=place.size_bytes)
        entries = list(parse_directory(directory, place))
    except ValueError as error:
        raise DamageError(f"{where}: {error}; get the file again") from None
    _check_places(where, entries, end=place.offset)
    return [entry for found in entries if (entry := _checked_entry(where, found)) is not None]


def read_zip_entry(store: Store, name: str, *, offset: int, size_bytes: int, max_bytes: int) -> bytes:
    """Return one file's bytes, unpacked and checked.

    Args:
        store: where the zip lies.
        name: the zip's name there.
        offset: the entry's, as `list_zip` gave it.
        size_bytes: likewise.
        max_bytes: no more than this is ever unpacked.

    Raises:
        UserError: missing or unreadable, or encrypted.
        DamageError: what lies there is no such entry, unpacks to more than `max_bytes`, or its CRC-32 differs.
    """
    where = f"{store.location}/{name}, byte {offset}"
    content = store.read_at(name, offset=offset, size_bytes=_LOCAL.size + size_bytes + _READ_ON_BYTES)
    signature, _, flags, method, _, _, crc32, packed_bytes, unpacked_bytes, name_bytes, extra_bytes = _LOCAL.unpack(
        content[: _LOCAL.size]
    )
    if signature != b"PK\3\4":
        raise DamageError(f"{where}: no entry of a zip starts here; get the file again")
    start = _LOCAL.size + name_bytes + extra_bytes
    end = start + size_bytes
    needed_bytes = end + (_DESCRIPTOR_BYTES if flags & _HAS_DESCRIPTOR else 0)
    if needed_bytes > len(content):
        more_bytes = needed_bytes - len(content)
        content += store.read_at(name, offset=offset + len(content), size_bytes=more_bytes)
    where = f"{where}: entry {content[_LOCAL.size : _LOCAL.size + name_bytes][:200]!r}"
    _check_kind(where, method=method, flags=flags)
    packed = content[start:end]
    try:
        unpacked = packed if method == _STORED else _inflate(packed, max_bytes=max_bytes)
        if len(unpacked) > max_bytes:
            raise ValueError(f"has {len(unpacked)} bytes, at most {max_bytes} can be right")
        if flags & _HAS_DESCRIPTOR:
            promised = _read_descriptor(content[end : end + _DESCRIPTOR_BYTES])
        else:
            if 0xFFFFFFFF in (unpacked_bytes, packed_bytes):
                extra = content[_LOCAL.size + name_bytes : start]
                unpacked_bytes, packed_bytes = read_zip64(extra, (unpacked_bytes, packed_bytes))
            promised = [(crc32, packed_bytes, unpacked_bytes)]
        found = (zlib.crc32(unpacked), size_bytes, len(unpacked))
        if found not in promised:
            raise ValueError(f"its CRC-32 and sizes are {found}, it promised {' or '.join(map(str, promised))}")
    except (ValueError, zlib.error) as error:
        raise DamageError(f"{where}: {error}") from None
    return unpacked


def _checked_entry(where: str, entry: DirectoryEntry) -> ZipEntry | None:
    """Return an entry for the list; None for a folder."""
    where = f"{where}: entry {entry.raw_name[:200]!r}"
    try:
        name = member_name(entry.raw_name)
    except RefusedNameError as error:
        raise UserError(f"{where}: {error}") from None
    if entry.raw_name.endswith(b"/"):
        return None
    if not name:
        raise UserError(f"{where}: a file without a name; refused")
    _check_kind(where, method=entry.method, flags=entry.flags)
    if entry.is_special:
        raise UserError(f"{where}: a link or a device; refused, make the zip anew without it")
    most_bytes = entry.size_bytes if entry.method == _STORED else MAX_DEFLATE_RATIO * (entry.size_bytes + 10)
    if entry.unpacked_bytes > most_bytes:
        raise DamageError(
            f"{where}: {entry.size_bytes} bytes are said to unpack to {entry.unpacked_bytes}, more than can be; refused"
        )
    return ZipEntry(name, entry.offset, entry.size_bytes, entry.unpacked_bytes)


def _check_kind(where: str, *, method: int, flags: int) -> None:
    if flags & _ENCRYPTED:
        raise UserError(f"{where}: encrypted; unpack it and make a zip without a password")
    if method not in (_STORED, _DEFLATED):
        raise UserError(f"{where}: packed by method {method}; stored and deflate (0 and 8) are read, make the zip anew")


def _check_places(where: str, entries: list[DirectoryEntry], *, end: int) -> None:
    """Check that no two entries share a byte, nor one with the directory at `end`."""
    after = end
    for entry in sorted(entries, key=lambda entry: entry.offset, reverse=True):
        if entry.offset + _LOCAL.size + len(entry.raw_name) + entry.size_bytes > after:
            raise DamageError(f"{where}: entry {entry.raw_name[:200]!r} shares bytes with what comes after it; refused")
        after = entry.offset


def _inflate(packed: bytes, *, max_bytes: int) -> bytes:
    """Return what a raw deflate stream unpacks to.

    Raises:
        ValueError, zlib.error: more than `max_bytes`, or not one whole stream.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    unpacked = stream.decompress(packed, max_bytes + 1)
    if len(unpacked) > max_bytes:
        raise ValueError(f"unpacks to more than the {max_bytes} bytes that can be right")
    if not stream.eof or stream.unused_data:
        raise ValueError("its packed bytes are no whole stream")
    return unpacked


def _read_descriptor(content: bytes) -> list[tuple[int, int, int]]:
    """Return what a data descriptor promises, (CRC-32, packed size, unpacked size), read with short and long sizes."""
    fields = content.removeprefix(b"PK\7\x08")
    return [struct.unpack_from("<3L", fields), struct.unpack_from("<L2Q", fields)]
