"""Class names that strangers wrote: from a file of one a line, or from the labels that a collection uses.

classes = read_classes_file("names.txt")        # ("cat", "dog"): labels are these names, or their numbers 0 and 1
classes = classes_of_labels({"10", "9", "8"})   # ("8", "9", "10"): sorted as numbers where all are numbers
numbers = label_numbers(classes, numbers_too=True)
numbers["dog"], numbers["1"]                    # (1, 1)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from data_prep.sources.spelling import shown
from pipeline.shards.errors import UserError
from pipeline.storage import open_store

MAX_CLASSES = 100_000
MAX_NAME_CHARS = 1000
_MAX_FILE_BYTES = 64 << 20
# What breaks a line, and halves of surrogate pairs, which no UTF-8 can store.
_NOT_IN_NAMES = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")


def is_name(value: Any) -> bool:
    """Tell whether a value can be a class name: text of 1 to 1,000 characters that shows on one line."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS and not _NOT_IN_NAMES.search(value)


def checked_classes(names: Iterable[Any], *, where: str) -> tuple[str, ...]:
    """Return class names as they are.

    Raises:
        UserError: none or more than 100,000, one that is no name, or one that stands twice.
    """
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        if number == MAX_CLASSES:
            raise UserError(f"{where}: more than {MAX_CLASSES:,} classes; refused")
        if not is_name(name):
            raise UserError(
                f"{where}: class {number} is {shown(name)}; one line of 1 to {MAX_NAME_CHARS} characters wanted"
            )
        if first.setdefault(name, number) != number:
            raise UserError(f"{where}: classes {first[name]} and {number} are both called {name!r}; rename one")
    if not first:
        raise UserError(f"{where}: no class in it")
    return tuple(first)


def read_classes_file(location: str, *, option: str = "source.classes") -> tuple[str, ...]:
    """Read a file of class names, one a line; the line's number, from 0, is the class number.

    Args:
        location: a path or a URL.
        option: what the user calls it, for errors.

    Raises:
        UserError: as `checked_classes`, or the file is missing or not UTF-8.
    """
    folder, name = split_location(location)
    store = open_store(folder)
    if store.size_of(name) is None:
        raise UserError(f"{option}={location}: no such file; one class name a line is wanted in it")
    try:
        text = store.read_bytes(name, max_bytes=_MAX_FILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{option}={location}: not UTF-8 ({error}); save it as UTF-8") from None
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    return checked_classes(lines, where=f"{option}={location}")


def classes_of_labels(labels: Collection[str]) -> tuple[str, ...]:
    """Return the distinct labels as class names: in the order of numbers where all are plain numbers, else of text."""
    if all(map(is_number, labels)):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def numbered_classes(largest: int, *, where: str) -> tuple[str, ...]:
    """Return "0", "1", ... up to the largest class number that is in use, for a collection without names.

    Raises:
        UserError: that would be more than 100,000 classes.
    """
    if largest >= MAX_CLASSES:
        raise UserError(f"{where}: class number {largest}, over the {MAX_CLASSES:,} classes that can be; refused")
    return tuple(map(str, range(largest + 1)))


def label_numbers(classes: tuple[str, ...], *, numbers_too: bool) -> dict[str, int]:
    """Return the class number of each label: of each name, and with `numbers_too` of "0", "1", ... that are no name."""
    numbers = {str(number): number for number in range(len(classes))} if numbers_too else {}
    return numbers | {name: number for number, name in enumerate(classes)}


def is_number(label: str) -> bool:
    """Tell whether a label is a whole number from 0 in plain digits, of a length that int() takes."""
    return label.isascii() and label.isdecimal() and len(label) < 19


def split_location(location: str) -> tuple[str, str]:
    """Return the folder and the name of a file given by its path or URL: ("s3://b/c", "d.csv"), (".", "d.csv")."""
    folder, slash, name = location.rpartition("/")
    return (folder or ("/" if slash else ".")), name
