"""The headers of a Parquet column's pages, and the levels and dictionary numbers at the front of a page.

    header, length = read_page_header(content)      # ContentError where `content` is too short to hold it
    header.kind, header.num_values, header.stored_bytes     # (DATA_PAGE, 100, 11_308_922)
    read_runs(content, width=2, num_values=100)             # the hybrid of runs and packed groups, as numbers

Thrift's compact protocol as far as page headers need it (parquet.thrift and Encodings.md of apache/parquet-format).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8

MAX_DEPTH = 8
_PIECE_VALUES = 8192
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


class ContentError(ValueError):
    """Bytes that are not what they should be, or too few of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageHeader:
    """What precedes a page.

    Attributes:
        stored_bytes: of the page as it lies in the file, without this header.
        unpacked_bytes: of the page without compression.
        levels_bytes: of the levels in front of a DATA_PAGE_V2, never compressed; None for others.
        is_compressed: by the column's codec, if that is one.
    """

    kind: int
    stored_bytes: int
    unpacked_bytes: int
    num_values: int
    encoding: int
    levels_encoding: int
    levels_bytes: int | None
    is_compressed: bool


def read_page_header(content: bytes) -> tuple[PageHeader, int]:
    """Return the page header at the start of `content`, and its length in bytes.

    Raises:
        ContentError: it is none, or longer than `content`.
    """
    reader = _Compact(content)
    fields = reader.struct(0)
    kind = _number(fields, 1)
    inner = fields.get({DATA_PAGE: 5, DICTIONARY_PAGE: 7, DATA_PAGE_V2: 8}.get(kind, 0))
    if not isinstance(inner, dict):
        raise ContentError(f"a page of kind {kind}")
    is_v2 = kind == DATA_PAGE_V2
    header = PageHeader(
        kind=kind,
        stored_bytes=_number(fields, 3),
        unpacked_bytes=_number(fields, 2),
        num_values=_number(inner, 1),
        encoding=_number(inner, 4 if is_v2 else 2),
        levels_encoding=_number(inner, 3) if kind == DATA_PAGE else RLE,
        levels_bytes=_number(inner, 5) + _number(inner, 6) if is_v2 else None,
        is_compressed=inner.get(7, True) is not False if is_v2 else True,
    )
    return header, reader.position


def _number(fields: dict[int, Any], key: int) -> int:
    value = fields.get(key)
    if type(value) is not int or value < 0:
        raise ContentError(f"field {key} is {value}")
    return value


class _Compact:
    """A cursor over a value in Thrift's compact protocol."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.position = 0

    def struct(self, depth: int) -> dict[int, Any]:
        """Return the fields of a struct by their numbers."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ContentError("nested too deep")
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind in (_DOUBLE, _BINARY):
            self._skip(8 if kind == _DOUBLE else self._varint())
            return None
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
                self._value(head & 15, depth + 1)
            return None
        raise ContentError(f"a field of type {kind}")  # maps stand in no page header

    def _byte(self) -> int:
        self._skip(1)
        return self._content[self.position - 1]

    def _skip(self, num_bytes: int) -> None:
        self.position += num_bytes
        if self.position > len(self._content):
            raise ContentError("cut short")

    def _varint(self) -> int:
        value, self.position = read_varint(self._content, self.position)
        return value

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)


def read_varint(content: bytes, position: int) -> tuple[int, int]:
    """Return the little-endian base-128 number at `position`, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise ContentError("cut short")
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ContentError("a number of more than 64 bits")


def read_runs(content: bytes, *, width: int, num_values: int) -> npt.NDArray[np.int32]:
    """Return numbers of `width` bits from the hybrid of runs and bit-packed groups of eight.

    Raises:
        ContentError: they are fewer than `num_values`.
    """
    if not 0 <= width <= 31:
        raise ContentError(f"numbers of {width} bits")
    values = np.zeros(num_values, dtype=np.int32)
    done = position = 0
    while done < num_values:
        head, position = read_varint(content, position)
        count = min(head >> 1 if not head & 1 else (head >> 1) * 8, num_values - done)
        if count == 0:
            raise ContentError("a run of nothing")
        num_bytes = (count * width + 7) // 8 if head & 1 else (width + 7) // 8
        piece = content[position : position + num_bytes]
        if len(piece) < num_bytes:
            raise ContentError("cut short")
        if head & 1:
            _unpack_bits(piece, width=width, into=values[done : done + count])
            num_bytes = (head >> 1) * width
        else:
            values[done : done + count] = int.from_bytes(piece, "little") & 0x7FFFFFFF
        position += num_bytes
        done += count
    return values


def _unpack_bits(content: bytes, *, width: int, into: npt.NDArray[np.int32]) -> None:
    """Fill an array with packed numbers, some thousands at a time as each takes five bytes a bit meanwhile."""
    weights = np.int32(1) << np.arange(width, dtype=np.int32)
    packed = np.frombuffer(content, dtype=np.uint8)
    for start in range(0, len(into), _PIECE_VALUES):
        count = min(_PIECE_VALUES, len(into) - start)
        bits = np.unpackbits(packed[start * width // 8 :], bitorder="little", count=count * width)
        into[start : start + count] = bits.reshape(count, width) @ weights
