"""The plan: which item goes to which shard, decided once, stored, and the same for ever.

    plan = make_plan(listing, split="train", seed=0, record_bytes=14_336, shard_bytes=128 << 20)
    write_plan(plan, stream)
    plan.fingerprint                    # equal for equal items, cut in the same way
    rows = read_planned_shard(pq.ParquetFile("plan/train.parquet"), number=3)

Items are shuffled over the whole split by a keyed permutation, then cut into shards of about `shard_bytes`.
The Parquet file holds one row group a shard, so a shard task reads its own rows alone and can be run anywhere.
Memory does not grow with the items' names and paths: they are read from the listing as they are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.listing import Int64Array, Listing, item_schema
from pipeline.shards.keyed import make_key
from pipeline.shards.permutation import permute
from pipeline.shards.record import END_OF_ARCHIVE

# Rows that are permuted, or gathered from the listing, at once.
PIECE_ROWS = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Items in stored order; shard k holds rows [shard_starts[k], shard_starts[k + 1]).

    Row r is the listing's item `permute(key, r)`.
    """

    listing: Listing
    key: int
    shard_starts: npt.NDArray[np.int64]
    stored_bytes: int

    @property
    def num_shards(self) -> int:
        return len(self.shard_starts) - 1

    @property
    def num_items(self) -> int:
        return int(self.shard_starts[-1])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that a plan says, the seed's permutation apart."""
        starts = self.shard_starts.astype("<i8").tobytes()
        return hashlib.sha256(self.listing.fingerprint.encode() + starts).hexdigest()

    def tables(self) -> Iterator[pa.Table]:
        """Yield each shard's rows: `row` and the columns of `item_schema`."""
        starts = self.shard_starts
        shard = 0
        while shard < self.num_shards:
            # As many whole shards as fit into a piece, at least one.
            last = int(np.searchsorted(starts, starts[shard] + PIECE_ROWS, side="right")) - 1
            last = min(max(last, shard + 1), self.num_shards)
            rows = np.arange(starts[shard], starts[last], dtype=np.int64)
            table = self.listing.rows(permute(self.key, rows, length=self.num_items))
            table = table.add_column(0, pa.field("row", pa.int64()), pa.array(rows))
            for number in range(shard, last):
                yield table.slice(starts[number] - starts[shard], starts[number + 1] - starts[number])
            shard = last


# Turns items' stored bytes, int64 (items,), into the lengths of their records.
RecordBytes = Callable[[Int64Array], Int64Array]


def make_plan(listing: Listing, *, split: str, seed: int, record_bytes: int | RecordBytes, shard_bytes: int) -> Plan:
    """Shuffle a split's items and cut them into shards.

    Args:
        listing: of at least one item.
        record_bytes: the length of every record, or a function that gives each, exact or a bound.
        shard_bytes: the most that a shard of more than one record may have; shards are of about equal size.
    """
    key, num_items = make_key("plan", seed, split), listing.num_items
    sizes = None if isinstance(record_bytes, int) else record_bytes(listing.sizes_bytes())
    if sizes is None:
        assert isinstance(record_bytes, int)
        total_bytes, largest_bytes = num_items * record_bytes, record_bytes
    else:
        total_bytes, largest_bytes = int(sizes.sum()), int(sizes.max())

    def pieces() -> Iterator[Int64Array]:
        for start in range(0, num_items, PIECE_ROWS):
            rows = np.arange(start, min(start + PIECE_ROWS, num_items), dtype=np.int64)
            if sizes is None:
                yield np.full(len(rows), record_bytes, dtype=np.int64)
            else:
                yield sizes[permute(key, rows, length=num_items)]

    room_bytes = max(1, shard_bytes - len(END_OF_ARCHIVE))
    num_shards = min(num_items, -(-total_bytes // room_bytes))
    while True:
        starts, shards_bytes = _cut(pieces(), total_bytes=total_bytes, num_shards=num_shards)
        if shards_bytes.max() <= max(room_bytes, largest_bytes) or len(starts) > num_items:
            break
        num_shards += max(1, num_shards // 100)
    return Plan(
        listing=listing,
        key=key,
        shard_starts=starts,
        stored_bytes=total_bytes + (len(starts) - 1) * len(END_OF_ARCHIVE),
    )


def _cut(pieces: Iterator[Int64Array], *, total_bytes: int, num_shards: int) -> tuple[Int64Array, Int64Array]:
    """Return where shards start, and the length of all of them, behind the last; and each shard's bytes.

    Shard k ends before the record that reaches beyond k + 1 equal shares of the bytes.
    """
    cuts_bytes = total_bytes * np.arange(1, num_shards, dtype=object) // num_shards
    cuts = np.concatenate([cuts_bytes, [total_bytes]]).astype(np.int64)
    starts, starts_bytes = [0], [0]
    row = end_bytes = cut = 0
    for sizes in pieces:
        ends_bytes = end_bytes + np.cumsum(sizes)
        # The cuts that fall before the end of this piece; the last cut is the end of everything.
        reached = int(np.searchsorted(cuts[:-1], ends_bytes[-1], side="left"))
        for place in np.searchsorted(ends_bytes, cuts[cut:reached], side="right"):
            start = row + int(place)
            if start > starts[-1]:
                starts.append(start)
                starts_bytes.append(int(ends_bytes[place - 1]) if place else end_bytes)
        cut = max(cut, reached)
        row += len(sizes)
        end_bytes = int(ends_bytes[-1])
    bounds_bytes = np.array([*starts_bytes, end_bytes], dtype=np.int64)
    return np.array([*starts, row], dtype=np.int64), bounds_bytes[1:] - bounds_bytes[:-1]


def write_plan(plan: Plan, stream: BinaryIO) -> None:
    """Write the plan as Parquet, one row group a shard."""
    schema = item_schema(plan.listing.task).insert(0, pa.field("row", pa.int64()))
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for table in plan.tables():
            writer.write_table(table, row_group_size=max(1, len(table)))


def shard_sizes(stored: pq.ParquetFile) -> list[int]:
    """Return the number of planned items of each shard."""
    return [stored.metadata.row_group(number).num_rows for number in range(stored.metadata.num_row_groups)]


def read_planned_shard(stored: pq.ParquetFile, *, number: int) -> list[dict[str, Any]]:
    """Return the rows of shard `number`: row, label or labels, source_key, path, offset, size_bytes, box, details."""
    rows: list[dict[str, Any]] = stored.read_row_group(number).to_pylist()
    return rows
