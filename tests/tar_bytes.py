"""Tars made for tests: whole ones by Python's writer, and headers that no writer would write, with right checksums."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

END = bytes(1024)
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write_tar(path: Path, files: dict[str, bytes], *, format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def raw_header(
    name: bytes, *, size: bytes = b"00000000000\0", kind: bytes = b"0", magic: bytes = b"ustar\x0000"
) -> bytes:
    """Return a header with a right checksum around fields that no writer would write."""
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" * 3 + size + b"0" * 11 + b"\0" + b" " * 8 + kind)
    block += bytes(100) + magic
    block = block.ljust(512, b"\0")
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def pax_record(key: bytes, value: bytes) -> bytes:
    length = next(n for n in range(1000) if n == len(b"%d %s=%s\n" % (n, key, value)))
    return b"%d %s=%s\n" % (length, key, value)


def extension(kind: bytes, content: bytes) -> bytes:
    """Return what stands before a member: a long name (L) or pax records (x, g)."""
    return raw_header(b"extension", kind=kind, size=b"%011o\0" % len(content)) + padded(content)
