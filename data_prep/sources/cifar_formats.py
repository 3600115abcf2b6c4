"""The three ways in which CIFAR's images are stored, each parsed from bytes into the same arrays.

- python: a pickled dict; `data` is uint8 (rows, 3072), each row the red, the green, then the blue plane of 32x32.
- binary: rows of one label byte (CIFAR-100: coarse, then fine) and the same 3072 bytes.
- sheet: a PNG of 1024 x rows, each row the pixels of one 32x32 image, channels last; labels in JSON beside it.

Axes: N images, H rows, W columns, C channels (red, green, blue).
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_prep.sources.base import ImageArray
from data_prep.sources.inert_pickle import read_pickle
from pipeline.shards.errors import DamageError

SIDE = 32
PIXEL_BYTES = 3 * SIDE * SIDE
# The largest genuine batch, CIFAR-100's train, has 50,000.
MAX_ROWS = 100_000
MAX_BATCH_BYTES = MAX_ROWS * (PIXEL_BYTES + 64)
MAX_NAMES_BYTES = 1 << 20

LabelArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One stored batch: uint8 images (N, 32, 32, 3), any strides, and int64 labels (N,)."""

    images_NHWC: ImageArray
    labels: LabelArray


def parse_pickled_batch(content: bytes, *, where: str, label_field: bytes) -> Batch:
    """Parse a batch of the python variant without running anything in it.

    Raises:
        DamageError: not such a batch, or labels and images differ in number.
    """
    fields = _pickled_fields(content, where=where)
    planes = fields.get(b"data")
    if not isinstance(planes, np.ndarray) or planes.ndim != 2 or planes.shape[1] != PIXEL_BYTES:
        shape = planes.shape if isinstance(planes, np.ndarray) else type(planes).__name__
        raise DamageError(f"{where}: data is {shape}, an array of (rows, {PIXEL_BYTES}) wanted")
    labels = _as_labels(fields.get(label_field), where=f"{where}: {label_field.decode()}")
    if len(labels) != len(planes):
        raise DamageError(f"{where}: {len(labels)} labels for {len(planes)} images")
    return Batch(images_NHWC=_planes_to_NHWC(planes), labels=labels)


def parse_binary_batch(content: bytes, *, where: str, label_bytes: int) -> Batch:
    """Parse a batch of the binary variant; of several label bytes the last, the finest, counts.

    Raises:
        DamageError: not a whole number of rows.
    """
    row_bytes = label_bytes + PIXEL_BYTES
    if len(content) % row_bytes:
        raise DamageError(f"{where}: {len(content)} bytes are no whole number of rows of {row_bytes}")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, row_bytes)
    labels = rows[:, label_bytes - 1].astype(np.int64)
    return Batch(images_NHWC=_planes_to_NHWC(rows[:, label_bytes:]), labels=labels)


def parse_sheet(content: bytes, *, where: str) -> ImageArray:
    """Parse a PNG sheet into uint8 images (N, 32, 32, 3).

    Raises:
        DamageError: no PNG, no RGB, another width than 1024, over MAX_ROWS rows, or damaged.
    """
    if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
        raise DamageError(f"{where}: not a PNG file")
    width, num_rows = struct.unpack(">II", content[16:24])
    if width != SIDE * SIDE or num_rows > MAX_ROWS:
        raise DamageError(f"{where}: {width} x {num_rows} pixels, {SIDE * SIDE} x at most {MAX_ROWS} wanted")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as sheet:
            mode, pixels = sheet.mode, np.asarray(sheet)
    except (OSError, SyntaxError, ValueError) as error:
        raise DamageError(f"{where}: a damaged PNG file ({error})") from None
    if mode != "RGB" or pixels.dtype != np.uint8:
        raise DamageError(f"{where}: a PNG of mode {mode}, RGB wanted")
    return pixels.reshape(num_rows, SIDE, SIDE, 3)


def parse_json_labels(content: bytes, *, where: str) -> LabelArray:
    """Parse a JSON list of class numbers."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise DamageError(f"{where}: not a JSON list of class numbers") from None
    return _as_labels(values, where=where)


def parse_pickled_names(content: bytes, *, where: str) -> tuple[str, ...]:
    """Parse CIFAR-100's `meta`: the names of the fine classes, in the order of their numbers."""
    names = _pickled_fields(content, where=where).get(b"fine_label_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise DamageError(f"{where}: no list of fine_label_names in it")
    return _checked_names([name if isinstance(name, str) else name.decode("latin-1") for name in names], where=where)


def parse_text_names(content: bytes, *, where: str) -> tuple[str, ...]:
    """Parse CIFAR-100's `fine_label_names.txt`: one name a line."""
    return _checked_names(content.decode("latin-1").split(), where=where)


def _checked_names(names: list[str], *, where: str) -> tuple[str, ...]:
    if not names or len(set(names)) != len(names):
        raise DamageError(f"{where}: {len(names)} class names, {len(set(names))} of them distinct")
    return tuple(names)


def _pickled_fields(content: bytes, *, where: str) -> dict[bytes, Any]:
    """Return the pickled dict with its keys as bytes, whichever Python wrote it."""
    fields = read_pickle(content, where=where)
    if not isinstance(fields, dict):
        raise DamageError(f"{where}: a pickled {type(fields).__name__}, a dict wanted")
    return {key if isinstance(key, bytes) else key.encode(): value for key, value in fields.items()}


def _as_labels(values: Any, *, where: str) -> LabelArray:
    """Accept a list of small whole numbers, or an array of uint8."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return values.astype(np.int64)
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 256 for value in values):
        raise DamageError(f"{where}: a list of class numbers wanted")
    return np.array(values, dtype=np.int64)


def _planes_to_NHWC(planes: npt.NDArray[np.uint8]) -> ImageArray:
    return planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
