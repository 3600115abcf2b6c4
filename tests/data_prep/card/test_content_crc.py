"""zlib says what the CRC-32 of a piece is."""

from __future__ import annotations

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.card.content_crc import crcs_of_zeros, middle_crc32
from pipeline.shards.crc import shifted

PARTS = st.tuples(st.binary(max_size=600), st.binary(max_size=600), st.binary(max_size=600))


@given(st.lists(PARTS, min_size=1, max_size=20))
def test_the_middle_of_any_strings_follows_from_the_rest(strings: list[tuple[bytes, bytes, bytes]]) -> None:
    before, middle, after = zip(*strings, strict=True)
    found = middle_crc32(
        [zlib.crc32(b"".join(parts)) for parts in strings],
        before=list(map(zlib.crc32, before)),
        middle_bytes=list(map(len, middle)),
        after=list(map(zlib.crc32, after)),
        after_bytes=list(map(len, after)),
    )
    assert found.tolist() == list(map(zlib.crc32, middle))


def test_lengths_of_a_few_megabytes_are_shifted_too() -> None:
    for size in (0, 1, 65_535, 65_536, 3_000_017):
        middle = np.random.default_rng(size).bytes(size)
        whole = zlib.crc32(b"before" + middle + bytes(400))
        found = middle_crc32(
            whole, before=zlib.crc32(b"before"), middle_bytes=size, after=zlib.crc32(bytes(400)), after_bytes=400
        )
        assert int(found) == zlib.crc32(middle)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**40), st.integers(0, 2**40))
def test_shifts_add_up_and_are_undone(crc: int, first: int, second: int) -> None:
    assert int(shifted(shifted(crc, first), second)) == int(shifted(crc, first + second))
    assert int(shifted(shifted(crc, first), -first)) == crc


def test_padding_of_every_length() -> None:
    assert crcs_of_zeros(512).tolist() == [zlib.crc32(bytes(length)) for length in range(513)]


def test_nothing_gives_nothing() -> None:
    empty = np.empty(0, dtype=np.uint32)
    assert middle_crc32(empty, before=empty, middle_bytes=empty, after_bytes=empty).shape == (0,)
