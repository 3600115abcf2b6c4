"""Exact duplicates: samples whose stored images are equal byte for byte, within a split or in two of them (leakage).

    duplicates = find_duplicates(StoredSet(data_set=data_set, store=store))
    duplicates.num_groups, duplicates.num_copies("train"), duplicates.num_shared("val", "train")
    duplicates.group(0)                         # [("train", 17), ("val", 3)]: ids

Equal CRC-32 and equal length of two images make them candidates; 14 million samples give about 23,000 such pairs by
chance. The candidates alone are read, and compared by SHA-256. No image is read for its CRC-32: preparation
leaves them, or they follow from the sidecars (data_prep/card/content_crc.py). Sixteen bytes a sample are held.
"""

from __future__ import annotations

import hashlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.card.content_crc import crcs_of_zeros, middle_crc32
from data_prep.card.stored_set import StoredSet, StoredShard
from pipeline.shards.crc import CrcArray
from pipeline.shards.record import BLOCK_BYTES
from pipeline.storage import is_local

# Reading waits for the disk most of the time.
READING_THREADS = 8
PIECE_BYTES = 1 << 20

IdArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Groups of equal images.

    Samples are numbered over all splits, one behind the other: id i of split k is number split_starts[k] + i.

    Attributes:
        splits: names of the splits.
        split_starts: (splits + 1,), number of each split's first sample, and of all samples.
        numbers: (members,), the groups' members one group behind the other, rising within a group.
        group_starts: (groups + 1,), where in `numbers` each group starts; groups are ordered by their first members.
    """

    splits: tuple[str, ...]
    split_starts: IdArray
    numbers: IdArray
    group_starts: IdArray

    @property
    def num_groups(self) -> int:
        return len(self.group_starts) - 1

    def group(self, number: int, *, limit: int | None = None) -> list[tuple[str, int]]:
        """Return (split, id) of a group's members, rising; with a limit one of each split, then the first others."""
        members = self.numbers[self.group_starts[number] : self.group_starts[number + 1]]
        places = np.searchsorted(self.split_starts, members, side="right") - 1
        if limit is not None and len(members) > limit:
            first_of_splits = np.unique(places, return_index=True)[1][:limit]
            others = np.setdiff1d(np.arange(limit), first_of_splits)[: limit - len(first_of_splits)]
            chosen = np.sort(np.concatenate([first_of_splits, others]))
            members, places = members[chosen], places[chosen]
        return [
            (self.splits[place], int(member - self.split_starts[place]))
            for place, member in zip(places, members, strict=True)
        ]

    def group_sizes(self) -> IdArray:
        """Return the number of members of each group by split, int64 (groups, splits)."""
        num_splits = len(self.splits)
        places = np.searchsorted(self.split_starts, self.numbers, side="right") - 1
        group_of = np.repeat(np.arange(self.num_groups), np.diff(self.group_starts))
        counts = np.bincount(group_of * num_splits + places, minlength=self.num_groups * num_splits)
        return counts.astype(np.int64).reshape(self.num_groups, num_splits)

    def num_copies(self, split: str) -> int:
        """Return how many samples of a split repeat another of it: what would go, were one of each kept."""
        column = self.group_sizes()[:, self.splits.index(split)]
        return int(np.maximum(column - 1, 0).sum())

    def num_shared(self, split: str, other: str) -> int:
        """Return how many samples of `split` are also in `other`."""
        sizes = self.group_sizes()
        return int(sizes[sizes[:, self.splits.index(other)] > 0, self.splits.index(split)].sum())


def find_duplicates(stored: StoredSet) -> Duplicates | None:
    """Find all groups of equal stored images.

    Returns:
        None where that would mean to fetch all shards: they are remote and their images' checksums are not there.

    Raises:
        UserError: a shard is missing or cannot be read.
        DamageError: a shard is too short, or its sidecar is not what the manifest says.
    """
    splits = stored.data_set.splits.values()
    keys = np.empty(sum(split.num_samples for split in splits), dtype=np.uint64)

    def fill_keys(shard: StoredShard) -> bool:
        crcs = stored.content_crcs(shard)
        if crcs is None:
            if not is_local(stored.place(shard)[0]):
                return False
            crcs = derived_crcs(stored, shard)
        keys[shard.start : shard.end] = candidate_keys(crcs, stored.rows(shard)["image_bytes"])
        return True

    def fill_digests(shard: StoredShard) -> None:
        start, end = np.searchsorted(candidates, [shard.start, shard.end])
        if start < end:
            digests[start:end] = image_digests(stored, shard, candidates[start:end] - shard.start)

    with ThreadPoolExecutor(READING_THREADS) as pool:
        if not all(pool.map(fill_keys, stored.shards())):
            return None
        candidates = repeated(keys)
        digests = np.empty((len(candidates), 4), dtype=np.uint64)
        list(pool.map(fill_digests, stored.shards()))
    numbers, group_starts = equal_runs(candidates, digests)
    return Duplicates(
        splits=tuple(split.name for split in splits),
        split_starts=np.cumsum([0, *(split.num_samples for split in splits)]).astype(np.int64),
        numbers=numbers,
        group_starts=group_starts,
    )


def candidate_keys(content_crcs: CrcArray, image_bytes: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit key of each image, equal for equal images: its CRC-32, then its length modulo 2^32."""
    return content_crcs.astype(np.uint64) << np.uint64(32) | image_bytes.astype(np.uint64) & np.uint64(0xFFFFFFFF)


def repeated(keys: npt.NDArray[np.uint64]) -> IdArray:
    """Return the indices, rising, of all keys that stand there more than once. Holds one more copy of the keys."""
    in_order = np.sort(keys)
    twice = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    del in_order
    if len(twice) == 0:
        return np.empty(0, dtype=np.int64)
    found = []
    for start in range(0, len(keys), PIECE_BYTES):
        piece = keys[start : start + PIECE_BYTES]
        places = np.minimum(np.searchsorted(twice, piece), len(twice) - 1)
        found.append(start + np.flatnonzero(twice[places] == piece))
    return np.concatenate(found).astype(np.int64)


def equal_runs(numbers: IdArray, digests: npt.NDArray[np.uint64]) -> tuple[IdArray, IdArray]:
    """Group numbers, rising, by equal rows of `digests`; those that are alone are left out.

    Returns:
        members, one group behind the other, and where each group starts, with the number of members at the end.
    """
    order = np.lexsort((numbers, *digests.T))
    in_order = digests[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)
    group_of = np.cumsum(first) - 1
    sizes = np.bincount(group_of) if len(order) else np.empty(0, dtype=np.int64)
    starts = np.flatnonzero(first)
    kept = np.flatnonzero(sizes > 1)
    kept = kept[np.argsort(numbers[order[starts[kept]]], kind="stable")]
    group_starts = np.cumsum([0, *sizes[kept].tolist()]).astype(np.int64)
    # Member j of the result is the (j - start of its new group)-th of its old one.
    moves = np.repeat(starts[kept] - group_starts[:-1], sizes[kept])
    return numbers[order[moves + np.arange(len(moves))]], group_starts


def derived_crcs(stored: StoredSet, shard: StoredShard) -> CrcArray:
    """Return the CRC-32 of each image of a shard, reading only what its records hold besides: some 1,536 bytes each."""
    rows = stored.rows(shard)
    starts, image_starts = rows["record_offset"], rows["image_offset"]
    image_ends = image_starts + rows["image_bytes"]
    before = np.zeros(len(rows), dtype=np.uint32)
    after_bytes = (starts + rows["record_bytes"] - image_ends).astype(np.int64)
    # Less than a block is padding; a foreign record may have more members behind its image.
    after = crcs_of_zeros(BLOCK_BYTES)[np.minimum(after_bytes, BLOCK_BYTES)]
    for record, (start, end) in enumerate(zip(starts.tolist(), image_starts.tolist(), strict=True)):
        before[record] = zlib.crc32(stored.read_at(shard, offset=start, size_bytes=end - start))
    for record in np.flatnonzero(after_bytes >= BLOCK_BYTES).tolist():
        piece = stored.read_at(shard, offset=int(image_ends[record]), size_bytes=int(after_bytes[record]))
        after[record] = zlib.crc32(piece)
    return middle_crc32(
        rows["crc32"],
        before=before,
        middle_bytes=rows["image_bytes"].astype(np.int64),
        after=after,
        after_bytes=after_bytes,
    )


def image_digests(stored: StoredSet, shard: StoredShard, records: IdArray) -> npt.NDArray[np.uint64]:
    """Read some images of a shard and return the SHA-256 of each, uint64 (images, 4)."""
    rows = stored.rows(shard)[records]
    digests = bytearray()
    for offset, size in zip(rows["image_offset"].tolist(), rows["image_bytes"].tolist(), strict=True):
        digest = hashlib.sha256()
        for start in range(0, size, PIECE_BYTES):
            digest.update(stored.read_at(shard, offset=offset + start, size_bytes=min(PIECE_BYTES, size - start)))
        digests += digest.digest()
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64).reshape(-1, 4)
