from __future__ import annotations

import os
import pickle
import pickletools
import random
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources.inert_pickle import read_pickle
from pipeline.shards.errors import DamageError
from tiny_sets import python2_pickle

FIELDS: dict[bytes, Any] = {
    b"batch_label": b"training batch 1 of 5",
    b"labels": [6, 9, 255, 300, 0],
    b"data": np.arange(2 * 3072, dtype=np.int64).astype(np.uint8).reshape(2, 3072),
    b"filenames": [b"leptodactylus_pentadactylus_s_%06d.png" % row for row in range(300)],
}


def assert_same(value: Any, expected: Any) -> None:
    if isinstance(expected, np.ndarray):
        assert value.dtype == np.uint8
        np.testing.assert_array_equal(value, expected)
    elif isinstance(expected, dict):
        assert list(value) == list(expected)
        for key, entry in expected.items():
            assert_same(value[key], entry)
    else:
        assert value == expected
        assert type(value) is type(expected)


def test_python_2_pickles_read_as_the_standard_library_reads_them() -> None:
    content = python2_pickle(FIELDS)
    names = {operation.name for operation, _, _ in pickletools.genops(content)}
    assert {"SHORT_BINSTRING", "BINSTRING", "LONG_BINPUT", "BUILD"} <= names
    expected = pickle.loads(content, encoding="bytes")
    assert_same(expected, FIELDS)
    assert_same(read_pickle(content, where="x"), expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("text_keys", [False, True])
def test_python_3_pickles_read_as_the_standard_library_reads_them(protocol: int, text_keys: bool) -> None:
    fields: dict[Any, Any] = {(key.decode() if text_keys else key): value for key, value in FIELDS.items()}
    fields |= {"fortran": np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4)), "empty": b"", "tuple": (1, 2)}
    fields |= {"one": (), "large": [-5, 2**40, -(2**63), True, False, None], "text": ["größe", "", "x" * 300]}
    fields |= {"readonly": np.frombuffer(bytes(range(6)), dtype=np.uint8), "twice": fields[next(iter(fields))]}
    content = pickle.dumps(fields, protocol=protocol)
    assert_same(read_pickle(content, where="x"), pickle.loads(content))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_one_array_in_two_places_is_read_in_both(protocol: int) -> None:
    array = np.arange(5, dtype=np.uint8)
    content = pickle.dumps({"a": array, "b": [array, array]}, protocol=protocol)
    value = read_pickle(content, where="x")
    assert value["b"][0] is value["a"]
    np.testing.assert_array_equal(value["b"][1], array)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_call_is_refused_by_name_and_not_made(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({b"labels": [1], b"data": Bomb(tmp_path / "run")}, protocol=protocol)
    with pytest.raises(DamageError, match=r"^data_batch_1: byte \d+: asks for '(posix|nt)\.system'.*refused"):
        read_pickle(content, where="data_batch_1")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({1, 2}, protocol=4), "EMPTY_SET"),
        (pickle.dumps(1.5, protocol=2), "BINFLOAT"),
        (pickle.dumps({"a": Path}, protocol=4), "pathlib"),
        (pickle.dumps([1], protocol=0), "MARK|LIST|left over|operation"),
        (b"\x80\x02]\x94.junk", "left over"),
        (b"\x80\x06N.", "protocol 6"),
        (b"\x80\x02h\x07.", "memo entry 7"),
        (b"\x80\x02j\xff\xff\xff\xff.", "memo entry 4294967295"),
        (b"\x80\x02}(K\x01K\x02u.", "dict key of type int"),
        (b"\x80\x02}(U\x01au.", "sets items"),
        (b"\x80\x02K\x01K\x02a.", "appends to a int"),
        (b"\x80\x02(a.", "empty stack"),
        (b"\x80\x02\x8b\x04\x00\x00\x00aaaa.", "LONG4"),
        (b"\x80\x02\x8a\xff" + b"a" * 255 + b".", "an integer of 255 bytes"),
        (b"\x80\x02T\xff\xff\xff\xffabc.", "cut short"),
        (b"\x80\x05\x8e" + b"\xff" * 8 + b"abc.", "cut short"),
        (b"\x80\x02X\x02\x00\x00\x00\xff\xfe.", "not a well-formed"),
        (b"\x80\x02c" + b"a" * 10_000 + b"\nb\n.", "not a well-formed"),
        (b"\x80\x02cnumpy\nndarray\n.", "bare numpy.ndarray"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "unknown arguments"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"\x80\x02]]b.", "builds something else"),
        (b"", "cut short"),
    ],
)
def test_everything_else_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(DamageError, match=reason):
        read_pickle(content, where="x")


@pytest.mark.parametrize("dtype", ["<i8", "<f4", "O", "S3", "i1", "?"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_anything_but_uint8_are_refused(dtype: str, protocol: int) -> None:
    with pytest.raises(DamageError):
        read_pickle(pickle.dumps(np.zeros(4, dtype=dtype), protocol=protocol), where="x")


@pytest.mark.parametrize("shape", [(2, 3073), (2**40, 2**40), (1,) * 5])
def test_an_array_must_have_as_many_bytes_as_its_shape_says(shape: tuple[int, ...]) -> None:
    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    content = python2_pickle({b"data": np.zeros((2, 3072), dtype=np.uint8)})
    old_shape = b"K\x02M\x00\x0c"
    assert content.count(old_shape) == 1
    start = content.index(old_shape)
    new_shape = b"(" + b"".join(map(number, shape)) + b"t"
    content = content[:start] + new_shape + content[start + len(old_shape) + 1 :]
    with pytest.raises(DamageError, match="array of"):
        read_pickle(content, where="x")


@pytest.mark.slow
def test_nesting_a_million_deep_neither_recurses_nor_takes_long() -> None:
    start_s = time.monotonic()
    value = read_pickle(b"\x80\x02" + b"]" * 900_000 + b"a" * 899_999 + b".", where="x")
    assert isinstance(value, list)
    del value
    with pytest.raises(DamageError, match="more than 2000000 operations"):
        read_pickle(b"\x80\x02" + b"N" * 3_000_000, where="x")
    assert time.monotonic() - start_s < 60


def test_small_pickles_cannot_unpack_one_text_into_much_memory() -> None:
    text = b"a" * 100_000
    content = b"\x80\x02c_codecs\nencode\nq\x00X" + struct.pack("<I", len(text)) + text + b"q\x01"
    content += b"".join(b"h\x00h\x01U\x06latin1\x86R" for _ in range(100)) + b"t."
    content = content.replace(b"U\x06latin1", b"X\x06\x00\x00\x00latin1")
    with pytest.raises(DamageError, match="again and again"):
        read_pickle(content, where="x")


def test_every_truncation_and_many_flipped_bits_end_in_a_value_or_in_the_one_error() -> None:
    content = python2_pickle({b"labels": [1, 2], b"data": np.zeros((2, 4), dtype=np.uint8)})
    for length in range(len(content)):
        with pytest.raises(DamageError):
            read_pickle(content[:length], where="x")
    rng = random.Random(5)
    for _ in range(3000):
        damaged = bytearray(content)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        with suppress(DamageError):
            read_pickle(bytes(damaged), where="x")


OPERATIONS = st.sampled_from(
    [operation.code.encode("latin-1") for operation in pickletools.opcodes]
    + [b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"c_codecs\nencode\n", b"U\x02u1", b"h\x01"]
)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.binary(), st.lists(st.one_of(OPERATIONS, st.binary(max_size=3))).map(b"".join)))
def test_no_bytes_raise_anything_but_the_one_error(content: bytes) -> None:
    for prefix in (b"", b"\x80\x04"):
        with suppress(DamageError):
            read_pickle(prefix + content + b".", where="x")
