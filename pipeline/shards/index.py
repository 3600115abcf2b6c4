"""The sidecar: one structured row a sample, in a plain .npy file beside its shard.

    rows = read_index(Path("train/shard-000000.idx.npy"), num_samples=25_000)
    rows["label"][17], rows["image_offset"][17]

A sidecar says where each record and each image stands, what its bytes' CRC-32 is, and where it came from. `numpy.load`
opens it too. Its header is written and read here, as fixed text with two numbers in it: numpy's own parser evaluates
what it finds there, warns and raises in many ways, and its spelling is not promised to stay.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.shards.errors import DamageError
from pipeline.shards.record import Label, PackedLayout, Targets
from pipeline.shards.task import Task

INDEX_SUFFIX = ".idx.npy"
MAX_SOURCE_KEY_BYTES = 4096
MAX_LABELS = 10_000
NO_LABEL = -1
_MAGIC = b"\x93NUMPY\x01\x00"
_ALIGNMENT_BYTES = 64
_COLUMNS = (
    ("record_offset", "<u8"),
    ("record_bytes", "<u8"),
    ("image_offset", "<u8"),
    ("image_bytes", "<u8"),
    ("crc32", "<u4"),
    ("height", "<u4"),
    ("width", "<u4"),
)
_ONE_LABEL = ("label", "<i8")
_HEADER = f"{{'descr': {[*_COLUMNS, _ONE_LABEL, ('source_key', '|S0')]}, 'fortran_order': False, 'shape': (0,), }}"
_LABELS = "('labels', '<i4', (0,))"
_TARGETS = "('targets', '<f4', (0,))"
# Of each task, the column that says what its samples are labelled with.
LABEL_COLUMNS = {Task.classification: "label", Task.multilabel: "labels", Task.regression: "targets"}
_HEADER_PATTERN = re.compile(
    re.escape(_HEADER)
    .replace(re.escape(str(_ONE_LABEL)), f"(?:{re.escape(str(_ONE_LABEL))}|{re.escape(_LABELS)}|{re.escape(_TARGETS)})")
    .replace(r"'<i4',\ \(0,", r"'<i4',\ \((?P<labels>[1-9][0-9]{0,4}),")
    .replace(r"'<f4',\ \(0,", r"'<f4',\ \((?P<targets>[1-9][0-9]{0,4}),")
    .replace(r"\|S0", r"\|S(?P<key>[1-9][0-9]{0,3})")
    .replace(r"shape':\ \(0,", r"shape':\ \((?P<rows>[0-9]{1,15}),")
    + " *\n"
)

IndexRows = npt.NDArray[np.void]


def index_dtype(
    *, source_key_bytes: int, num_labels: int | None = None, num_targets: int | None = None
) -> np.dtype[Any]:
    """Return the sidecar's row type.

    Args:
        source_key_bytes: width of the shard's longest source key, 1 to 4096.
        num_labels: None for one label a sample, in the column `label`; else the most labels that a sample of the
            shard has, 1 to 10,000, in the column `labels`, whose unused places hold -1.
        num_targets: of a regression, the targets of each sample, 1 to 10,000, in the column `targets`.
    """
    if num_targets is not None and not 1 <= num_targets <= MAX_LABELS:
        raise ValueError(f"{num_targets} targets a sample: 1 to {MAX_LABELS} wanted")
    if num_labels is not None and not 1 <= num_labels <= MAX_LABELS:
        raise ValueError(f"{num_labels} labels a sample: 1 to {MAX_LABELS} wanted")
    if not 1 <= source_key_bytes <= MAX_SOURCE_KEY_BYTES:
        raise ValueError(f"a source key of {source_key_bytes} bytes: 1 to {MAX_SOURCE_KEY_BYTES} wanted")
    label: Any = _ONE_LABEL if num_labels is None else ("labels", "<i4", (num_labels,))
    if num_targets is not None:
        label = ("targets", "<f4", (num_targets,))
    return np.dtype([*_COLUMNS, label, ("source_key", f"S{source_key_bytes}")])


def make_index(
    numbers: Sequence[tuple[int, ...]], *, labels: Sequence[Label], source_keys: Sequence[bytes]
) -> IndexRows:
    """Return the rows of at least one record, as wide as their source keys and labels need.

    Args:
        numbers: of each record, record_offset to width in the order of the columns.
        labels: all of one kind: a class number, a sequence of them, or as many targets as the others have.
        source_keys: each of at most 4,096 bytes.
    """
    targets = [label.values for label in labels if isinstance(label, Targets)]
    counts = [len(label) for label in labels if not isinstance(label, int | Targets)]
    rows = np.zeros(
        len(numbers),
        dtype=index_dtype(
            source_key_bytes=max(map(len, source_keys)) or 1,
            num_labels=max(1, *counts) if counts else None,
            num_targets=len(targets[0]) if targets else None,
        ),
    )
    for (name, _), values in zip(_COLUMNS, zip(*numbers, strict=True), strict=True):
        rows[name] = values
    rows["source_key"] = source_keys
    if targets:
        rows["targets"] = targets
        return rows
    if not counts:
        rows["label"] = labels
        return rows
    rows["labels"] = NO_LABEL
    for row, label in zip(rows, labels, strict=True):
        if not isinstance(label, int | Targets):
            row["labels"][: len(label)] = label
    return rows


def encode_index(rows: IndexRows) -> bytes:
    """Return the bytes of the .npy file (format 1.0) of `rows`, which are of an `index_dtype`."""
    source_key_bytes = rows.dtype["source_key"].itemsize
    header = _HEADER.replace("|S0", f"|S{source_key_bytes}").replace("shape': (0,", f"shape': ({len(rows)},")
    for name, column in (("labels", _LABELS), ("targets", _TARGETS)):
        if name in (rows.dtype.names or ()):
            header = header.replace(str(_ONE_LABEL), column.replace("(0,", f"({rows[name].shape[1]},"))
    padding = " " * (-(len(_MAGIC) + 2 + len(header) + 1) % _ALIGNMENT_BYTES)
    text = f"{header}{padding}\n".encode()
    return _MAGIC + len(text).to_bytes(2, "little") + text + rows.tobytes()


def read_index(path: Path, *, num_samples: int) -> IndexRows:
    """Map a sidecar read-only and check that it is one, with `num_samples` rows.

    Raises:
        DamageError: the file is missing, is not a sidecar, or has another number of rows.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_MAGIC) + 2)
            text = stream.read(int.from_bytes(start[len(_MAGIC) :], "little")).decode("latin-1")
            data_offset = stream.tell()
            found_bytes = stream.seek(0, 2)
    except FileNotFoundError:
        raise DamageError(f"{path}: the sidecar is missing") from None
    except OSError as error:
        raise DamageError(f"{path}: the sidecar cannot be read ({error.strerror})") from None
    numbers = _HEADER_PATTERN.fullmatch(text)
    if not start.startswith(_MAGIC) or numbers is None:
        raise DamageError(f"{path}: not a sidecar as docs/FORMAT.md describes it")
    source_key_bytes, num_rows = int(numbers["key"]), int(numbers["rows"])
    num_labels, num_targets = (int(numbers[name]) if numbers[name] else None for name in ("labels", "targets"))
    if num_rows != num_samples:
        raise DamageError(f"{path}: has {num_rows} rows, the manifest says {num_samples}")
    if source_key_bytes > MAX_SOURCE_KEY_BYTES:
        raise DamageError(f"{path}: source keys of {source_key_bytes} bytes; at most {MAX_SOURCE_KEY_BYTES} wanted")
    if max(num_labels or 0, num_targets or 0) > MAX_LABELS:
        what = f"{num_labels} labels" if num_labels is not None else f"{num_targets} targets"
        raise DamageError(f"{path}: {what} a sample; at most {MAX_LABELS} wanted")
    dtype = index_dtype(source_key_bytes=source_key_bytes, num_labels=num_labels, num_targets=num_targets)
    expected_bytes = data_offset + num_rows * dtype.itemsize
    if found_bytes != expected_bytes:
        raise DamageError(f"{path}: {found_bytes} bytes, its header promises {expected_bytes}")
    if num_rows == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=data_offset, shape=(num_rows,))


def check_index(
    path: Path,
    rows: IndexRows,
    *,
    shard_bytes: int,
    num_classes: int,
    packed: PackedLayout | None,
    task: Task = Task.classification,
) -> None:
    """Check that every row points inside the shard, in order, and that labels are in range.

    Args:
        path: of the sidecar, for the error.
        rows: as `read_index` gave them.
        shard_bytes: length of the shard.
        num_classes: labels are 0 to num_classes - 1; of a regression, each sample's number of targets.
        task: whether rows have one label, several, or targets.
        packed: where given, row k must describe the packed record k, so that offsets can be computed.

    Raises:
        DamageError: naming the sidecar and the first bad record.
    """
    starts = rows["record_offset"]
    record_end = starts + rows["record_bytes"]
    image_end = rows["image_offset"] + rows["image_bytes"]
    bad = (record_end > shard_bytes) | (record_end < starts)
    bad |= (rows["image_offset"] < starts) | (image_end > record_end) | (image_end < rows["image_offset"])
    bad[1:] |= starts[1:] < record_end[:-1]
    if packed is not None:
        bad |= starts != np.arange(len(rows), dtype=np.uint64) * np.uint64(packed.record_bytes)
        bad |= rows["image_offset"] - starts != packed.image_offset
        for column in ("record_bytes", "image_bytes", "height", "width"):
            bad |= rows[column] != getattr(packed, column)
    if bad.any():
        raise DamageError(f"{path}: record {int(np.argmax(bad))} is not where it can be in its shard")
    if LABEL_COLUMNS[task] not in (rows.dtype.names or ()):
        raise DamageError(f"{path}: its labels are not those of task {task}")
    labels = rows[LABEL_COLUMNS[task]].reshape(len(rows), -1)
    if task is Task.regression:
        if labels.shape[1] != num_classes:
            raise DamageError(f"{path}: {labels.shape[1]} targets a sample, {num_classes} wanted")
        bad = ~np.isfinite(labels).all(axis=1)
        if bad.any():
            raise DamageError(f"{path}: record {int(np.argmax(bad))} has a target that is not finite")
        return
    bad = (labels >= num_classes).any(axis=1)
    if task is Task.classification:
        bad |= labels[:, 0] < 0
    else:
        # Sorted and distinct, then nothing but -1.
        used = labels != NO_LABEL
        bad |= (used & (labels < 0)).any(axis=1) | (used[:, 1:] & (labels[:, 1:] <= labels[:, :-1])).any(axis=1)
        bad |= (used[:, 1:] & ~used[:, :-1]).any(axis=1)
    if bad.any():
        record = int(np.argmax(bad))
        told = labels[record].tolist() if task is Task.multilabel else labels[record, 0]
        raise DamageError(f"{path}: record {record} has label {told}, there are {num_classes} classes")
