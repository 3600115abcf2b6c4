"""Tars and zips after a few edits: refused by name, or read as Python's own readers read them.

Some edits of a tar are followed by putting the checksums of its headers right, so that what lies behind that check is
reached too. The number of inputs a test is the profile's: 100 by default, 20,000 by
`pytest tests/fuzz --hypothesis-profile=fuzz`.
"""

from __future__ import annotations

import io
import re
import tarfile
import warnings
import zipfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytes_store import BytesStore
from data_prep.archives.tar import walk_tar
from data_prep.archives.zip import list_zip, read_zip_entry
from pipeline.shards.errors import UserError
from tar_bytes import FORMATS

Edit = tuple[str, int, int, bytes]
MAX_BYTES = 1 << 16
NAMES = ["cats/a.jpg", "b.json", "l" * 120 + "/" + "n" * 90, "größe/猫.png"]
CONTENTS = [b"a" * 700, b"", b"[1, 2]" * 300, b"cat"]
SIGNS = [b"../", b"/", b"\0", b"./", b"0", b"5", b"L", b"x", b"g", b"2", b"S", b"\x80", b"ustar\0", b"ustar  \0"]
SIGNS += [
    b"17 path=../../a\n",
    b"9 size=9\n",
    b"00000000777\0",
    b"\xff" * 4,
    b"PK\1\2",
    b"PK\5\6",
    b"PK\6\6",
    bytes(512),
]
PIECES = st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from(SIGNS))
# Half of the places lie in the first blocks, at any place in each: where the headers of a tar are.
BLOCK_PLACES = st.builds(lambda block, at: 512 * block + at, st.integers(0, 12), st.integers(0, 511))
PLACES = st.one_of(st.integers(0, 1 << 14), BLOCK_PLACES)
KINDS = st.sampled_from(["flip", "flip", "overwrite", "insert", "cut out", "cut off", "double"])
EDITS = st.lists(st.tuples(KINDS, PLACES, PLACES, PIECES), min_size=1, max_size=4)


def edited(content: bytes, edits: list[Edit]) -> bytes:
    for kind, place, other, piece in edits:
        place, other = place % (len(content) + 1), other % (len(content) + 1)
        start, end = min(place, other), max(place, other)
        match kind:
            case "flip":
                content = (
                    content[:place]
                    + bytes(byte ^ 1 << other % 8 for byte in content[place : place + 1])
                    + content[place + 1 :]
                )
            case "overwrite":
                content = content[:place] + piece + content[place + len(piece) :]
            case "insert":
                content = content[:place] + piece + content[place:]
            case "cut out":
                content = content[:start] + content[end:]
            case "cut off":
                content = content[:place]
            case _:
                content = content[:end] + content[start:end] + content[end:]
    return content  # fmt: skip


def tar_bytes(format: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        archive.addfile(tarfile.TarInfo("cats"), None)
        for name, content in zip(NAMES, CONTENTS, strict=True):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()[: 512 * 20]


def with_right_checksums(content: bytes) -> bytes:
    """Put the checksum right wherever a block could be a header."""
    blocks = bytearray(content)
    for start in range(0, len(content) - 511, 512):
        if blocks[start + 257 : start + 262] == b"ustar":
            blocks[start + 148 : start + 156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % sum(blocks[start : start + 512])
    return bytes(blocks)


def tar_is_refused_or_right(content: bytes) -> None:
    """Where Python stops without a word, at a header that it does not like, what comes before is compared.

    That may be one that is right here: Python also reads numbers that do not matter, such as modes, and two flips may
    leave a checksum as it was.
    """
    store: Any = BytesStore(content)
    try:
        found = list(walk_tar(store, "a"))
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            members = [member for member in archive if member.isreg()]
            stopped_early = content[archive.offset : archive.offset + 512].strip(b"\0") != b""
    except (UserError, tarfile.TarError):
        return
    expected = [(re.sub(r"^(\./)+", "", member.name), member.offset_data, member.size) for member in members]
    assert found[: len(expected)] == expected
    assert stopped_early or len(found) == len(expected)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@given(edits=EDITS)
def test_a_damaged_tar_is_refused_or_read_as_python_reads_it(format: int, edits: list[Edit]) -> None:
    tar_is_refused_or_right(edited(tar_bytes(format), edits))


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@given(edits=EDITS)
def test_a_tar_with_other_headers_is_refused_or_read_as_python_reads_it(format: int, edits: list[Edit]) -> None:
    tar_is_refused_or_right(with_right_checksums(edited(tar_bytes(format), edits)))


@given(st.binary(max_size=2000))
def test_bytes_of_no_archive_are_refused(content: bytes) -> None:
    store: Any = BytesStore(content)
    for read in (lambda: list(walk_tar(store, "a")), lambda: list_zip(store, "a")):
        with pytest.raises(UserError):
            read()


def zip_bytes(method: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in zip(NAMES, CONTENTS, strict=True):
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@given(edits=EDITS)
def test_a_damaged_zip_is_refused_or_read_as_python_reads_it(method: int, edits: list[Edit]) -> None:
    content = edited(zip_bytes(method), edits)
    store: Any = BytesStore(content)
    try:
        entries = list_zip(store, "a")
    except UserError:
        return
    with warnings.catch_warnings(), zipfile.ZipFile(io.BytesIO(content)) as archive:
        warnings.simplefilter("ignore")
        infos = {info.header_offset: info for info in archive.infolist()}
        for entry in entries:
            try:
                found = read_zip_entry(
                    store, "a", offset=entry.offset, size_bytes=entry.size_bytes, max_bytes=MAX_BYTES
                )
            except UserError:
                continue
            assert zipfile_read(archive, infos[entry.offset]) in (found, None)


def zipfile_read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | None:
    """Return an entry's bytes; None where Python, which looks at the directory's CRC-32, refuses it."""
    try:
        return archive.read(info)
    except Exception:
        return None
