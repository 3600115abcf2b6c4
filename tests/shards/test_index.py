from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards.errors import DamageError
from pipeline.shards.index import IndexRows, check_index, encode_index, index_dtype, read_index
from pipeline.shards.record import PackedLayout

LAYOUT = PackedLayout(height=4, width=4, channels=3)
NUM_ROWS = 5
SHARD_BYTES = NUM_ROWS * LAYOUT.record_bytes + 1024


def good_rows(num_rows: int = NUM_ROWS) -> IndexRows:
    rows = np.zeros(num_rows, dtype=index_dtype(source_key_bytes=9))
    rows["record_offset"] = np.arange(num_rows) * LAYOUT.record_bytes
    rows["record_bytes"] = LAYOUT.record_bytes
    rows["image_offset"] = rows["record_offset"] + LAYOUT.image_offset
    rows["image_bytes"] = LAYOUT.image_bytes
    rows["height"], rows["width"] = 4, 4
    rows["crc32"] = 7
    rows["label"] = np.arange(num_rows) % 3
    rows["source_key"] = [f"cat/{row}.png".encode() for row in range(num_rows)]
    return rows


GOOD = encode_index(good_rows())


def npy(array: Any, *, version: tuple[int, int] = (1, 0), allow_pickle: bool = True) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version, allow_pickle=allow_pickle)
    return stream.getvalue()


def with_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def check(path: Path, rows: IndexRows, *, packed: PackedLayout | None = LAYOUT) -> None:
    check_index(path, rows, shard_bytes=SHARD_BYTES, num_classes=3, packed=packed)


@pytest.mark.parametrize("num_rows", [0, 1, 5, 1000])
def test_numpy_reads_what_we_write(tmp_path: Path, num_rows: int) -> None:
    rows, path = good_rows(num_rows), tmp_path / "a.idx.npy"
    path.write_bytes(encode_index(rows))
    loaded = np.load(path, allow_pickle=False)
    assert loaded.dtype == rows.dtype
    assert loaded.tobytes() == rows.tobytes()
    assert (path.stat().st_size - rows.nbytes) % 64 == 0
    assert read_index(path, num_samples=num_rows).tobytes() == rows.tobytes()


def test_what_numpy_writes_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "a.idx.npy"
    path.write_bytes(npy(good_rows(), allow_pickle=False))
    assert read_index(path, num_samples=NUM_ROWS).tobytes() == good_rows().tobytes()


class Bomb:
    """Unpickling one raises, so that a reader that does it is caught."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


SHAPE = b"(5,)"
HEADER = GOOD[10 : GOOD.index(b"\n", 10) + 1]
HOSTILE = {
    "empty": b"",
    "not npy": b"PK\x03\x04" * 100,
    "magic alone": b"\x93NUMPY",
    "header length beyond the file": b"\x93NUMPY\x01\x00\xff\xff{}",
    "pickled objects": npy(np.array([Bomb(), None, 3], dtype=object)),
    "pickled field": npy(np.zeros(5, dtype=[("record_offset", "O"), ("label", "<i8")])),
    "plain numbers": npy(np.arange(5)),
    "another order of columns": GOOD.replace(b"'height'", b"'WIDTH'").replace(b"'width'", b"'height'"),
    "big-endian": npy(good_rows().astype(good_rows().dtype.newbyteorder(">"))),
    "floats for labels": GOOD.replace(b"('label', '<i8')", b"('label', '<f8')"),
    "two axes": npy(good_rows().reshape(5, 1)),
    "no axis": npy(good_rows()[0]),
    "version 2": npy(good_rows(), version=(2, 0)),
    "version 3": npy(good_rows(), version=(3, 0)),
    "shape too large": GOOD.replace(SHAPE, b"(6,)"),
    "shape too small": GOOD.replace(SHAPE, b"(4,)"),
    "negative shape": GOOD.replace(SHAPE, b"(-5,)"),
    "shape of a billion billion": with_header(HEADER.replace(SHAPE, b"(1000000000000000000,)")),
    "shape evaluated": with_header(HEADER.replace(SHAPE, b"(2+3,)")),
    "Fortran order": GOOD.replace(b"False", b"True "),
    "source keys of no width": GOOD.replace(b"|S9", b"|S0"),
    "source keys too wide": GOOD.replace(b"|S9", b"|S9999"),
    "deep header": with_header(b"(" * 60_000),
    "header with a number bomb": with_header(b"{'descr': " + b"9" * 60_000 + b"}"),
    "unclosed": with_header(b"{'descr': [('a', '<u8'"),
    "one row missing": GOOD[:-61],
    "cut in the header": GOOD[:40],
    "one byte short": GOOD[:-1],
    "one byte more": GOOD + b"\0",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_sidecar_is_damage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.idx.npy"
    path.write_bytes(content)
    with pytest.raises(DamageError, match=r"a\.idx\.npy"):
        read_index(path, num_samples=NUM_ROWS)


def test_a_missing_sidecar_and_a_folder_in_its_place_are_damage(tmp_path: Path) -> None:
    with pytest.raises(DamageError, match="missing"):
        read_index(tmp_path / "a.idx.npy", num_samples=1)
    with pytest.raises(DamageError, match="cannot be read"):
        read_index(tmp_path, num_samples=1)


def shifted(column: str, record: int, value: int) -> Callable[[IndexRows], None]:
    def change(rows: IndexRows) -> None:
        rows[column][record] = value

    return change


LIES = {
    "record beyond the shard": shifted("record_offset", 4, SHARD_BYTES),
    "record offset that wraps": shifted("record_offset", 4, 2**64 - 1),
    "record length that wraps": shifted("record_bytes", 4, 2**64 - 1),
    "record of no length": shifted("record_bytes", 4, 0),
    "records that overlap": shifted("record_offset", 2, LAYOUT.record_bytes),
    "image before its record": shifted("image_offset", 3, 0),
    "image beyond its record": shifted("image_bytes", 3, LAYOUT.record_bytes),
    "image length that wraps": shifted("image_bytes", 3, 2**64 - 1),
    "image offset that wraps": shifted("image_offset", 3, 2**64 - 1),
}
PACKED_LIES = {
    "image elsewhere in its record": shifted("image_offset", 1, LAYOUT.record_bytes + 512),
    "image of another length": shifted("image_bytes", 1, 100),
    "another height": shifted("height", 1, 5),
    "another width": shifted("width", 1, 2**32 - 1),
}
LABEL_LIES = {"negative label": shifted("label", 2, -1), "label of no class": shifted("label", 2, 3)}


@pytest.mark.parametrize("change", LIES.values(), ids=LIES.keys())
@pytest.mark.parametrize("packed", [LAYOUT, None])
def test_rows_that_lead_outside_are_damage(change: Callable[[IndexRows], None], packed: PackedLayout | None) -> None:
    rows = good_rows()
    check(Path("a"), rows, packed=packed)
    change(rows)
    with pytest.raises(DamageError, match=r"a: record [2-4] is not where it can be"):
        check(Path("a"), rows, packed=packed)


@pytest.mark.parametrize("change", PACKED_LIES.values(), ids=PACKED_LIES.keys())
def test_packed_rows_must_be_those_that_follow_from_the_layout(change: Callable[[IndexRows], None]) -> None:
    rows = good_rows()
    change(rows)
    check(Path("a"), rows, packed=None)
    with pytest.raises(DamageError, match="a: record 1 is not where"):
        check(Path("a"), rows)


@pytest.mark.parametrize("change", LABEL_LIES.values(), ids=LABEL_LIES.keys())
def test_labels_out_of_range_are_damage(change: Callable[[IndexRows], None]) -> None:
    rows = good_rows()
    change(rows)
    with pytest.raises(DamageError, match=r"a: record 2 has label (-1|3), there are 3 classes"):
        check(Path("a"), rows)


def read_and_check(content: bytes, path: Path) -> None:
    """Read hostile bytes: nothing but DamageError may come out, and no more memory be taken than they fill."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        check(path, read_index(path, num_samples=NUM_ROWS))
    except DamageError:
        pass
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < 300_000


@given(st.binary(max_size=300))
def test_random_bytes_are_damage(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.idx.npy"
    read_and_check(content, path)
    read_and_check(with_header(content), path)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_changed_sidecars_are_read_or_damage(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]]
) -> None:
    content = bytearray(GOOD)
    for place, piece in changes:
        content[place : place + len(piece)] = piece
    read_and_check(bytes(content), tmp_path_factory.getbasetemp() / "changed.idx.npy")


def test_source_keys_have_a_longest_length() -> None:
    with pytest.raises(ValueError, match="1 to 4096"):
        index_dtype(source_key_bytes=4097)
