"""Many files named at once: by a folder, by one file, or by braces as in a shell.

    expand_braces("web/train-{000..002}.tar")           # ["web/train-000.tar", "web/train-001.tar", ...]
    store, files = find_files("web/train-{000..002}.tar", extension=".tar", what="tars")
    split_of_name("data/validation-00000-of-00014.parquet")     # "val"

Braces serve where nothing can be listed (http), or where a folder holds more than is wanted.
"""

from __future__ import annotations

import re

from data_prep.sources.classes import split_location
from data_prep.sources.image_sizes import ImageSizes
from pipeline.shards.errors import UserError
from pipeline.storage import Store, StoredFile, open_store

MAX_FILES = 1_000_000
MAX_DEPTH = 10
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})\}")
_OUTSIDE, _INSIDE = re.compile(r"[^{}]+"), re.compile(r"[^{},]+")
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
_FIRST_WORD = re.compile(r"[A-Za-z]+")


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern stands for: {000..123} counts with leading zeros, {a,b{1..2}} lists.

    Raises:
        UserError: braces that do not close, or that hold something else, or more than a million names.
    """
    names, end = _expand(pattern, 0, depth=0)
    assert end == len(pattern)
    return names


def _expand(pattern: str, at: int, *, depth: int) -> tuple[list[str], int]:
    """Return what the pattern stands for from `at` on, and where that ends: inside braces at their next , or }."""
    names = [""]
    while at < len(pattern) and not (depth and pattern[at] in ",}"):
        if pattern[at] == "{":
            choices, at = _choices(pattern, at + 1, depth=depth + 1)
        elif literal := (_INSIDE if depth else _OUTSIDE).match(pattern, at):
            choices, at = [literal[0]], literal.end()
        else:
            raise UserError(f"{pattern}: a closing brace without an opening one")
        if len(names) * len(choices) > MAX_FILES:
            raise UserError(f"{pattern}: stands for more than {MAX_FILES:,} names")
        names = [name + choice for name in names for choice in choices]
    return names, at


def _choices(pattern: str, at: int, *, depth: int) -> tuple[list[str], int]:
    """Return what the braces that were opened just before `at` stand for, and where they end."""
    if counted := _RANGE.match(pattern, at):
        first, last = int(counted[1]), int(counted[2])
        if 0 <= last - first < MAX_FILES:
            return [f"{number:0{len(counted[1])}d}" for number in range(first, last + 1)], counted.end()
        raise UserError(
            f"{pattern}: {{{counted[0]}: the smaller number first, and at most {MAX_FILES:,} of them wanted"
        )
    if depth > MAX_DEPTH:
        raise UserError(f"{pattern}: over {MAX_DEPTH} braces inside each other")
    choices: list[str] = []
    num_parts = 0
    while True:
        part, at = _expand(pattern, at, depth=depth)
        choices += part
        if len(choices) > MAX_FILES:
            raise UserError(f"{pattern}: stands for more than {MAX_FILES:,} names")
        num_parts += 1
        if at == len(pattern):
            raise UserError(f"{pattern}: braces that do not close")
        at += 1
        if pattern[at - 1] == "}":
            break
    if num_parts == 1:
        raise UserError(f"{pattern}: {{{choices[0][:50]}}}: {{000..123}} or {{a,b}} wanted")
    return choices, at


def find_files(root: str, *, extension: str, what: str, option: str = "source.root") -> tuple[Store, list[StoredFile]]:
    """Return the files that `root` names, sorted by name but for braces, whose order is kept.

    Args:
        root: a folder or URL, one file of the extension, or a pattern with braces.
        extension: with its dot; a folder's other files are left out.
        what: what is looked for, for errors.
        option: what the user calls `root`, for errors.

    Raises:
        UserError: there is none, or one of those named is missing.
    """
    if "{" not in root and not root.endswith(extension):
        store = open_store(root)
        files = [file for file in store.list_files() if file.name.endswith(extension)]
        if not files:
            raise UserError(f"{option}={root}: no {what} there (*{extension}); correct {option}")
        return store, files
    before = root.partition("{")[0]
    folder, _ = split_location(before)
    start = len(before) - len(split_location(before)[1])
    store = open_store(folder)
    names = expand_braces(root[start:])
    sizes_bytes = ImageSizes(store)(names)
    missing = [name for name, size_bytes in zip(names, sizes_bytes, strict=True) if size_bytes is None]
    if missing:
        raise UserError(
            f"{option}={root}: {len(missing):,} of {len(names):,} {what} are not there, such as"
            f" {store.location}/{missing[0]}; correct {option}"
        )
    return store, [
        StoredFile(name=name, size_bytes=size_bytes or 0) for name, size_bytes in zip(names, sizes_bytes, strict=True)
    ]


def split_of_name(name: str) -> str | None:
    """Return the split that a file's name or else one of its folders names, innermost first; None where none does."""
    for part in reversed(name.split("/")):
        word = _FIRST_WORD.match(part)
        if word and word[0].lower() in _SPLIT_WORDS:
            return _SPLIT_WORDS[word[0].lower()]
    return None


def split_order(split: str) -> tuple[int, str]:
    """Return a key that sorts splits: train, val, then the others by name."""
    return {"train": 0, "val": 1}.get(split, 2), split
