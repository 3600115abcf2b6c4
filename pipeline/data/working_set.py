"""How many bytes of shards an order needs at a time, from its coming uses. Pure.

    seen = WorkingSet(entry_bytes)
    for step, shards in uses:
        seen.add(shards)
    seen.max_bytes()        # the most that has to be held so that no shard is fetched twice

A shard is needed from the first to the last step in sight that uses it. Where an order reads all shards all the time
(order=full) that is soon the whole split; where it goes through them a window at a time it stays at the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.data.order import Int64Array


class WorkingSet:
    """First and last uses of each shard, in steps counted from 0."""

    def __init__(self, shard_bytes: Int64Array) -> None:
        self._bytes = shard_bytes
        self._first = np.full(len(shard_bytes), -1, dtype=np.int64)
        self._last = np.full(len(shard_bytes), -1, dtype=np.int64)
        self.num_steps = 0
        self.seen_bytes = 0

    def add(self, shards: Int64Array) -> None:
        """Take the distinct shards of the next step."""
        new = shards[self._first[shards] < 0]
        self._first[new] = self.num_steps
        self.seen_bytes += int(self._bytes[new].sum())
        self._last[shards] = self.num_steps
        self.num_steps += 1

    def max_bytes(self) -> int:
        """Return the most bytes of shards that are between their first and their last use in any one step."""
        used = self._first >= 0
        changes = np.zeros(self.num_steps + 1, dtype=np.int64)
        np.add.at(changes, self._first[used], self._bytes[used])
        np.add.at(changes, self._last[used] + 1, -self._bytes[used])
        return int(np.cumsum(changes).max(initial=0))


def allot(sizes_bytes: Sequence[int], *, room_bytes: int, ranks: int) -> list[int | None]:
    """Share a cache out among the splits that a run reads, and the ranks of a machine.

    Half of the room goes to all splits alike, half by their sizes; what a small one does not need, the others have.

    Returns:
        For each split the bytes that a rank may hold, None where the whole split may stay for good.
    """
    shares: list[int | None] = [None] * len(sizes_bytes)
    if sum(sizes_bytes) <= room_bytes:
        return shares
    left_bytes = room_bytes
    rest = sorted(range(len(sizes_bytes)), key=lambda number: sizes_bytes[number])

    def share_of(number: int) -> int:
        rest_bytes = sum(sizes_bytes[other] for other in rest)
        return left_bytes // 2 // len(rest) + left_bytes // 2 * sizes_bytes[number] // rest_bytes

    while sizes_bytes[rest[0]] <= share_of(rest[0]):
        left_bytes -= sizes_bytes[rest.pop(0)]
    for number in rest:
        shares[number] = share_of(number) // ranks
    return shares
