"""A tar member's header, and the extensions that stand before it: pure functions of bytes.

    kind, name, size_bytes = parse_header(block)        # ord("0"), b"n01440764/a.JPEG", 109527

A member may have one long name (GNU) or one set of pax records before it; both, or two of one, would leave it to the
reader which name counts, and are refused. Of pax records only path and size matter here.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

REGULAR_KINDS = b"0\x007"  # plain, plain in tars from before 1988, contiguous
FOLDER_KIND = ord("5")
EXTENSION_KINDS = b"Lxg"
REFUSED_KINDS = {
    ord("1"): "a hard link",
    ord("2"): "a symbolic link",
    ord("3"): "a device",
    ord("4"): "a device",
    ord("6"): "a pipe",
    ord("K"): "a link",
    ord("S"): "a sparse file",
}
MAX_EXTENSION_BYTES = 1 << 16

_LONG_NAME_KIND, _PAX_KIND, _ = EXTENSION_KINDS
_MAX_SIZE_DIGITS = 19
_USTAR_MAGIC = b"ustar\0"
# GNU's; that of tars from before 1988. Where ustar has the first part of a long name, the former may have times.
_MAGICS = (_USTAR_MAGIC, b"ustar ", bytes(6))
_CHECKSUM_BLANK = 8 * ord(" ")


def parse_header(block: bytes) -> tuple[int, bytes, int]:
    """Return (kind, name, size in bytes) of the 512 bytes of a header.

    Raises:
        ValueError: saying what is wrong with it.
    """
    # Adler-32's low half is one more than the sum of the bytes, modulo 65,521; 512 ASCII bytes stay below that.
    total = (zlib.adler32(block) & 0xFFFF) - 1 if block.isascii() else sum(block)
    stored = block[148:156]
    if total - sum(stored) + _CHECKSUM_BLANK != _number(stored):
        raise ValueError("its checksum differs")
    name = block[:100].partition(b"\0")[0]
    magic = block[257:263]
    if magic not in _MAGICS:
        raise ValueError(f"its format is {magic!r}")
    if block[345]:
        if magic != _USTAR_MAGIC:
            raise ValueError("it has bytes that some readers take for a part of its name")
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return block[156], name, _number(block[124:136])


def _number(field: bytes) -> int:
    digits = field.rstrip(b" \0").lstrip(b" ")
    if digits.isdigit():
        return int(digits, 8)
    if not digits:
        return 0
    if field[0] == 0x80:  # GNU's base-256, for sizes from 8 GiB on
        return int.from_bytes(field[1:], "big")
    raise ValueError(f"{field!r} is no number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """The name or the size of the member that follows; None: its own header's."""

    name: bytes | None
    size_bytes: int | None

    def applied(self, name: bytes, size_bytes: int) -> tuple[bytes, int]:
        """Return the name and the size of the member whose own header has these."""
        return (
            name if self.name is None else self.name,
            size_bytes if self.size_bytes is None else self.size_bytes,
        )


def parse_extension(kind: int, content: bytes) -> Extension | None:
    """Return what an extension of one of `EXTENSION_KINDS` says of the next member, None for nothing.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if kind == _LONG_NAME_KIND:
        return Extension(name=content.partition(b"\0")[0], size_bytes=None)
    records = _parse_pax(content)
    if any(key.startswith(b"GNU.sparse.") for key in records):
        raise ValueError("a sparse file; make the tar anew without --sparse")
    size = records.get(b"size")
    if size is not None and (not size.isdigit() or len(size) > _MAX_SIZE_DIGITS):
        raise ValueError(f"a size of {size[:40]!r}")
    if kind == _PAX_KIND:
        return Extension(name=records.get(b"path"), size_bytes=None if size is None else int(size))
    if size is not None or b"path" in records:
        raise ValueError("one name or size for all members that follow")
    return None


def _parse_pax(content: bytes) -> dict[bytes, bytes]:
    """Return the records `<length> <key>=<value>` of a pax header."""
    records = {}
    start = 0
    while start < len(content):
        digits, space, _ = content[start : start + 8].partition(b" ")
        if not space or not digits.isdigit() or not 5 <= int(digits) <= len(content) - start:
            raise ValueError("pax records of the wrong form")
        record = content[start + len(digits) + 1 : start + int(digits)]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise ValueError("pax records of the wrong form")
        records[key] = value[:-1]
        start += int(digits)
    return records
