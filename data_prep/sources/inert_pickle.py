"""A reader for the pickles of CIFAR's python archives that never runs anything.

    >>> read_pickle(b"\\x80\\x02}q\\x00U\\x06labelsq\\x01]q\\x02(K\\x06K\\x09es.", where="data_batch_1")
    {b'labels': [6, 9]}

A pickle is a program for a small stack machine. This one knows only the operations that such files need, and nothing
in it imports or calls: a name like `numpy.core.multiarray._reconstruct` becomes an inert node, and the few known shapes
of nodes (an array of uint8, a byte string by way of `_codecs.encode`) become values here. Every other operation or
name is an error that names it.

Python 2's strings and Python 3's bytes come out as bytes, unicode as str. Reads protocols 2 to 5, as Python 2 (the
genuine archives) and Python 3 write them. Operations: the standard library's pickletools.py.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.shards.errors import DamageError

# A genuine CIFAR-100 training file has about 350,000 operations; each makes at most one small object.
MAX_OPERATIONS = 2_000_000
MAX_DIMENSIONS = 4
_MAX_INT_BYTES = 8

_ARRAY_TYPE = "numpy.ndarray"
_DTYPE = "numpy.dtype"
_EMPTY_ARRAY = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_ARRAY_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_ENCODE = "_codecs.encode"
_BYTES = ("__builtin__.bytes", "builtins.bytes")
_OPERATION_NAMES = {operation.code: operation.name for operation in pickletools.opcodes}
KNOWN_NAMES = frozenset((_ARRAY_TYPE, _DTYPE, _ENCODE, *_EMPTY_ARRAY, *_ARRAY_FROM_BUFFER, *_BYTES))


def read_pickle(content: bytes, *, where: str) -> Any:
    """Return the value that a pickle describes: dict, list, tuple, int, bool, None, bytes, str or uint8 arrays.

    Memory is bounded by a small multiple of `len(content)` and of MAX_OPERATIONS; nothing recurses. Arrays are
    read-only views of the pickle's own bytes.

    Args:
        content: the whole pickle; bytes after its end are an error.
        where: the file's name, for errors.

    Raises:
        DamageError: anything else than the above, naming the operation or the name it asks for.
    """
    machine = _Machine(content)
    try:
        return machine.run()
    except (_RefusedError, ValueError, IndexError, TypeError, OverflowError) as error:
        reason = str(error) if isinstance(error, _RefusedError) else "not a well-formed pickle"
        raise DamageError(f"{where}: byte {machine.position}: {reason}; nothing in it was run") from None


class _RefusedError(Exception):
    """What the pickle asks for is not done."""


@dataclass(slots=True, eq=False)
class _Node:
    """An inert stand-in for a name, or for an object that a later BUILD completes."""

    name: str
    memo_slots: list[int] = field(default_factory=list)


class _Machine:
    """Stack, marks and memo of one pickle."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.encoded_bytes = 0

    def run(self) -> Any:
        for _ in range(MAX_OPERATIONS):
            code = self.take(1)
            operation = _OPERATIONS.get(code)
            if code == b".":
                if len(self.stack) != 1 or self.marks or self.position != len(self.content):
                    raise _RefusedError("the pickle ends with things left over")
                if isinstance(self.stack[0], _Node):
                    raise _RefusedError(f"describes a bare {self.stack[0].name}")
                return self.stack[0]
            if operation is None:
                raise _RefusedError(f"operation {_OPERATION_NAMES.get(code.decode('latin-1'), code)} refused")
            operation(self)
        raise _RefusedError(f"more than {MAX_OPERATIONS} operations")

    def take(self, num_bytes: int) -> bytes:
        piece = self.content[self.position : self.position + num_bytes]
        if len(piece) != num_bytes:
            raise _RefusedError("cut short")
        self.position += num_bytes
        return piece

    def take_uint(self, num_bytes: int) -> int:
        return int.from_bytes(self.take(num_bytes), "little")

    def take_line(self) -> str:
        end = self.content.index(b"\n", self.position, self.position + 200)
        return self.take(end + 1 - self.position)[:-1].decode("ascii")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _RefusedError("takes from an empty stack")
        return self.stack.pop()

    def pop_many(self, count: int) -> tuple[Any, ...]:
        return tuple([self.pop() for _ in range(count)][::-1])

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def put(self, slot: int) -> None:
        value = self.stack[-1]
        if isinstance(value, _Node):
            value.memo_slots.append(slot)
        self.memo[slot] = value

    def get(self, slot: int) -> None:
        if slot not in self.memo:
            raise _RefusedError(f"memo entry {slot} was never written")
        self.push(self.memo[slot])

    def take_int(self, num_bytes: int) -> None:
        if num_bytes > _MAX_INT_BYTES:
            raise _RefusedError(f"an integer of {num_bytes} bytes")
        self.push(int.from_bytes(self.take(num_bytes), "little", signed=True))

    def take_text(self, num_bytes: int) -> None:
        self.push(self.take(num_bytes).decode("utf-8"))

    def take_protocol(self) -> None:
        version = self.take_uint(1)
        if not 2 <= version <= 5:
            raise _RefusedError(f"pickle protocol {version}, 2 to 5 are read")

    def take_frame(self) -> None:
        if self.take_uint(8) > len(self.content) - self.position:
            raise _RefusedError("cut short")

    def extend_list(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise _RefusedError(f"appends to a {type(target).__name__}")
        target.extend(values)

    def extend_dict(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise _RefusedError(f"sets items of a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, bytes | str):
                raise _RefusedError(f"a dict key of type {type(key).__name__}")
            target[key] = value

    def push_name(self, name: str) -> None:
        if name not in KNOWN_NAMES:
            raise _RefusedError(f"asks for {name[:100]!r}, which no image archive needs; refused")
        self.push(_Node(name))

    def stack_name(self) -> None:
        module, name = self.pop_many(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise _RefusedError("a name that is not text")
        self.push_name(f"{module[:100]}.{name[:100]}")

    def reduce(self) -> None:
        """What would be a call: the known names with the known arguments become values or nodes."""
        called, arguments = self.pop_many(2)
        if not isinstance(called, _Node) or not isinstance(arguments, tuple):
            raise _RefusedError("a call of something that is not a name")
        match called.name, arguments:
            case "_codecs.encode", (str(text), "latin1" | "latin-1"):
                self.encoded_bytes += len(text)
                if self.encoded_bytes > len(self.content):
                    raise _RefusedError("unpacks the same text again and again")
                self.push(text.encode("latin-1"))
            case (("__builtin__.bytes" | "builtins.bytes"), ()):
                self.push(b"")
            case "numpy.dtype", (("u1" | b"u1"), *_):
                self.push(_Node("dtype u1"))
            case "numpy.dtype", (str(kind) | bytes(kind), *_):
                raise _RefusedError(f"an array of {kind[:20]!r}, uint8 ('u1') wanted")
            case name, (_Node(name="numpy.ndarray"), *_) if name in _EMPTY_ARRAY:
                self.push(_Node("array"))
            case name, (bytes(buffer), _Node(name="dtype u1"), tuple(shape), str(order)) if name in _ARRAY_FROM_BUFFER:
                self.push(_uint8_array(buffer, shape, fortran_order=order == "F"))
            case name, _:
                raise _RefusedError(f"a call of {name} with unknown arguments; refused")

    def build(self) -> None:
        """Complete a node; what the memo holds of it is completed too."""
        node, state = self.pop_many(2)
        match node, state:
            case _Node(name="dtype u1"), (int(), str() | bytes(), None, None, None, *_):
                self.push(node)
            case _Node(name="array"), (int(), tuple(shape), _Node(name="dtype u1"), fortran_order, bytes(buffer)):
                array = _uint8_array(buffer, shape, fortran_order=bool(fortran_order))
                for slot in node.memo_slots:
                    if self.memo[slot] is node:
                        self.memo[slot] = array
                node.memo_slots.clear()
                self.push(array)
            case _:
                raise _RefusedError("builds something else than an array of uint8; refused")


def _uint8_array(buffer: bytes, shape: tuple[Any, ...], *, fortran_order: bool) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if len(shape) > MAX_DIMENSIONS or not all(type(length) is int and length >= 0 for length in shape):
        raise _RefusedError("an array of impossible shape")
    if math.prod(shape) != len(buffer):
        raise _RefusedError(f"an array of shape {shape} from {len(buffer)} bytes")
    return np.frombuffer(buffer, dtype=np.uint8).reshape(shape, order="F" if fortran_order else "C")


def _pushed(value: Any) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(value)


_OPERATIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.take_protocol,
    b"\x95": _Machine.take_frame,
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"N": _pushed(None),
    b"\x88": _pushed(True),
    b"\x89": _pushed(False),
    b"K": lambda m: m.push(m.take_uint(1)),
    b"M": lambda m: m.push(m.take_uint(2)),
    b"J": lambda m: m.take_int(4),
    b"\x8a": lambda m: m.take_int(m.take_uint(1)),  # LONG1
    b"U": lambda m: m.push(m.take(m.take_uint(1))),  # SHORT_BINSTRING, Python 2's str
    b"T": lambda m: m.push(m.take(m.take_uint(4))),  # BINSTRING
    b"C": lambda m: m.push(m.take(m.take_uint(1))),  # SHORT_BINBYTES
    b"B": lambda m: m.push(m.take(m.take_uint(4))),  # BINBYTES
    b"\x8e": lambda m: m.push(m.take(m.take_uint(8))),  # BINBYTES8
    b"\x96": lambda m: m.push(m.take(m.take_uint(8))),  # BYTEARRAY8
    b"\x8c": lambda m: m.take_text(m.take_uint(1)),  # SHORT_BINUNICODE
    b"X": lambda m: m.take_text(m.take_uint(4)),  # BINUNICODE
    b"\x8d": lambda m: m.take_text(m.take_uint(8)),  # BINUNICODE8
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b")": lambda m: m.push(()),
    b"a": lambda m: m.extend_list([m.pop()]),
    b"e": lambda m: m.extend_list(m.pop_to_mark()),
    b"s": lambda m: m.extend_dict(list(m.pop_many(2))),
    b"u": lambda m: m.extend_dict(m.pop_to_mark()),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"\x85": lambda m: m.push(m.pop_many(1)),
    b"\x86": lambda m: m.push(m.pop_many(2)),
    b"\x87": lambda m: m.push(m.pop_many(3)),
    b"q": lambda m: m.put(m.take_uint(1)),  # BINPUT
    b"r": lambda m: m.put(m.take_uint(4)),  # LONG_BINPUT
    b"\x94": lambda m: m.put(len(m.memo)),  # MEMOIZE
    b"h": lambda m: m.get(m.take_uint(1)),  # BINGET
    b"j": lambda m: m.get(m.take_uint(4)),  # LONG_BINGET
    b"c": lambda m: m.push_name(f"{m.take_line()}.{m.take_line()}"),  # GLOBAL
    b"\x93": _Machine.stack_name,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}
