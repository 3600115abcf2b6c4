"""The plan: which item goes to which shard, decided once, stored, and the same for ever.

    plan = make_plan(items, split="train", seed=0, stored_sizes_bytes=sizes, shard_bytes=128 << 20)
    write_plan(plan, Path("plan/train.parquet"))
    plan.fingerprint                    # equal for equal items, cut in the same way
    rows = read_planned_shard(Path("plan/train.parquet"), number=3)

Items are shuffled over the whole split by a keyed permutation, then cut into shards of about `shard_bytes`.
The Parquet file holds one row group a shard, so a shard task reads its own rows alone and can be run anywhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.sources.base import Items
from pipeline.shards.keyed import keyed_permutation, make_key
from pipeline.shards.publish import publish
from pipeline.shards.record import END_OF_ARCHIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Items in stored order; shard k holds rows [shard_starts[k], shard_starts[k + 1])."""

    table: pa.Table
    shard_starts: npt.NDArray[np.int64]
    stored_bytes: int
    fingerprint: str

    @property
    def num_shards(self) -> int:
        return len(self.shard_starts) - 1

    @property
    def num_items(self) -> int:
        return int(self.shard_starts[-1])


def make_plan(
    items: Items, *, split: str, seed: int, stored_sizes_bytes: npt.NDArray[np.int64], shard_bytes: int
) -> Plan:
    """Shuffle a split's items and cut them into shards.

    Args:
        items: at least one item.
        stored_sizes_bytes: int64 (items,), the length of each item's record, exact or a bound.
        shard_bytes: the most that a shard of more than one record may have; shards are of about equal size.
    """
    order = keyed_permutation(make_key("plan", seed, split), len(items))
    sizes_bytes = stored_sizes_bytes[order]
    ends_bytes = np.cumsum(sizes_bytes)
    total_bytes = int(ends_bytes[-1])
    room_bytes = max(1, shard_bytes - len(END_OF_ARCHIVE))
    num_shards = min(len(items), -(-total_bytes // room_bytes))
    while True:
        cuts_bytes = total_bytes * np.arange(1, num_shards) // num_shards
        inner = np.searchsorted(ends_bytes, cuts_bytes, side="right")
        starts = np.unique(np.concatenate([[0], inner, [len(items)]])).astype(np.int64)
        largest_bytes = np.add.reduceat(sizes_bytes, starts[:-1]).max()
        if largest_bytes <= max(room_bytes, sizes_bytes.max()) or len(starts) > len(items):
            break
        num_shards += max(1, num_shards // 100)
    table = pa.table(
        {
            "row": pa.array(np.arange(len(items))),
            "label": pa.array(items.labels[order]),
            "source_key": pa.array(items.source_keys).take(pa.array(order)),
            "path": pa.array(items.paths).dictionary_encode().take(pa.array(order)),
            "offset": pa.array(items.offsets[order]),
            "size_bytes": pa.array(items.sizes_bytes[order]),
        }
    )
    return Plan(
        table=table,
        shard_starts=starts,
        stored_bytes=total_bytes + (len(starts) - 1) * len(END_OF_ARCHIVE),
        fingerprint=_fingerprint(items, starts),
    )


def _fingerprint(items: Items, shard_starts: npt.NDArray[np.int64]) -> str:
    """Return the SHA-256 of all that a plan says, the seed's permutation apart."""
    digest = hashlib.sha256()
    for column in (shard_starts, items.labels, items.offsets, items.sizes_bytes):
        digest.update(column.astype("<i8").tobytes())
    for texts in (items.source_keys, items.paths):
        for start in range(0, len(texts), 1 << 16):
            digest.update("".join(f"{text}\0" for text in texts[start : start + (1 << 16)]).encode())
    return digest.hexdigest()


def write_plan(plan: Plan, path: Path) -> None:
    """Publish the plan as Parquet, one row group a shard."""
    with publish(path) as stream, pq.ParquetWriter(stream, plan.table.schema, compression="zstd") as writer:
        for start, end in zip(plan.shard_starts[:-1], plan.shard_starts[1:], strict=True):
            writer.write_table(plan.table.slice(start, end - start), row_group_size=max(1, end - start))


def shard_sizes(path: Path) -> list[int]:
    """Return the number of planned items of each shard."""
    metadata = pq.read_metadata(path)
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def read_planned_shard(path: Path, *, number: int) -> list[dict[str, Any]]:
    """Return the rows of shard `number`: row, label, source_key, path, offset, size_bytes."""
    with pq.ParquetFile(path) as stored:
        rows: list[dict[str, Any]] = stored.read_row_group(number).to_pylist()
    return rows
