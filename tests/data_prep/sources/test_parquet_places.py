from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.sources import parquet_files
from data_prep.sources.parquet import ParquetSource, open_parquet
from data_prep.sources.parquet_headers import ContentError, read_page_header, read_runs
from data_prep.sources.parquet_places import Chunk, find_places
from data_prep.sources.parquet_snappy import BLOCK_BYTES, SnappyStream
from pipeline.storage.local import LocalStore
from served import served

SIZES_BYTES = (0, 1, 3, 900, 40_000, 65_532, 65_536, 150_000)
SEVERAL_PAGES = {"data_page_size": 100_000, "write_batch_size": 4, "write_page_index": True}


def images(num_rows: int, *, packable: bool = False) -> list[bytes | None]:
    """Return bytes of all sizes, some of them missing, some of them twice; random as JPEG is, or zeros."""
    rng = np.random.default_rng(0)
    found: list[bytes | None] = []
    for number in range(num_rows):
        size_bytes = SIZES_BYTES[number % len(SIZES_BYTES)]
        found.append(bytes(size_bytes) if packable else rng.bytes(size_bytes))
        if number % 7 == 3:
            found[-1] = None
        if number % 11 == 10:
            found[-1] = found[number - 2]
    return found


def write(path: Path, contents: list[bytes | None], *, is_struct: bool, **options: Any) -> pa.Table:
    """Write images as a plain column, or as `datasets` does; a struct may be missing with all that is in it."""
    column = pa.array(contents, pa.binary())
    if is_struct:
        rows = [
            None if content is None and number % 2 else {"bytes": content, "path": f"{number}.jpg"}
            for number, content in enumerate(contents)
        ]
        column = pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    table = pa.table({"image": column, "label": [0] * len(contents)})
    pq.write_table(table, path, **{"row_group_size": 30, **options})
    return table


def of_pyarrow(path: Path) -> list[bytes | None]:
    values = pq.read_table(path, columns=["image"]).column("image").to_pylist()
    return [value["bytes"] if isinstance(value, dict) else value for value in values]


def of_source(source: ParquetSource, path: Path, num_rows: int) -> list[bytes | None]:
    return [source._files.image(path.name, row, columns=source._columns) for row in range(num_rows)]


def refuse_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("a row group was read")

    monkeypatch.setattr(parquet_files.OpenFiles, "_read_images", refused)


@pytest.mark.parametrize("is_struct", [False, True])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("use_dictionary", [False, True])
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("pages", [{}, SEVERAL_PAGES])
def test_rows_are_as_pyarrow_reads_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: str,
    use_dictionary: bool,
    version: str,
    is_struct: bool,
    pages: dict[str, Any],
) -> None:
    path = tmp_path / "train.parquet"
    contents = images(50)
    options = {"compression": codec, "use_dictionary": use_dictionary, "data_page_version": version, **pages}
    write(path, contents, is_struct=is_struct, **options)
    assert of_pyarrow(path) == contents
    if codec in ("none", "snappy"):
        refuse_groups(monkeypatch)
    assert of_source(open_parquet(str(path)), path, 50) == contents


@pytest.mark.parametrize("is_struct", [False, True])
def test_a_dictionary_that_grows_too_large_and_plain_pages_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_struct: bool
) -> None:
    path = tmp_path / "train.parquet"
    options = {"dictionary_pagesize_limit": 200_000, "row_group_size": 64, **SEVERAL_PAGES}
    write(path, images(64), is_struct=is_struct, **options)
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    assert {"PLAIN", "RLE_DICTIONARY"} <= set(column.encodings)
    refuse_groups(monkeypatch)
    assert of_source(open_parquet(str(path)), path, 64) == of_pyarrow(path)


@pytest.mark.parametrize("contents", [[None] * 9, [b""] * 9, [b"x"], [b"\xff" * 70_000] * 5])
@pytest.mark.parametrize("codec", ["none", "snappy"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_odd_columns(tmp_path: Path, contents: list[bytes | None], codec: str, version: str) -> None:
    path = tmp_path / "train.parquet"
    write(path, contents, is_struct=True, compression=codec, data_page_version=version)
    assert of_source(open_parquet(str(path)), path, len(contents)) == contents


def test_columns_where_nothing_can_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [content or b"" for content in images(70)]
    schema = pa.schema([pa.field("image", pa.binary(), nullable=False), pa.field("label", pa.int64())])
    refuse_groups(monkeypatch)
    for version in ("1.0", "2.0"):
        path = tmp_path / "train.parquet"
        pq.write_table(pa.table([contents, [0] * 70], schema=schema), path, data_page_version=version)
        assert of_source(open_parquet(str(path)), path, 70) == contents


@pytest.mark.parametrize("encoding", ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_other_encodings_and_what_packs_well_are_read_by_row_groups(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "train.parquet"
    contents = images(40)
    write(path, contents, is_struct=False, use_dictionary=False, column_encoding={"image": encoding})
    assert of_source(open_parquet(str(path)), path, 40) == contents
    contents = images(40, packable=True)
    write(path, contents, is_struct=False, use_dictionary=False)
    assert of_source(open_parquet(str(path)), path, 40) == contents


@pytest.mark.parametrize(("codec", "most"), [("none", 1.1), ("snappy", 2.2)])
def test_eighty_shards_read_little_more_than_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, most: float
) -> None:
    rng = np.random.default_rng(1)
    contents: list[bytes | None] = [rng.bytes(80_000 + 100 * number) for number in range(160)]
    path = tmp_path / "train.parquet"
    write(path, contents, is_struct=True, compression=codec, row_group_size=80)
    num_bytes = 0
    read_at = LocalStore.read_at

    def counted(self: LocalStore, name: str, *, offset: int, size_bytes: int) -> bytes:
        nonlocal num_bytes
        num_bytes += size_bytes
        return read_at(self, name, offset=offset, size_bytes=size_bytes)

    monkeypatch.setattr(LocalStore, "read_at", counted)
    source = open_parquet(str(path))
    order = rng.permutation(160)
    for shard in range(80):
        for row in sorted(order[shard::80].tolist()):
            assert source.read(path=path.name, offset=row, size_bytes=0) == contents[row]
    assert num_bytes < most * sum(map(len, filter(None, contents)))


def test_places_that_do_not_fit_into_memory_are_looked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.parquet"
    contents = images(70)
    write(path, contents, is_struct=True, row_group_size=7)
    monkeypatch.setattr(parquet_files, "MAX_PLACES_BYTES", 1)
    source = open_parquet(str(path))
    for _ in range(2):
        assert of_source(source, path, 70) == contents
        assert len(source._files._places) == parquet_files.MAX_GROUPS


def test_places_stay_where_files_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"train-{number}.parquet" for number in range(3)]
    contents = images(20)
    for path in paths:
        write(path, contents, is_struct=True)
    monkeypatch.setattr(parquet_files, "MAX_OPEN_FILES", 1)
    source = open_parquet(str(tmp_path))
    for path in paths:
        assert of_source(source, path, 20) == contents
    monkeypatch.setattr(parquet_files, "open_stored", None)
    for path in paths:
        assert of_source(source, path, 20) == contents


@pytest.mark.parametrize("window_bytes", [parquet_files.REMOTE_WINDOW_BYTES, 1000])
def test_from_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window_bytes: int) -> None:
    path = tmp_path / "train.parquet"
    contents = images(16)
    write(path, contents, is_struct=True)
    monkeypatch.setattr(parquet_files, "REMOTE_WINDOW_BYTES", window_bytes)
    refuse_groups(monkeypatch)
    with served(tmp_path) as url:
        assert of_source(open_parquet(f"{url}/{path.name}"), path, 16) == contents


def snappy(*parts: bytes, unpacked_bytes: int) -> bytes:
    length = b""
    while unpacked_bytes > 127:
        length += bytes([unpacked_bytes & 127 | 128])
        unpacked_bytes >>= 7
    return length + bytes([unpacked_bytes]) + b"".join(parts)


def literal(content: bytes) -> bytes:
    return b"\xf4" + (len(content) - 1).to_bytes(2, "little") + content


def copy(*, distance: int, size_bytes: int) -> bytes:
    return bytes([(size_bytes - 1) << 2 | 3]) + distance.to_bytes(4, "little")


def opened(content: bytes, unpacked_bytes: int) -> SnappyStream:
    return SnappyStream(
        lambda position, size_bytes: content[position : position + size_bytes],
        start=0,
        stored_bytes=len(content),
        unpacked_bytes=unpacked_bytes,
    )


def test_a_snappy_block_that_refers_to_another_one_is_refused() -> None:
    first = np.random.default_rng(0).bytes(BLOCK_BYTES)
    length = BLOCK_BYTES + 64
    content = snappy(literal(first), copy(distance=BLOCK_BYTES, size_bytes=64), unpacked_bytes=length)
    assert pa.Codec("snappy").decompress(content, decompressed_size=length).to_pybytes() == first + first[:64]
    blocks = opened(content, length).finish()
    read_at = lambda position, size_bytes: content[position : position + size_bytes]  # noqa: E731
    assert bytes(blocks.unpack(read_at, position=9, size_bytes=1000)) == first[9:1009]
    assert bytes(blocks.unpack(read_at, position=BLOCK_BYTES - 1, size_bytes=3)) == first[-1:] + first[:2]
    with pytest.raises(ContentError):
        blocks.unpack(read_at, position=BLOCK_BYTES, size_bytes=3)


def test_snappy_tags_that_cross_blocks_or_end_elsewhere_are_refused() -> None:
    a, b = bytes(BLOCK_BYTES - 1), bytes(2)
    for content, length in [
        (snappy(literal(a), literal(b), unpacked_bytes=BLOCK_BYTES + 1), BLOCK_BYTES + 1),
        (snappy(literal(b), unpacked_bytes=3), 3),
        (snappy(literal(b), b"\x00x", unpacked_bytes=2), 2),
        (snappy(literal(b), unpacked_bytes=2), 3),
    ]:
        with pytest.raises(ContentError):
            opened(content, length).finish()


@given(st.binary(max_size=60))
def test_no_bytes_break_the_header_reader(content: bytes) -> None:
    try:
        header, length = read_page_header(content)
    except ContentError:
        return
    assert 0 < length <= len(content)
    assert min(header.stored_bytes, header.unpacked_bytes, header.num_values) >= 0


@pytest.mark.parametrize(
    "content", [b"\x19" * 100_000, b"\x1c" * 100_000, b"\x19\xf1" + b"\xff" * 9, b"\x18\xff\xff\x7f"]
)
def test_headers_nested_deep_or_of_many_items_are_refused(content: bytes) -> None:
    with pytest.raises(ContentError):
        read_page_header(content)


@given(values=st.lists(st.integers(0, 1000), min_size=1, max_size=300), width=st.integers(10, 24))
def test_packed_numbers_come_back(values: list[int], width: int) -> None:
    num_groups = -(-len(values) // 8)
    number = sum(value << (place * width) for place, value in enumerate(values))
    head = num_groups << 1 | 1
    heads = bytes([head]) if head < 128 else bytes([head & 127 | 128, head >> 7])
    content = heads + number.to_bytes(num_groups * width, "little")
    assert read_runs(content, width=width, num_values=len(values)).tolist() == values


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, 5000),
    values=st.binary(min_size=1, max_size=4),
    codec=st.sampled_from(["none", "snappy"]),
    version=st.sampled_from(["1.0", "2.0"]),
)
def test_damage_ends_in_other_bytes_or_a_refusal_at_little_memory(
    tmp_path: Path, at: int, values: bytes, codec: str, version: str
) -> None:
    path = tmp_path / f"{codec}-{version}.parquet"
    if not path.exists():
        contents: list[bytes | None] = [None, *(b"%d" % number * 40 for number in range(30))]
        write(path, contents, is_struct=True, compression=codec, data_page_version=version, use_dictionary=at % 2 == 0)
    file = pq.ParquetFile(path)
    column = file.metadata.row_group(0).column(0)
    chunk = Chunk(
        start=min(column.dictionary_page_offset or column.data_page_offset, column.data_page_offset),
        stored_bytes=column.total_compressed_size,
        num_rows=30,
        is_snappy=codec == "snappy",
        max_level=2,
    )
    content = bytearray(path.read_bytes())
    place = chunk.start + at % chunk.stored_bytes
    content[place : place + len(values)] = values
    most_bytes = 0

    def read_at(position: int, size_bytes: int) -> bytes:
        nonlocal most_bytes
        most_bytes = max(most_bytes, position + size_bytes)
        return bytes(content[position : position + size_bytes])

    tracemalloc.start()
    try:
        places = find_places(read_at, chunk)
        for row in range(30):
            if places.size_of(row) is not None:
                places.read(read_at, row)
    except ContentError:
        pass
    finally:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak_bytes < 4 << 20
    assert most_bytes <= chunk.start + chunk.stored_bytes
