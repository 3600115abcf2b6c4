"""A small, bounded reader for one kind of MATLAB file: a struct array with text and whole numbers in its fields.

    rows = read_struct_rows(content, variable="synsets", fields=("ILSVRC2012_ID", "WNID"), where="meta.mat")
    rows[0]                             # (1, "n02119789")

That is what the `meta.mat` of ImageNet's development kit is: MAT-file level 5, its one variable compressed with zlib.
Fields that are not asked for are skipped by their stored length, whatever they hold. Format: MathWorks, "MAT-File
Format", chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.shards.errors import DamageError

# The genuine meta.mat has about 1 MB and unpacks to a few.
MAX_UNPACKED_BYTES = 64 << 20
MAX_FIELDS = 256

_HEADER_BYTES = 128
_TAG_BYTES = 8
_MATRIX, _COMPRESSED = 14, 15
_STRUCT_CLASS, _CHAR_CLASS = 2, 4
_NUMBER_CLASSES = range(6, 16)
_INT32, _UINT32 = 5, 6
_NUMBER_CODES = {1: "b", 2: "B", 3: "h", 4: "H", _INT32: "i", _UINT32: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXT_WIDTHS = {1: 1, 2: 1, 16: 1, 3: 2, 4: 2, 17: 2, 18: 4}

Value = str | int


def read_struct_rows(content: bytes, *, variable: str, fields: tuple[str, ...], where: str) -> list[tuple[Value, ...]]:
    """Return the wanted fields of each element of a struct array, in stored order.

    Args:
        content: the whole file.
        variable: the array's name.
        fields: names of the wanted fields; each must hold one line of text or one whole number in every element.
        where: the file's name, for errors.

    Raises:
        DamageError: not such a file, no such variable or field, cut short, damaged, or over 64 MiB unpacked.
    """
    try:
        for element in _variables(content):
            matrix = _Matrix.open(element)
            if matrix.name == variable:
                return list(_struct_rows(matrix, fields=fields))
    except _RefusedError as error:
        raise DamageError(f"{where}: {error}; get the file again") from None
    raise DamageError(f"{where}: holds no variable {variable!r}; get the file again")


class _RefusedError(Exception):
    """What the file says is not what such a file can say."""


@dataclass(slots=True)
class _Elements:
    """The data elements that lie one behind the other in `content`; `order` is "<" or ">"."""

    content: memoryview
    order: str
    position: int = 0

    def next(self) -> tuple[int, memoryview]:
        """Return the next element's type and data."""
        tag, second = struct.unpack_from(f"{self.order}II", self._take(_TAG_BYTES))
        if tag >> 16:  # a small element: the length in the tag's upper half, up to 4 bytes of data right behind it
            kind, num_bytes = tag & 0xFFFF, tag >> 16
            if num_bytes > 4:
                raise _RefusedError(f"a small element of {num_bytes} bytes")
            return kind, self.content[self.position - 4 : self.position - 4 + num_bytes]
        data = self._take(second)
        if tag != _COMPRESSED:
            self.position = min(len(self.content), self.position + -second % 8)
        return tag, data

    def next_of(self, kind: int, *, what: str) -> memoryview:
        found, data = self.next()
        if found != kind:
            raise _RefusedError(f"{what} of type {found}, {kind} wanted")
        return data

    def _take(self, num_bytes: int) -> memoryview:
        piece = self.content[self.position : self.position + num_bytes]
        if len(piece) != num_bytes:
            raise _RefusedError("cut short")
        self.position += num_bytes
        return piece


@dataclass(slots=True)
class _Matrix:
    """An array's head; `body` stands at what follows it."""

    array_class: int
    shape: tuple[int, ...]
    name: str
    body: _Elements

    @classmethod
    def open(cls, element: _Elements) -> _Matrix:
        """Read the head of the array that `element` holds; one of no bytes at all is an empty array of numbers."""
        if not element.content:
            return cls(_NUMBER_CLASSES[0], (0, 0), "", element)
        flags = element.next_of(_UINT32, what="array flags")
        if len(flags) != 8:
            raise _RefusedError(f"array flags of {len(flags)} bytes")
        sides = element.next_of(_INT32, what="an array's shape")
        if len(sides) % 4 or not 8 <= len(sides) <= 128:
            raise _RefusedError(f"an array's shape of {len(sides)} bytes")
        shape = struct.unpack(f"{element.order}{len(sides) // 4}i", sides)
        if min(shape) < 0:
            raise _RefusedError(f"an array of shape {shape}")
        (word,) = struct.unpack_from(f"{element.order}I", flags)
        _, name = element.next()
        return cls(word & 0xFF, shape, _ascii(name), element)


def _variables(content: bytes) -> Iterator[_Elements]:
    """Yield the data of each variable, unpacked."""
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if len(content) < _HEADER_BYTES or order is None or struct.unpack_from(f"{order}H", content, 124)[0] != 0x0100:
        raise _RefusedError("not a MATLAB 5 file")
    outer = _Elements(memoryview(content), order, _HEADER_BYTES)
    left_bytes = MAX_UNPACKED_BYTES
    while outer.position < len(content):
        kind, data = outer.next()
        if kind == _COMPRESSED:
            unpacked = _unpack(data, max_bytes=left_bytes)
            left_bytes -= len(unpacked)
            kind, data = _Elements(memoryview(unpacked), order).next()
        if kind == _MATRIX:
            yield _Elements(data, order)


def _unpack(packed: memoryview, *, max_bytes: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(packed, max_bytes + 1)
    except zlib.error as error:
        raise _RefusedError(f"damaged ({error})") from None
    if len(unpacked) > max_bytes:
        raise _RefusedError(f"unpacks to more than {MAX_UNPACKED_BYTES} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise _RefusedError("cut short, or with something behind its end")
    return unpacked


def _struct_rows(matrix: _Matrix, *, fields: tuple[str, ...]) -> Iterator[tuple[Value, ...]]:
    if matrix.array_class != _STRUCT_CLASS:
        raise _RefusedError(f"{matrix.name!r} is no struct array")
    body = matrix.body
    stored = _field_names(body)
    for name in fields:
        if name not in stored:
            raise _RefusedError(f"{matrix.name!r} has no field {name!r}")
    # An element takes at least a tag for each of its fields: a shape of billions is a lie, found before any loop.
    if math.prod(matrix.shape) * len(stored) * _TAG_BYTES > len(body.content):
        raise _RefusedError(f"{matrix.name!r} is cut short: its shape is {matrix.shape}")
    for number in range(math.prod(matrix.shape)):
        row = dict.fromkeys(fields, _Elements(body.content[:0], body.order))
        for name in stored:
            data = body.next_of(_MATRIX, what=f"field {name!r}")
            if name in row:
                row[name] = _Elements(data, body.order)
        yield tuple(_value(element, what=f"{matrix.name}({number + 1}).{name}") for name, element in row.items())


def _field_names(body: _Elements) -> list[str]:
    """Return the names of a struct's fields: fixed-width texts, filled up with zero bytes."""
    width_bytes = body.next_of(_INT32, what="the length of field names")
    (width,) = struct.unpack(f"{body.order}i", width_bytes) if len(width_bytes) == 4 else (0,)
    _, names = body.next()
    if width < 1 or len(names) % width or not 1 <= len(names) // width <= MAX_FIELDS:
        raise _RefusedError(f"field names of {len(names)} bytes, {width} bytes each")
    return [_ascii(names[start : start + width]) for start in range(0, len(names), width)]


def _value(element: _Elements, *, what: str) -> Value:
    """Return a field's text or number."""
    matrix = _Matrix.open(element)
    if matrix.array_class == _CHAR_CLASS:
        if math.prod(matrix.shape) == 0:
            return ""
        if matrix.shape[0] != 1 or len(matrix.shape) != 2:
            raise _RefusedError(f"{what} is text of shape {matrix.shape}, one line wanted")
        kind, data = element.next()
        width = _TEXT_WIDTHS.get(kind)
        if width is None or len(data) % width:
            raise _RefusedError(f"{what} is text of type {kind} in {len(data)} bytes")
        codec = "utf-8" if width == 1 else f"utf-{8 * width}-{'le' if element.order == '<' else 'be'}"
        try:
            return str(data, codec)
        except UnicodeDecodeError:
            raise _RefusedError(f"{what} is not {codec}") from None
    if matrix.array_class not in _NUMBER_CLASSES or math.prod(matrix.shape) != 1:
        raise _RefusedError(f"{what} is neither text nor one number")
    kind, data = element.next()
    code = _NUMBER_CODES.get(kind)
    if code is None or len(data) != struct.calcsize(f"<{code}"):
        raise _RefusedError(f"{what} is a number of type {kind} in {len(data)} bytes")
    (number,) = struct.unpack(f"{element.order}{code}", data)
    if not math.isfinite(number) or number != int(number):
        raise _RefusedError(f"{what} is {number}, a whole number wanted")
    return int(number)


def _ascii(name: memoryview) -> str:
    return bytes(name).partition(b"\0")[0].decode("latin-1")
