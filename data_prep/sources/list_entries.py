"""Lists of image files, a line an image, read as a stream: 10 million lines take no more memory than ten.

    path,label,split                    {"path": "cats/1.jpg", "label": "cat", "split": "train"}
    cats/1.jpg,cat,train                {"path": "zoo.jpg", "labels": ["cat", "dog"], "box": [10, 20, 64, 48]}

    for entry in csv_entries(stream, where="labels.csv"):
        entry.path, entry.labels, entry.split, entry.line       # ("cats/1.jpg", "cat", "train", 2)

CSV has a header; the columns may stand in any order, and others are left out. JSON lines have `label`, or `labels` for
any number of them, or `targets`, an object of numbers by name; and may have `box`: left, top, width and height in whole
pixels.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from data_prep.sources.classes import is_name
from data_prep.sources.spelling import is_utf8, shown
from pipeline.shards.errors import UserError
from pipeline.storage.base import check_name

MAX_LINE_BYTES = 1 << 20
MAX_PATH_CHARS = 4096
MAX_LABELS = 10_000
MAX_PIXELS = 1 << 24
MAX_SINGLE = 3.4028234663852886e38
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}")
SAME_AS_VAL = ("validation", "valid", "dev")


class Entry(NamedTuple):
    """One line of a list: `labels` is a text for one label, a list for several, or targets by name.

    `split` may be None.
    """

    line: int
    path: str
    labels: str | list[str] | dict[str, float]
    split: str | None
    box: tuple[int, int, int, int] | None


def csv_entries(stream: BinaryIO, *, where: str) -> Iterator[Entry]:
    """Yield the rows of a CSV file with a header that names `path`, `label` and perhaps `split`.

    Raises:
        UserError: naming the line, for anything else.
    """
    reader = csv.reader(_text_lines(stream, where=where), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        for name in ("path", "label"):
            if header.count(name) != 1:
                raise UserError(
                    f"{where}: the first line is {','.join(header)[:100]!r}; the names of the columns are wanted in it,"
                    " as in path,label or path,label,split"
                )
        path_at, label_at = header.index("path"), header.index("label")
        split_at = header.index("split") if "split" in header else None
        for row in reader:
            if not row:
                continue
            line = reader.line_num
            if len(row) != len(header):
                raise UserError(
                    f"{where}: line {line}: {len(row)} columns, {len(header)} wanted; quote what has commas"
                )
            yield Entry(
                line=line,
                path=_path(row[path_at], where=where, line=line),
                labels=_label(row[label_at], where=where, line=line),
                split=None if split_at is None else _split(row[split_at], where=where, line=line),
                box=None,
            )
    except csv.Error as error:
        raise UserError(f"{where}: line {reader.line_num}: not CSV ({error})") from None


def jsonl_entries(stream: BinaryIO, *, where: str) -> Iterator[Entry]:
    """Yield the objects of a file of JSON lines.

    Raises:
        UserError: naming the line, for anything that is not of the form above.
    """
    for line, text in enumerate(_text_lines(stream, where=where), start=1):
        if text.isspace():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: line {line}: not JSON ({error})") from None
        if not isinstance(row, dict) or sum(name in row for name in READERS) != 1:
            told = 'one of "label", "labels" and "targets"'
            raise UserError(f'{where}: line {line}: an object with "path" and {told} wanted')
        kind = next(name for name in READERS if name in row)
        yield Entry(
            line=line,
            path=_path(row.get("path"), where=where, line=line),
            labels=READERS[kind](row[kind], where=where, line=line),
            split=_split(row["split"], where=where, line=line) if "split" in row else None,
            box=_box(row["box"], where=where, line=line) if "box" in row else None,
        )


def _text_lines(stream: BinaryIO, *, where: str) -> Iterator[str]:
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise UserError(f"{where}: line {number}: longer than {MAX_LINE_BYTES:,} bytes")
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: line {number}: not UTF-8 ({error.reason}); save the list as UTF-8") from None


def _path(value: Any, *, where: str, line: int) -> str:
    if not isinstance(value, str) or len(value) > MAX_PATH_CHARS or not is_utf8(value):
        raise UserError(
            f"{where}: line {line}: path {shown(value)}: text of at most {MAX_PATH_CHARS} characters wanted"
        )
    try:
        return check_name(value.removeprefix("./"))
    except UserError:
        raise UserError(
            f"{where}: line {line}: path {shown(value)}: refused; a path below the images' folder is wanted, relative,"
            " with / between its parts and no .."
        ) from None


def _label(value: Any, *, where: str, line: int) -> str:
    text = str(value) if type(value) is int and abs(value) < 1 << 63 else value
    if not is_name(text):
        raise UserError(f"{where}: line {line}: label {shown(value)}: a class name or number wanted")
    return str(text)


def _labels(value: Any, *, where: str, line: int) -> list[str]:
    if not isinstance(value, list) or len(value) > MAX_LABELS:
        raise UserError(f"{where}: line {line}: labels {shown(value)}: a list of at most {MAX_LABELS:,} wanted")
    return [_label(label, where=where, line=line) for label in value]


def _targets(value: Any, *, where: str, line: int) -> dict[str, float]:
    fits = isinstance(value, dict) and 1 <= len(value) <= MAX_LABELS
    if not fits or not all(is_name(name) and _is_single(number) for name, number in value.items()):
        raise UserError(
            f"{where}: line {line}: targets {shown(value)}: an object of numbers of float32 by name wanted, as in"
            ' {"age": 31.5}'
        )
    return {name: float(number) for name, number in value.items()}


def _is_single(number: Any) -> bool:
    """Tell whether a value of JSON is a number in the range of float32; true is none."""
    return type(number) in (int, float) and abs(number) <= MAX_SINGLE  # not true of nan


# How each kind of label is read.
READERS: Mapping[str, Callable[..., str | list[str] | dict[str, float]]] = {
    "label": _label,
    "labels": _labels,
    "targets": _targets,
}


def _split(value: Any, *, where: str, line: int) -> str:
    if not isinstance(value, str) or not SPLIT_NAME.fullmatch(value):
        raise UserError(f"{where}: line {line}: split {shown(value)}: a name such as train or val wanted")
    return "val" if value in SAME_AS_VAL else value


def _box(value: Any, *, where: str, line: int) -> tuple[int, int, int, int]:
    if isinstance(value, list) and len(value) == 4 and all(type(number) is int for number in value):
        left, top, width, height = value
        if min(left, top) >= 0 and min(width, height) >= 1 and max(value) <= MAX_PIXELS:
            return left, top, width, height
    raise UserError(
        f"{where}: line {line}: box {shown(value)}: [left, top, width, height] of whole pixels wanted, sizes from 1"
    )
