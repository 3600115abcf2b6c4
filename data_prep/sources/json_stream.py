"""Large JSON files read an element at a time, so that memory does not grow with the file.

    for field, number, value in iterate_fields(store_pieces, where="instances_val2017.json"):
        ...     # ("images", 0, {"id": 139, ...}), ("images", 1, {...}), ..., ("annotations", 0, {...}), ...

The file is one object; the elements of its arrays come one by one, its other fields whole. For 490 MB in the form
of COCO's training annotations json.load took 30 s and 3.4 GB on a busy core, this 15 s and 57 MB: the standard
library's C scanner does the work in both.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from pipeline.shards.errors import UserError

MAX_VALUE_CHARS = 16 << 20
_SPACE = " \t\n\r"


def iterate_fields(pieces: Iterator[bytes], *, where: str) -> Iterator[tuple[str, int | None, Any]]:
    """Yield (field, number, value) for each element of the object's arrays, and (field, None, value) for other values.

    An empty array is yielded as (field, None, []), so that it can be told from a missing one.

    Args:
        pieces: the file's bytes in order, cut anywhere.
        where: the file's name, for errors.

    Raises:
        UserError: not one JSON object in UTF-8, a field that stands twice, a value of more than 16 million characters
            or one nested too deep.
    """
    window = _Window(pieces, where=where)
    window.expect("{")
    seen: set[str] = set()
    for _ in window.elements("}"):
        field = window.value()
        if not isinstance(field, str):
            raise window.fault("a field's name in quotes wanted")
        if field in seen:
            raise window.fault(f"the field {field[:50]!r} stands there twice")
        seen.add(field)
        window.expect(":")
        if not window.skip("["):
            yield field, None, window.value()
            continue
        number: int | None = None
        for number in window.elements("]"):
            yield field, number, window.value()
        if number is None:
            yield field, None, []
    if window.peek():
        raise window.fault("something follows the object's end")


class _Window:
    """The part of the text that is not read yet, as far as it has come in."""

    def __init__(self, pieces: Iterator[bytes], *, where: str) -> None:
        self._pieces = pieces
        self._where = where
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._parse = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._ended = False
        self._num_dropped = 0

    def fault(self, what: str) -> UserError:
        return UserError(f"{self._where}: character {self._num_dropped + self._at:,}: {what}; get the file again")

    def peek(self) -> str:
        """Return the next character that is no space, without taking it; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._read_on()

    def skip(self, char: str) -> bool:
        """Take the next character if it is `char`."""
        if self.peek() != char:
            return False
        self._at += 1
        return True

    def expect(self, char: str) -> None:
        if not self.skip(char):
            raise self.fault(f"{char!r} wanted, got {self.peek()!r}" if self.peek() else "cut short")

    def elements(self, closing: str) -> Iterator[int]:
        """Yield the number of each element up to `closing`, which is taken; the caller takes the element."""
        number = 0
        while number or not self.skip(closing):
            yield number
            number += 1
            if self.skip(closing):
                return
            self.expect(",")

    def value(self) -> Any:
        """Take one value whole."""
        self.peek()
        while True:
            problem = None
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError as error:
                problem = error.msg
            except (ValueError, RecursionError) as error:
                raise self.fault(f"cannot be read ({error})") from None
            # A number may go on after the window's end; `e+1` is the longest that shows whether it does.
            if problem is None and (end + 3 <= len(self._text) or self._ended):
                self._at = end
                return value
            if self._ended:
                raise self.fault(f"cut short or not JSON ({problem})")
            if len(self._text) - self._at > MAX_VALUE_CHARS:
                raise self.fault(f"not JSON, or a value of more than {MAX_VALUE_CHARS:,} characters ({problem})")
            self._read_on()

    def _read_on(self) -> None:
        """Drop what was taken and at least double what is left, so that scanning it again costs little."""
        wanted = 2 * (len(self._text) - self._at)
        parts = [self._text[self._at :]]
        length = len(parts[0])
        self._num_dropped += self._at
        self._at = 0
        try:
            while length <= wanted and not self._ended:
                piece = next(self._pieces, b"")
                self._ended = not piece
                parts.append(self._decode(piece, final=self._ended))
                length += len(parts[-1])
        except UnicodeDecodeError as error:
            raise self.fault(f"not UTF-8 ({error.reason})") from None
        self._text = "".join(parts)
