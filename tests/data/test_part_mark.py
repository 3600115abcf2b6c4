"""How far a download came, as its file tells it at every moment of being written."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.data.part_mark import came_bytes, mark

PIECE_BYTES = 30


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


@pytest.mark.parametrize("size_bytes", [0, 1, 19, 20, 21, 30, 31, 59, 60, 61, 100, 1000])
def test_a_file_tells_no_more_than_came_and_ends_with_its_own_bytes(descriptor: int, size_bytes: int) -> None:
    content = random.Random(size_bytes).randbytes(size_bytes)
    os.ftruncate(descriptor, size_bytes)
    told = []
    for offset in range(0, size_bytes, PIECE_BYTES):
        assert came_bytes(descriptor, size_bytes=size_bytes) in (offset, 0)
        os.pwrite(descriptor, content[offset : offset + PIECE_BYTES], offset)
        assert came_bytes(descriptor, size_bytes=size_bytes) in (offset, 0), "before its mark"
        mark(descriptor, came_bytes=min(offset + PIECE_BYTES, size_bytes), size_bytes=size_bytes)
        told.append(came_bytes(descriptor, size_bytes=size_bytes))
    assert os.pread(descriptor, size_bytes + 1, 0) == content
    ends = range(PIECE_BYTES, size_bytes + PIECE_BYTES, PIECE_BYTES)
    assert told == [end if end <= size_bytes - 20 else 0 for end in ends]


@pytest.mark.parametrize("place", range(20))
def test_a_mark_with_one_byte_changed_is_none(descriptor: int, place: int) -> None:
    os.ftruncate(descriptor, 100)
    mark(descriptor, came_bytes=30, size_bytes=100)
    (byte,) = os.pread(descriptor, 1, 80 + place)
    os.pwrite(descriptor, bytes([byte ^ 4]), 80 + place)
    assert came_bytes(descriptor, size_bytes=100) == 0
