"""Where each row's bytes lie in a column chunk of a Parquet file, so that one row is read without its row group.

    places = find_places(read_at, chunk)        # ContentError where rows cannot be had one by one
    places.size_of(17)                          # 109_576; None where the row has none
    places.read(read_at, 17)

The pages' headers are read, and in the pages the length in front of each value; values are skipped. That takes PLAIN
values, in data pages of either version or in a dictionary page, stored as they are or packed by Snappy into little less
than they were: what `datasets` writes, and has written, of images. (ImageNet-1k on the hub: groups of 100 rows, all of
them in the one dictionary page of 11 MB, Snappy. Since `datasets` 4: pages of a mebibyte, not packed.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.sources.parquet_headers import (
    DATA_PAGE,
    DICTIONARY_PAGE,
    PLAIN,
    PLAIN_DICTIONARY,
    RLE,
    RLE_DICTIONARY,
    ContentError,
    PageHeader,
    read_page_header,
    read_runs,
)
from data_prep.sources.parquet_snappy import ReadAt, SnappyBlocks, SnappyStream, unpack_snappy

MAX_ROWS = 1 << 20
MAX_NUMBERS_BYTES = 8 << 20
HEADER_BYTES = (1 << 10, 1 << 16, 1 << 20)

_MISSING, _AS_IT_IS = -2, -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A column of a row group, as the file's footer has it.

    Attributes:
        max_level: the definition level of a row that has bytes; 0 where none can be missing.
    """

    start: int
    stored_bytes: int
    num_rows: int
    is_snappy: bool
    max_level: int


class Places:
    """The places of a chunk's values, 16 bytes each.

    Args:
        rows: int64 (rows, 3): number of the table, or a kind; position; bytes.
    """

    def __init__(self, rows: npt.NDArray[np.int64], tables: list[SnappyBlocks]) -> None:
        self._kinds = rows[:, 0].astype(np.int32)
        self._positions = rows[:, 1].copy()
        self._sizes_bytes = rows[:, 2].astype(np.uint32)
        self._tables = tables
        self.memory_bytes = 1000 + 16 * len(rows) + sum(300 + table.starts.nbytes for table in tables)

    def size_of(self, row: int) -> int | None:
        """Return how many bytes a row has, None where it has no value."""
        return None if self._kinds[row] == _MISSING else int(self._sizes_bytes[row])

    def read(self, read_at: ReadAt, row: int) -> bytes:
        """Return the bytes of a row that has a value."""
        table, position, size_bytes = int(self._kinds[row]), int(self._positions[row]), int(self._sizes_bytes[row])
        if table == _AS_IT_IS:
            return read_at(position, size_bytes)
        return bytes(self._tables[table].unpack(read_at, position=position, size_bytes=size_bytes))


def find_places(read_at: ReadAt, chunk: Chunk) -> Places:
    """Go over a chunk's pages.

    Args:
        read_at: gives bytes at a position of the file; asked in rising order, save for a few of the last 64 KiB.

    Raises:
        ContentError: the chunk is of another kind, or damaged.
    """
    if not 0 <= chunk.num_rows <= MAX_ROWS:
        raise ContentError("too many rows")
    builder = _Builder(read_at, chunk)
    position, end = chunk.start, chunk.start + chunk.stored_bytes
    while builder.num_rows < chunk.num_rows:
        header, length = _header_at(read_at, position, end=end)
        position += length
        if position + header.stored_bytes > end:
            raise ContentError("a page goes on behind its column")
        builder.add_page(header, position)
        position += header.stored_bytes
    return Places(np.concatenate([*builder.pages, np.zeros((0, 3), np.int64)]), builder.tables)


def _header_at(read_at: ReadAt, position: int, *, end: int) -> tuple[PageHeader, int]:
    told: ContentError | None = None
    for size_bytes in HEADER_BYTES:
        try:
            return read_page_header(read_at(position, min(size_bytes, end - position)))
        except ContentError as error:
            told = error
    raise told or ContentError("no header")


class _Builder:
    """The pages gone over so far."""

    def __init__(self, read_at: ReadAt, chunk: Chunk) -> None:
        self._read_at = read_at
        self._chunk = chunk
        self._dictionary: npt.NDArray[np.int64] | None = None
        self.pages: list[npt.NDArray[np.int64]] = []
        self.tables: list[SnappyBlocks] = []
        self.num_rows = 0

    def add_page(self, header: PageHeader, position: int) -> None:
        if header.num_values > self._chunk.num_rows - self.num_rows:
            raise ContentError("more values than rows")
        is_dictionary = header.kind == DICTIONARY_PAGE
        body = self._body(header, position, is_plain=is_dictionary or header.encoding == PLAIN)
        if is_dictionary:
            if self._dictionary is not None or header.encoding not in (PLAIN, PLAIN_DICTIONARY):
                raise ContentError("a dictionary of another kind")
            self._dictionary = self._values(body, num_values=header.num_values)
            return
        is_present = self._levels(body, header, position)
        num_values = int(is_present.sum())
        if header.encoding == PLAIN:
            values = self._values(body, num_values=num_values)
        elif header.encoding in (RLE_DICTIONARY, PLAIN_DICTIONARY) and self._dictionary is not None:
            values = self._dictionary[self._numbers(body, num_values=num_values)]
        else:
            raise ContentError("values of another encoding")
        rows = np.zeros((header.num_values, 3), dtype=np.int64)
        rows[:, 0] = _MISSING
        rows[is_present] = values
        self.pages.append(rows)
        self.num_rows += header.num_values

    def _body(self, header: PageHeader, position: int, *, is_plain: bool) -> _Body:
        before = header.levels_bytes or 0
        stored_bytes, unpacked_bytes = header.stored_bytes - before, header.unpacked_bytes - before
        if stored_bytes < 0 or unpacked_bytes < 0:
            raise ContentError("levels longer than their page")
        start, read_at = position + before, self._read_at
        if not (self._chunk.is_snappy and header.is_compressed and stored_bytes):
            if stored_bytes != unpacked_bytes:
                raise ContentError("not packed, yet of another length")
            return _Body(read_at, start=start, end=start + stored_bytes)
        if not is_plain:
            content = unpack_snappy(read_at(start, _checked(stored_bytes)), _checked(unpacked_bytes))
            return _Body(lambda at, num_bytes: bytes(content[at : at + num_bytes]), start=0, end=unpacked_bytes)
        stream = SnappyStream(read_at, start=start, stored_bytes=stored_bytes, unpacked_bytes=unpacked_bytes)
        return _Body(stream.peek, start=0, end=unpacked_bytes, stream=stream)

    def _levels(self, body: _Body, header: PageHeader, position: int) -> npt.NDArray[np.bool_]:
        """Tell which rows have a value, and let the body go on behind that."""
        max_level = self._chunk.max_level
        if max_level == 0:
            if header.levels_bytes:
                raise ContentError("levels where none belong")
            return np.ones(header.num_values, dtype=np.bool_)
        if header.kind == DATA_PAGE:
            if header.levels_encoding != RLE:
                raise ContentError("levels of another encoding")
            levels = body.take(_checked(int.from_bytes(body.take(4), "little")))
        else:
            levels = self._read_at(position, _checked(header.levels_bytes or 0))
        found = read_runs(levels, width=max_level.bit_length(), num_values=header.num_values)
        is_present: npt.NDArray[np.bool_] = found == max_level
        return is_present

    def _values(self, body: _Body, *, num_values: int) -> npt.NDArray[np.int64]:
        """Return the places of a page's PLAIN values, which go on to its end."""
        places = np.zeros((num_values, 3), dtype=np.int64)
        for number in range(num_values):
            size_bytes = int.from_bytes(body.take(4), "little")
            places[number, 1:] = body.position, size_bytes
            body.skip(size_bytes)
        if body.position != body.end:
            raise ContentError("bytes behind the last value")
        if body.stream is None:
            places[:, 0] = _AS_IT_IS
        else:
            places[:, 0] = len(self.tables)
            self.tables.append(body.stream.finish())
        return places

    def _numbers(self, body: _Body, *, num_values: int) -> npt.NDArray[np.int32]:
        assert self._dictionary is not None
        if num_values == 0:
            return np.zeros(0, dtype=np.int32)
        content = body.take(_checked(body.end - body.position))
        numbers = read_runs(content[1:], width=content[0] if content else 0, num_values=num_values)
        if numbers.max() >= len(self._dictionary):
            raise ContentError("a number that is not in the dictionary")
        return numbers


class _Body:
    """A page's bytes, unpacked, taken from front to back; positions are the file's own where nothing is packed."""

    def __init__(self, read_at: ReadAt, *, start: int, end: int, stream: SnappyStream | None = None) -> None:
        self._read_at = read_at
        self.position, self.end = start, end
        self.stream = stream

    def take(self, size_bytes: int) -> bytes:
        position = self.position
        self.skip(size_bytes)
        return self._read_at(position, size_bytes)

    def skip(self, size_bytes: int) -> None:
        if size_bytes > self.end - self.position:
            raise ContentError("cut short")
        self.position += size_bytes


def _checked(size_bytes: int) -> int:
    if size_bytes > MAX_NUMBERS_BYTES:
        raise ContentError("levels or numbers too long")
    return size_bytes
