"""The oracle is Python's gzip module."""

from __future__ import annotations

import gzip
import importlib.util
import io
import random
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bytes_store import BytesStore
from data_prep.archives.deflate import inflate_from
from data_prep.archives.gzip import GzipStore, open_gzip
from data_prep.archives.gzip_index import CELL_BYTES, WINDOW_BYTES, GzipIndex, build_index, read_index, write_index
from data_prep.archives.tar import walk_tar, walk_tars_concurrently
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import open_store
from tar_bytes import write_tar

needs_rapidgzip = pytest.mark.skipif(
    importlib.util.find_spec("rapidgzip") is None, reason="rapidgzip is not installed (tarmac[gzip])"
)


def mixed_content(num_bytes: int) -> bytes:
    """Return stretches of noise, of text and of zeros, as archives of images have them."""
    chance = random.Random(1)
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < num_bytes:
        words = [b"tar", b"mac", b"road", b" ", b"\n", chance.randbytes(3)]
        pieces += [chance.randbytes(chance.randrange(300_000)), bytes(chance.randrange(100_000))]
        pieces += [b"".join(chance.choices(words, k=chance.randrange(60_000)))]
    return b"".join(pieces)[:num_bytes]


CONTENT = mixed_content(5_000_001)


def in_members(content: bytes, size_bytes: int) -> bytes:
    return b"".join(gzip.compress(content[n : n + size_bytes], 1) for n in range(0, len(content), size_bytes))


def with_name(content: bytes) -> bytes:
    stream = io.BytesIO()
    with gzip.GzipFile("a name.tar", "wb", 1, stream) as packed:
        packed.write(content)
    return stream.getvalue()


FORMS: dict[str, Callable[[], bytes]] = {
    **{f"level {level}": lambda level=level: gzip.compress(CONTENT, level) for level in (0, 1, 6)},
    "a name in the header": lambda: with_name(CONTENT),
    "members of 3 MB": lambda: in_members(CONTENT, 3_000_000),
    "members of 40 kB": lambda: in_members(CONTENT, 40_000),
    "shorter than a cell": lambda: gzip.compress(CONTENT[:1000]),
    "cells exactly": lambda: gzip.compress(CONTENT[: 4 * CELL_BYTES]),
    "nothing": lambda: gzip.compress(b""),
    "zeros": lambda: gzip.compress(bytes(20_000_000)),
}


def opened(packed: bytes, folder: Path) -> GzipStore:
    store: Any = BytesStore(packed)
    found: Any = open_gzip(store, "a", index_path=folder / "index")
    return found


@needs_rapidgzip
@pytest.mark.parametrize("form", FORMS)
def test_any_range_is_what_python_unpacks(form: str, tmp_path: Path) -> None:
    packed = FORMS[form]()
    expected = gzip.decompress(packed)
    store = opened(packed, tmp_path)
    assert store.size_of("a") == len(expected)
    chance = random.Random(2)
    for size_bytes in (0, 1, 512, 100_000, 1_500_000):
        for _ in range(10):
            start = chance.randrange(max(1, len(expected) - size_bytes))
            end = min(start + size_bytes, len(expected))
            assert store.read_at("a", offset=start, size_bytes=end - start) == expected[start:end]
    assert store.read_bytes("a", max_bytes=len(expected)) == expected


@needs_rapidgzip
def test_a_stream_is_entered_at_every_point_of_its_index() -> None:
    packed = gzip.compress(CONTENT, 6)
    store: Any = BytesStore(packed)
    index = build_index(store, "a", on_progress=None)
    places = [divmod(int(point["packed_bit"]), 8) for point in index.points[:-1]]
    for number, (start, bits) in enumerate(places):
        unpacked = inflate_from(packed[start:], bits=bits, window=index.window(number), max_bytes=1000)
        begin = int(index.points["unpacked"][number])
        assert unpacked == CONTENT[begin : begin + 1000]
    assert len({bits for _, bits in places}) > 1


@pytest.mark.parametrize("bits", range(8))
def test_a_stream_is_entered_at_any_bit(bits: int) -> None:
    """A block made by hand, as RFC 1951 has it, that repeats 3 bytes of the window."""
    window = bytes(WINDOW_BYTES - 3) + b"xyz"
    # The last of its stream, fixed codes, length 3 (257: 0000001), distance 3 (2: 00010), end of block.
    written = "1" + "10" + "0000001" + "00010" + "0000000"
    text = "1" * bits + written
    packed = bytes(int(text[n : n + 8].ljust(8, "0")[::-1], 2) for n in range(0, len(text), 8))
    assert inflate_from(packed + bytes(8), bits=bits, window=window, max_bytes=10) == b"xyz"


@needs_rapidgzip
def test_a_tar_gz_of_class_tars_is_walked_in_place(tmp_path: Path) -> None:
    inner = {}
    for number in range(6):
        files = {f"n{number}_{n}.JPEG": CONTENT[n * 9000 : n * 9000 + 50_000] for n in range(20)}
        inner[f"winter21/n{number}.tar"] = write_tar(tmp_path / "inner.tar", files).read_bytes()
    outer = write_tar(tmp_path / "outer.tar", inner)
    (tmp_path / "outer.tar.gz").write_bytes(gzip.compress(outer.read_bytes(), 6))
    local = open_store(str(tmp_path))
    store = open_gzip(local, "outer.tar.gz", index_path=tmp_path / "index")
    members = list(walk_tar(store, "outer.tar.gz"))
    assert members == list(walk_tar(local, "outer.tar"))
    parts = [("outer.tar.gz", member.offset, member.offset + member.size_bytes) for member in members]
    for found in walk_tars_concurrently(store, parts, threads=4):
        assert len(found) == 20
        for member in found:
            content = store.read_at("outer.tar.gz", offset=member.offset, size_bytes=member.size_bytes)
            assert content == local.read_at("outer.tar", offset=member.offset, size_bytes=member.size_bytes)


@needs_rapidgzip
def test_the_index_is_made_once_with_progress_and_then_used_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(CONTENT * 5, 1))
    store = open_store(str(tmp_path))
    told: list[int] = []
    open_gzip(store, "a.gz", index_path=tmp_path / "sub" / "index", on_progress=told.append)
    assert sum(told) == (tmp_path / "a.gz").stat().st_size
    assert len(told) > 1
    assert min(told) >= 0
    monkeypatch.setitem(sys.modules, "rapidgzip", None)
    again = open_gzip(store, "a.gz", index_path=tmp_path / "sub" / "index", on_progress=told.append)
    assert again.read_at("a.gz", offset=5, size_bytes=100) == CONTENT[5:105]
    assert (tmp_path / "sub" / "index").stat().st_size < 20_000
    with pytest.raises(UserError, match=r"a\.gz: to read it in place, pip install 'tarmac\[gzip\]'; or gunzip it"):
        open_gzip(store, "a.gz", index_path=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@needs_rapidgzip
@pytest.mark.parametrize("level", [0, 6])
def test_damage_is_found_when_the_index_is_made(level: int, tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT[:2_000_000], level)
    chance = random.Random(3)
    flips = [*(chance.randrange(20, len(packed)) for _ in range(20)), len(packed) - 1, len(packed) - 5]
    damaged = [bytes(packed[:n]) + bytes([packed[n] ^ 1]) + packed[n + 1 :] for n in flips]
    damaged += [
        packed[:cut]
        for cut in (0, 5, 18, len(packed) // 2, *(len(packed) - left for left in (50_000, 1000, 9, 8, 6, 1)))
    ]
    damaged += [packed + b"x" * 30, b"no gzip file at all", bytes(1000)]
    for content in damaged:
        with pytest.raises(DamageError, match="memory/a: cut short"):
            opened(content, tmp_path)
    assert not (tmp_path / "index").exists()


@needs_rapidgzip
@pytest.mark.parametrize("level", [0, 6])
def test_damage_behind_the_indexs_back_is_found_when_it_is_read(level: int, tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(CONTENT[:3_000_000], level))
    opened(bytes(packed), tmp_path)
    for place in range(70_000, len(packed) - 70_000, 100_003):
        packed[place] ^= 8
        with pytest.raises(DamageError, match=r"memory/a, packed byte \d+: "):
            opened(bytes(packed), tmp_path).read_bytes("a", max_bytes=3_000_000)
        packed[place] ^= 8


@needs_rapidgzip
def test_an_index_of_another_file_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT[:500_000])
    opened(packed, tmp_path)
    for other in (packed + bytes(1), packed[:-1] + b"x", b"x" + packed[1:]):
        with pytest.raises(UserError, match="index: the index of another file than memory/a; remove it"):
            opened(other, tmp_path)
    stored = (tmp_path / "index").read_bytes()
    for damaged in (b"", b"x" + stored, stored[:-1], stored[:25], stored[:-20] + b"x" + stored[-19:]):
        (tmp_path / "index").write_bytes(damaged)
        with pytest.raises(DamageError, match="index: no index of a gzip file, or damaged; remove it"):
            opened(packed, tmp_path)


@needs_rapidgzip
def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    store: Any = BytesStore(gzip.compress(CONTENT))
    index = build_index(store, "a", on_progress=None)
    write_index(tmp_path / "index", index)
    again = read_index(tmp_path / "index")
    for name in GzipIndex.__slots__:
        first, second = getattr(index, name), getattr(again, name)
        assert first.tobytes() == second.tobytes() if hasattr(first, "tobytes") else first == second
    assert [again.window(n) for n in range(len(again.points))] == [index.window(n) for n in range(len(index.points))]


@needs_rapidgzip
def test_limits_and_ends_are_kept(tmp_path: Path) -> None:
    store = opened(gzip.compress(CONTENT[:1000]), tmp_path)
    with pytest.raises(DamageError, match="unpacks to 1000 bytes, 1001 were wanted"):
        store.read_at("a", offset=900, size_bytes=101)
    with pytest.raises(DamageError, match="more than the 999 bytes"):
        store.read_bytes("a", max_bytes=999)


@needs_rapidgzip
def test_other_files_are_as_they_are_and_the_gzip_file_cannot_be_changed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.gz").write_bytes(gzip.compress(b"unpacked content"))
    (tmp_path / "data" / "b").write_bytes(b"other")
    local = open_store(str(tmp_path / "data"))
    store = open_gzip(local, "a.gz", index_path=tmp_path / "index")
    assert [(file.name, file.size_bytes) for file in store.list_files()] == [("a.gz", 16), ("b", 5)]
    assert store.size_of("b") == 5
    assert store.read_at("b", offset=1, size_bytes=3) == b"the"
    assert store.read_bytes("b", max_bytes=5) == b"other"
    assert store.local_path("b") == tmp_path / "data" / "b"
    assert store.local_path("a.gz") is None
    for change in (lambda: store.remove("a.gz"), lambda: store.publish("a.gz").__enter__()):
        with pytest.raises(UserError, match="cannot be changed"):
            change()
    store.remove("b")
    assert store.size_of("b") is None


def test_a_damaged_stream_raises_what_zlib_raises() -> None:
    with pytest.raises(zlib.error):
        inflate_from(b"\xff" * 100, bits=0, window=bytes(WINDOW_BYTES), max_bytes=100)
