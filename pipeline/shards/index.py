"""The sidecar: one structured row a sample, in a plain .npy file beside its shard.

    rows = read_index(Path("train/shard-000000.idx.npy"), num_samples=25_000)
    rows["label"][17], rows["image_offset"][17]

A sidecar says where each record and each image stands, what its bytes' CRC-32 is, and where it came from. It is
read without unpickling: the dtype must be exactly one of ours and the file exactly as long as its rows.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.shards.errors import DamageError

INDEX_SUFFIX = ".idx.npy"
MAX_SOURCE_KEY_BYTES = 4096
MAX_CLASSES = 1_000_000
_HEADER_LIMIT_BYTES = 10_000

IndexRows = npt.NDArray[np.void]


def index_dtype(*, source_key_bytes: int, num_labels: int | None = None) -> np.dtype[Any]:
    """Return the sidecar's row type.

    Args:
        source_key_bytes: width of the longest source key of the shard, 1 to 4096.
        num_labels: None for one class number a sample, else the length of a 0/1 vector (multi-label).
    """
    label: tuple[Any, ...] = ("label", "<i8") if num_labels is None else ("label", "u1", (num_labels,))
    return np.dtype(
        [
            ("record_offset", "<u8"),
            ("record_bytes", "<u8"),
            ("image_offset", "<u8"),
            ("image_bytes", "<u8"),
            ("crc32", "<u4"),
            ("height", "<u4"),
            ("width", "<u4"),
            label,
            ("source_key", f"S{source_key_bytes}"),
        ]
    )


def encode_index(rows: IndexRows) -> bytes:
    """Return the bytes of the .npy file (format 1.0) of `rows`."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(rows), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def read_index(path: Path, *, num_samples: int) -> IndexRows:
    """Map a sidecar read-only and check that it is one, with `num_samples` rows.

    Raises:
        DamageError: the file is missing, is not a sidecar, or has another number of rows.
    """
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise ValueError(f"npy format {version}")
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(
                stream, max_header_size=_HEADER_LIMIT_BYTES
            )
            data_offset = stream.tell()
    except FileNotFoundError:
        raise DamageError(f"{path}: the sidecar is missing") from None
    except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise DamageError(f"{path}: not a sidecar ({error})") from None
    _check_dtype(path, dtype)
    if fortran_order or shape != (num_samples,):
        raise DamageError(f"{path}: has rows of shape {shape}, the manifest says ({num_samples},)")
    expected_bytes = data_offset + num_samples * dtype.itemsize
    if path.stat().st_size != expected_bytes:
        raise DamageError(f"{path}: {path.stat().st_size} bytes, its header promises {expected_bytes}")
    if num_samples == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=data_offset, shape=(num_samples,))


def _check_dtype(path: Path, dtype: np.dtype[Any]) -> None:
    """Accept exactly the dtypes that index_dtype makes; everything else, objects above all, is refused."""
    fields: Any = dtype.fields or {}
    if "label" not in fields or "source_key" not in fields:
        raise DamageError(f"{path}: not a sidecar (columns {tuple(fields)})")
    label_shape = fields["label"][0].shape
    num_labels = math.prod(label_shape) if label_shape else None
    source_key_bytes = fields["source_key"][0].itemsize
    bounded = 1 <= source_key_bytes <= MAX_SOURCE_KEY_BYTES and (num_labels or 1) <= MAX_CLASSES
    if not bounded or dtype != index_dtype(source_key_bytes=source_key_bytes, num_labels=num_labels):
        raise DamageError(f"{path}: not a sidecar (row type {dtype})")


def check_index(path: Path, rows: IndexRows, *, shard_bytes: int, num_classes: int) -> None:
    """Check that every row points inside the shard, in order, and that labels are in range.

    Raises:
        DamageError: naming the sidecar and the first bad record.
    """
    record_end = rows["record_offset"] + rows["record_bytes"]
    image_end = rows["image_offset"] + rows["image_bytes"]
    starts = rows["record_offset"]
    bad = (record_end > shard_bytes) | (record_end < starts)
    bad |= (rows["image_offset"] < starts) | (image_end > record_end) | (image_end < rows["image_offset"])
    bad[1:] |= starts[1:] < record_end[:-1]
    if rows["label"].ndim == 1:
        bad |= (rows["label"] < 0) | (rows["label"] >= num_classes)
    else:
        bad |= rows["label"].max(axis=1) > 1
    if bad.any():
        record = int(np.argmax(bad))
        raise DamageError(f"{path}: record {record} points outside its shard or has an impossible label")
