"""How many bytes of shards an order needs at a time, from its coming uses. Pure.

    seen = WorkingSet(entry_bytes)
    for step, shards in uses:
        seen.add(shards)
    seen.max_bytes()        # the most that has to be held so that no shard is fetched twice

A shard is needed from the first to the last step in sight that uses it. Where an order reads all shards all the time
(order=full) that is soon the whole split; where it goes through them a window at a time it stays at the window.
"""

from __future__ import annotations

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


def allot(split_bytes: dict[str, int], *, room_bytes: int, ranks: int) -> dict[str, int | None]:
    """Share a cache out among the splits of a run and the ranks of a machine.

    Returns:
        For each split the bytes that a rank may hold, None where the whole split may stay for good.
    """
    if sum(split_bytes.values()) <= room_bytes:
        return dict.fromkeys(split_bytes)
    # The largest split is read through, the others stay where they are small.
    largest = max(split_bytes, key=lambda name: split_bytes[name])
    shares: dict[str, int | None] = {}
    left_bytes = room_bytes
    for name in sorted(split_bytes, key=lambda name: split_bytes[name]):
        if name == largest:
            shares[name] = None if split_bytes[name] <= left_bytes else left_bytes // ranks
        elif split_bytes[name] <= left_bytes // 8:
            shares[name] = None
            left_bytes -= split_bytes[name]
        else:
            share_bytes = left_bytes // 4
            shares[name] = share_bytes // ranks
            left_bytes -= share_bytes
    return shares
