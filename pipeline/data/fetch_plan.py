"""What to fetch next and what to let go, of shards that are used in a known order. Plain values: no files, no threads.

    plan = FetchPlan(shard_bytes, share_bytes=4_000_000_000)
    plan.begin(steps)               # (step, distinct shards), lazily
    plan.look_ahead()
    plan.first_wanted()             # the shard that is used first of those not held, or None
    plan.take(17); plan.hold(17)    # it is being fetched; it is there
    plan.finish(1_234)
    plan.let_go()                   # [3]: held, and used in no step in sight after 1,234

With `share_bytes=None` all shards may be held for good: none is let go, and the uses are gone through only until every
shard was seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from pipeline.data.order import Int64Array

# A finished step's shards are let go once the uses of so many steps after it are known. The loader fills a few steps
# beyond the finished ones (data.prefetch, to be smaller than this), and must find theirs still there.
KNOWN_STEPS = 64
MAX_KNOWN_STEPS = 20_000
WANTED_AHEAD = 8
# Of looking ahead beyond what must be known, as others wait for the lock meanwhile.
LOOK_S = 0.02
_NOT_USED = -1
# As a last use: a shard that was asked for outside the uses, held until the next iteration.
_UNTIL_NEXT = np.iinfo(np.int64).max

StepShards = tuple[int, Int64Array]


class FetchPlan:
    """The state of one rank's iteration over a split. 9 bytes a shard.

    Attributes:
        held_bytes: of the shards that are held or being fetched.
        held: bool (shards,), whether each may be read.
        finished_step: the last that nothing is read for any more.
    """

    def __init__(self, shard_bytes: Int64Array, *, share_bytes: int | None) -> None:
        self.share_bytes = share_bytes
        self.held_bytes = 0
        self.held = np.zeros(len(shard_bytes), dtype=np.bool_)
        self.finished_step = -1
        self._bytes = shard_bytes
        self._steps: Iterator[StepShards] = iter(())
        self._at_end = True
        self._known_step = -1
        self._last_uses = np.full(len(shard_bytes), _NOT_USED, dtype=np.int64)
        # First uses of the shards that are to be fetched, and of those being fetched.
        self._wanted: dict[int, int] = {}
        self._taken: dict[int, int] = {}

    @property
    def has_work(self) -> bool:
        """Whether a step that ends may give a fetcher something to do."""
        return bool(self._wanted) or not (self._at_end or (self.share_bytes is None and self._all_are_seen()))

    def begin(self, steps: Iterator[StepShards]) -> None:
        """Begin an iteration. What is held stays, until it is known to have no use."""
        self._steps, self._at_end = steps, False
        self._known_step = self.finished_step = -1
        self._last_uses[:] = _NOT_USED
        self._wanted.clear()

    def look_ahead(self, *, only_needed: bool = False) -> bool:
        """Go through the coming uses, as far as shards may be let go and, where wanted, on until some are to fetch.

        Returns:
            Whether there is more to go through at once.
        """
        deadline_s = time.monotonic() + LOOK_S
        while not self._at_end and not (self.share_bytes is None and self._all_are_seen()):
            if self._known_step >= self.finished_step + KNOWN_STEPS:
                if only_needed or self._sees_enough():
                    return False
                if time.monotonic() > deadline_s:
                    return True
            if (use := next(self._steps, None)) is None:
                self._at_end = True
                return False
            step, shards = use
            if self._known_step < 0:
                self.finished_step = max(self.finished_step, step - 1)
            self._known_step = step
            for shard in shards[~self.held[shards]].tolist():
                if shard not in self._taken:
                    self._wanted.setdefault(shard, step)
            self._last_uses[shards] = np.maximum(self._last_uses[shards], step)
        return False

    def first_wanted(self) -> int | None:
        """Return the shard to fetch next."""
        return min(self._wanted, key=lambda shard: (self._wanted[shard], shard), default=None)

    def has_room(self, shard: int) -> bool:
        """Tell whether a shard fits the share beside what is held."""
        return self.share_bytes is None or self.held_bytes + int(self._bytes[shard]) <= self.share_bytes

    def is_stuck(self, shard: int) -> bool:
        """Tell whether a shard that has no room will never have any: the step in turn needs it and all that is held."""
        return not self._taken and self.next_use(shard) <= self.finished_step + 1

    def next_use(self, shard: int) -> float:
        """Return the first step in sight that uses a shard that is not held; infinity where none does."""
        return self._wanted.get(shard, self._taken.get(shard, math.inf))

    def ask_for(self, shards: Int64Array) -> None:
        """Keep shards that are about to be read, and fetch them, where the uses in sight do not say so."""
        unknown = np.unique(shards[self._last_uses[shards] <= self.finished_step])
        self._last_uses[unknown] = _UNTIL_NEXT
        for shard in np.unique(shards[~self.held[shards]]).tolist():
            if shard not in self._taken:
                self._wanted.setdefault(shard, self.finished_step)

    def take(self, shard: int) -> None:
        """A wanted shard is being fetched."""
        self._taken[shard] = self._wanted.pop(shard)
        self.held_bytes += int(self._bytes[shard])

    def hold(self, shard: int) -> None:
        """A taken shard is there."""
        del self._taken[shard]
        self.held[shard] = True

    def put_back(self, shard: int) -> None:
        """A taken shard could not be fetched; it is wanted as before."""
        self._wanted[shard] = self._taken.pop(shard)
        self.held_bytes -= int(self._bytes[shard])

    def drop(self, shard: int) -> None:
        """A shard is not wanted any more, or not held any more."""
        self._wanted.pop(shard, None)
        if self._taken.pop(shard, None) is not None or self.held[shard]:
            self.held_bytes -= int(self._bytes[shard])
        self.held[shard] = False
        self._last_uses[shard] = _NOT_USED

    def finish(self, step: int) -> None:
        """Nothing is read for this step and those before any more."""
        self.finished_step = max(self.finished_step, step)

    def let_go(self) -> list[int]:
        """Return the held shards that no step in sight uses; they are dropped."""
        if self.share_bytes is None or not (self._at_end or self._known_step >= self.finished_step + KNOWN_STEPS):
            return []
        shards: list[int] = np.flatnonzero(self.held & (self._last_uses <= self.finished_step)).tolist()
        for shard in shards:
            self.drop(shard)
        return shards

    def _sees_enough(self) -> bool:
        if self._known_step >= self.finished_step + MAX_KNOWN_STEPS or len(self._wanted) >= WANTED_AHEAD:
            return True
        first = self.first_wanted()
        return first is not None and not self.has_room(first)

    def _all_are_seen(self) -> bool:
        return len(self._wanted) + len(self._taken) + int(self.held.sum()) == len(self.held)
