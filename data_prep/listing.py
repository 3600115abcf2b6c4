"""A split's items on disk: spooled once from the source, then read in any order at flat memory.

    with ListingWriter(Path("train.arrow"), task=Task.classification) as writer:
        for items in source.list_items("train"):
            writer.add(items)
    listing = writer.listing                # num_items, fingerprint, label_bytes
    listing.rows(np.array([7, 3]))          # an Arrow table of these two items

An Arrow file of record batches of one length, mapped and not read, so that 14 million items cost no memory. It lives
while a plan is made and goes afterwards.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.sources.base import MAX_BATCH_ITEMS, Items
from pipeline.shards.index import LABEL_COLUMNS
from pipeline.shards.record import labels_bytes, padded_bytes, targets_bytes
from pipeline.shards.task import Task

Int64Array = npt.NDArray[np.int64]


def item_schema(task: Task) -> pa.Schema:
    """Return the columns of listed items; those of a plan are these behind `row`."""
    kinds = {
        Task.classification: pa.int64(),
        Task.multilabel: pa.list_(pa.int32()),
        Task.regression: pa.list_(pa.float32()),
    }
    return pa.schema(
        [
            (LABEL_COLUMNS[task], kinds[task]),
            ("source_key", pa.string()),
            ("path", pa.string()),
            ("offset", pa.int64()),
            ("size_bytes", pa.int64()),
            ("box", pa.list_(pa.int32(), 4)),
            ("details", pa.string()),
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The items of one split.

    Attributes:
        fingerprint: SHA-256 of everything in them, in order.
        label_bytes: several labels or targets: the room that the longest `.json` member needs, whole tar blocks; else
            None.
    """

    path: Path
    task: Task
    num_items: int
    fingerprint: str
    label_bytes: int | None

    def rows(self, numbers: Int64Array) -> pa.Table:
        """Return the items of these numbers, in this order."""
        schema = item_schema(self.task)
        if not len(numbers):
            return schema.empty_table()
        by_batch = np.argsort(numbers // MAX_BATCH_ITEMS, kind="stable")
        batches, starts = np.unique((numbers // MAX_BATCH_ITEMS)[by_batch], return_index=True)
        parts = []
        with pa.memory_map(str(self.path)) as stream:
            stored = pa.ipc.open_file(stream)
            for number, places in zip(batches, np.split(by_batch, starts[1:]), strict=True):
                parts.append(stored.get_batch(int(number)).take(pa.array(numbers[places] % MAX_BATCH_ITEMS)))
            table = pa.Table.from_batches(parts, schema=schema).combine_chunks()
        back = np.empty(len(numbers), dtype=np.int64)
        back[by_batch] = np.arange(len(numbers))
        return table.take(pa.array(back))

    def sizes_bytes(self) -> Int64Array:
        """Return every item's stored bytes, int64 (items,): the one column that is held whole, 8 bytes an item."""
        sizes = np.empty(self.num_items, dtype=np.int64)
        with pa.memory_map(str(self.path)) as stream:
            stored = pa.ipc.open_file(stream)
            for number in range(stored.num_record_batches):
                column = stored.get_batch(number).column("size_bytes").to_numpy()
                sizes[number * MAX_BATCH_ITEMS :][: len(column)] = column
        return sizes


class ListingWriter:
    """Takes a split's items in turn; `listing` is there when the block has ended."""

    def __init__(self, path: Path, *, task: Task) -> None:
        self.listing: Listing
        self._path, self._task = path, task
        self._schema = item_schema(task)
        self._waiting: list[pa.Table] = []
        self._num_waiting = self._num_items = 0
        self._most_label_bytes = 0
        self._digest = hashlib.sha256(str(self._schema).encode())

    def __enter__(self) -> ListingWriter:
        self._stream = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_file(self._stream, self._schema)
        return self

    def add(self, items: Items) -> None:
        """Append items."""
        labels: Any = items.labels
        if self._task is Task.regression:
            longest = max((targets_bytes(targets.tolist()) for targets in labels), default=0)
            self._most_label_bytes = max(self._most_label_bytes, longest)
        if self._task is Task.multilabel:
            self._most_label_bytes = max([self._most_label_bytes, *(labels_bytes(label) for label in labels)])
        table = pa.table(
            [
                pa.array(list(labels) if self._task is Task.regression else labels, type=self._schema.types[0]),
                pa.array(items.source_keys, type=pa.string()),
                pa.array(items.paths, type=pa.string()),
                pa.array(items.offsets, type=pa.int64()),
                pa.array(items.sizes_bytes, type=pa.int64()),
                _box_column(items.boxes, len(items)),
                pa.nulls(len(items), pa.string()) if items.details is None else pa.array(items.details, pa.string()),
            ],
            schema=self._schema,
        )
        self._waiting.append(table)
        self._num_waiting += len(items)
        if self._num_waiting >= MAX_BATCH_ITEMS:
            self._write(whole_only=True)

    def _write(self, *, whole_only: bool) -> None:
        table = pa.concat_tables(self._waiting).combine_chunks()
        end = len(table) // MAX_BATCH_ITEMS * MAX_BATCH_ITEMS if whole_only else len(table)
        for start in range(0, end, MAX_BATCH_ITEMS):
            part = table.slice(start, min(MAX_BATCH_ITEMS, end - start))
            for batch in part.to_batches():
                self._writer.write_batch(batch)
            self._num_items += len(part)
            self._digest_table(part)
        self._waiting = [table.slice(end)] if end < len(table) else []
        self._num_waiting = len(table) - end

    def _digest_table(self, table: pa.Table) -> None:
        """Feed the values of a table to the fingerprint, whatever its buffers look like."""
        for column in table.columns:
            values = column.combine_chunks()
            if pa.types.is_integer(values.type):
                self._digest.update(values.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
            elif pa.types.is_string(values.type):
                self._digest.update(pc.binary_length(values).fill_null(-1).to_numpy(False).tobytes())
                self._digest.update("".join(text for text in values.to_pylist() if text is not None).encode())
            else:
                kind = "<f4" if pa.types.is_floating(values.type.value_type) else "<i8"
                self._digest.update(pc.list_value_length(values).fill_null(-1).to_numpy(False).tobytes())
                self._digest.update(values.flatten().to_numpy(False).astype(kind).tobytes())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._waiting:
                self._write(whole_only=False)
        finally:
            self._writer.close()
            self._stream.close()
        self.listing = Listing(
            path=self._path,
            task=self._task,
            num_items=self._num_items,
            fingerprint=self._digest.hexdigest(),
            label_bytes=None if self._task is Task.classification else padded_bytes(max(1, self._most_label_bytes)),
        )


def _box_column(boxes: npt.NDArray[np.int32] | None, num_items: int) -> pa.Array:
    kind = pa.list_(pa.int32(), 4)
    if boxes is None:
        return pa.nulls(num_items, kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(boxes.ravel(), pa.int32()), 4)
