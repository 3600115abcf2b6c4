"""A tar member's header, and the extensions that stand before it: pure functions of bytes.

    kind, name, size_bytes = parse_header(block)        # ord("0"), b"n01440764/a.JPEG", 109527

A member may have one long name (GNU) or one set of pax records before it; both, or two of one, would leave it to the
reader which name counts, and are refused. Of pax records only path and size matter here.
"""

from __future__ import annotations

import zlib

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

_LONG_NAME_KIND, _PAX_KIND, _PAX_GLOBAL_KIND = EXTENSION_KINDS
_USTAR_MAGIC = b"ustar\0"  # GNU's has a space instead, and other things than a prefix where that stands
_CHECKSUM_BLANK = 8 * ord(" ")


def parse_header(block: bytes) -> tuple[int, bytes, int]:
    """Return (kind, name, size in bytes) of the 512 bytes of a header.

    Raises:
        ValueError: saying what is wrong with it.
    """
    # Adler-32's low half is one more than the sum of the bytes, modulo 65,521; 512 ASCII bytes stay below that.
    total = (zlib.adler32(block) & 0xFFFF) - 1 if block.isascii() else sum(block)
    if total - sum(block[148:156]) + _CHECKSUM_BLANK != _number(block[148:156]):
        raise ValueError("its checksum differs")
    name = block[:100].partition(b"\0")[0]
    if block[345] and block[257:263] == _USTAR_MAGIC:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return block[156], name, _number(block[124:136])


def _number(field: bytes) -> int:
    digits = field.strip(b" \0")
    if digits.isdigit():
        return int(digits, 8)
    if not digits:
        return 0
    if field[0] == 0x80:  # GNU's base-256, for sizes from 8 GiB on
        return int.from_bytes(field[1:], "big")
    raise ValueError(f"{field!r} is no number")


class Extensions:
    """What stands before a member and changes its name or size. False while there is nothing."""

    def __init__(self) -> None:
        self._name: bytes | None = None
        self._size_bytes: int | None = None
        self._kind = 0

    def __bool__(self) -> bool:
        return self._kind != 0

    def add(self, kind: int, content: bytes) -> None:
        """Take the content of an extension.

        Raises:
            ValueError: saying what is wrong with it.
        """
        if kind == _PAX_GLOBAL_KIND:
            named = _parse_pax(content).keys() & {b"path", b"size"}
            if named:
                raise ValueError("a name or a size for all members that follow")
            return
        if self._kind:
            raise ValueError("a second long name, or second pax records, of one member")
        self._kind = kind
        if kind == _LONG_NAME_KIND:
            self._name = content.partition(b"\0")[0]
            return
        records = _parse_pax(content)
        if any(key.startswith(b"GNU.sparse.") for key in records):
            raise ValueError("a sparse file; make the tar anew without --sparse")
        self._name = records.get(b"path")
        if b"size" in records:
            if not records[b"size"].isdigit() or len(records[b"size"]) > 19:
                raise ValueError(f"a size of {records[b'size'][:40]!r}")
            self._size_bytes = int(records[b"size"])

    def applied(self, name: bytes, size_bytes: int) -> tuple[bytes, int]:
        """Return the name and the size of the member that follows, whose own header has these."""
        return (
            name if self._name is None else self._name,
            size_bytes if self._size_bytes is None else self._size_bytes,
        )


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
