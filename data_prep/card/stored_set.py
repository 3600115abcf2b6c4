"""A finished data set at hand: its sidecars, pieces of its shards, and what preparation knew of its images.

    stored = StoredSet(data_set=data_set, store=open_store("data/pets"))
    for shard in stored.shards():
        stored.rows(shard)["label"], stored.read_at(shard, offset=1536, size_bytes=12_352)

Of a remote store `fetch_sidecars` puts them under the data set's own root, which is a temporary folder then
(data_prep/view.py). With each shard preparation leaves the CRC-32 of its images in `plan/`, four bytes an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from data_prep.view import shard_place
from pipeline.shards.crc import CrcArray
from pipeline.shards.errors import UserError
from pipeline.shards.index import IndexRows, check_index, read_index
from pipeline.shards.manifest import DataSet, ShardEntry
from pipeline.storage import Store

# Each waits for a server.
FETCHING_THREADS = 16
CRCS_SUFFIX = ".crc32"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredShard:
    """A shard of a split; `start` numbers its first sample, counted over all splits one behind the other."""

    split: str
    entry: ShardEntry
    start: int

    @property
    def end(self) -> int:
        return self.start + self.entry.num_samples

    @property
    def name(self) -> str:
        return f"{self.split}/{self.entry.path.name}"

    @property
    def index_name(self) -> str:
        return f"{self.split}/{self.entry.index_path.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSet:
    """A data set's facts and the store that holds its files."""

    data_set: DataSet
    store: Store

    def shards(self, split: str | None = None) -> Iterator[StoredShard]:
        """Yield all shards, split by split, or those of one, in the order of ids."""
        start = 0
        for name, facts in self.data_set.splits.items():
            if split in (None, name):
                shard_start = start
                for entry in facts.shards:
                    yield StoredShard(split=name, entry=entry, start=shard_start)
                    shard_start += entry.num_samples
            start += facts.num_samples

    def fetch_sidecars(self) -> None:
        """Fetch all sidecars of a remote store; of a local one they are where they are.

        Raises:
            UserError: one cannot be fetched.
            DamageError: one is longer than the manifest says.
        """

        def fetch(shard: StoredShard) -> None:
            entry = shard.entry
            if self.store.local_path(shard.index_name) is None:
                entry.index_path.write_bytes(self.store.read_bytes(shard.index_name, max_bytes=entry.index_bytes))

        with ThreadPoolExecutor(FETCHING_THREADS) as pool:
            list(pool.map(fetch, self.shards()))

    def rows(self, shard: StoredShard) -> IndexRows:
        """Map a shard's sidecar and check it.

        Raises:
            DamageError: it is missing, or not what the manifest says.
        """
        entry = shard.entry
        rows = read_index(entry.index_path, num_samples=entry.num_samples)
        check_index(
            entry.index_path,
            rows,
            shard_bytes=entry.size_bytes,
            num_classes=self.data_set.num_classes,
            packed=self.data_set.packed,
            task=self.data_set.task,
        )
        return rows

    def read_at(self, shard: StoredShard, *, offset: int, size_bytes: int) -> bytes:
        """Return a piece of a shard, all of it. Raises as Store.read_at does."""
        store, name = self.place(shard)
        return store.read_at(name, offset=offset, size_bytes=size_bytes)

    def place(self, shard: StoredShard) -> tuple[Store, str]:
        """Return the store that holds a shard, and its name there."""
        return shard_place(self.store, self.data_set.splits[shard.split], shard.entry)

    def content_crcs(self, shard: StoredShard) -> CrcArray | None:
        """Return the CRC-32 of each image of a shard as preparation left them, None where they are not there."""
        name, size_bytes = crcs_name(shard.split, shard.entry.path.name), 4 * shard.entry.num_samples
        try:
            if self.store.size_of(name) != size_bytes:
                return None
            return np.frombuffer(self.store.read_bytes(name, max_bytes=size_bytes), dtype="<u4").astype(np.uint32)
        except UserError:
            return None


def publish_content_crcs(store: Store, *, split: str, shard: str, crcs: list[int]) -> None:
    """Leave the CRC-32 of each image of a shard, its bytes without padding, for whoever looks for duplicates."""
    with store.publish(crcs_name(split, shard)) as stream:
        stream.write(np.array(crcs, dtype="<u4").tobytes())


def crcs_name(split: str, shard: str) -> str:
    """Return where the checksums of a shard's images are, as in plan/train-shard-000042.crc32."""
    return f"plan/{split}-{shard.removesuffix('.tar')}{CRCS_SUFFIX}"
