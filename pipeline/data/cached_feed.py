"""The feed of remote shards: fetched into the node's cache before they are read, in the order of their first use.

    feed = CachedFeed(split, entries, mapped, cache=cache, share_bytes=None)
    feed.start(uses)                # goes through the coming uses and downloads ahead of the consumer
    feed.wait_for(shards)           # until these are in the cache and mapped
    feed.finish(step)               # what no coming step in sight uses may be evicted

A few threads take the shard that is used first of those that are not there (pipeline/data/fetch_plan.py), fetch it, map
it and pin it, as far as the rank's share of the cache allows. A shard whose last use in sight is finished is unmapped
and let go; it stays in the cache until its room is needed.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from pipeline.data.cache_entry import CacheEntry
from pipeline.data.download import StoppedError
from pipeline.data.fetch_plan import FetchPlan, StepShards
from pipeline.data.file_locks import Pin
from pipeline.data.order import Int64Array
from pipeline.data.reader import Use
from pipeline.data.shard_cache import ShardCache
from pipeline.data.working_set import WorkingSet
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import Split
from pipeline.shards.mapping import MappedFiles

log = logging.getLogger(__name__)

NUM_FETCHERS = 4
# Of the uses gone through at the start, to find out whether order and cache go together.
MAX_CHECKED_SHARDS = 300_000
CHECKED_ROUNDS = 64
_REST_S = 0.2
_SLOW_S = 30.0


class CachedFeed:
    """Keeps one rank's coming shards of a split in the cache, and mapped.

    Attributes:
        waited_s: that `wait_for` has taken, over all threads.
        cache: whose `bytes_downloaded`, `num_downloads` and `num_hits` tell more.
    """

    def __init__(
        self,
        split: Split,
        entries: Sequence[CacheEntry],
        mapped: MappedFiles,
        *,
        cache: ShardCache,
        share_bytes: int | None,
        all_bytes: int | None = None,
    ) -> None:
        """Begin with nothing fetched.

        Args:
            entries: one to a shard of the split.
            mapped: the reader's range, into which shards are mapped.
            share_bytes: of the cache, that this rank may hold at a time; None: all of the split.
            all_bytes: what a cache would need to hold all that the run reads, for the error that says so.
        """
        self.cache, self.waited_s = cache, 0.0
        self._split, self._entries, self._mapped = split, entries, mapped
        self._bytes = np.array([entry.size_bytes for entry in entries], dtype=np.int64)
        self._all_bytes = int(self._bytes.sum()) if all_bytes is None else all_bytes
        counts = [shard.num_samples for shard in split.shards]
        self._first_ids = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        self._number_of = {entry.key: number for number, entry in enumerate(entries)}
        self._pins: dict[int, Pin] = {}
        self._is_checked = self._is_closed = False
        # What follows is read and written under one lock; who waits for a shard is woken by `_changed`, who fetches by
        # `_work`: a step that ends wakes one thread.
        lock = threading.RLock()
        self._changed, self._work = threading.Condition(lock), threading.Condition(lock)
        self._plan = FetchPlan(self._bytes, share_bytes=share_bytes)
        self._generation = 0
        self._num_fetching = 0
        self._awaited: Counter[int] = Counter()
        self._failed: dict[int, UserError] = {}
        self._resting_until_s = 0.0
        self._threads: list[threading.Thread] = []

    def start(self, uses: Iterator[Use]) -> None:
        """Begin an iteration.

        Raises:
            UserError: the order needs more of the split at a time than the cache may hold.
        """
        steps = self._steps(uses)
        share_bytes = self._plan.share_bytes
        if share_bytes is not None and not self._is_checked:
            steps = self._check(steps, share_bytes)
            self._is_checked = True
        with self._changed:
            if share_bytes is not None:
                # Else what is left of the last iteration would take the room of what is used first.
                self._generation += 1
                self._changed.wait_for(lambda: not self._num_fetching)
                for shard in list(self._pins):
                    self._plan.drop(shard)
                    self._detach(shard)
            self._plan.begin(steps)
            self._failed.clear()
            self._resting_until_s = 0.0
            self._start_threads()
            self._work.notify_all()

    def wait_for(self, shards: Int64Array) -> None:
        """Return when these shards and their sidecars are at hand; they stay until their step is finished."""
        if self._plan.share_bytes is None and self._plan.held[shards].all():
            return
        with self._changed:
            self._look_ahead(only_needed=True)
            missing = np.unique(shards[~self._plan.held[shards]])
            self._raise_failure(missing)
            self._plan.ask_for(shards)
            if len(missing):
                self._wait(missing)

    def finish(self, step: int) -> None:
        with self._changed:
            self._plan.finish(step)
            if self._plan.has_work:
                self._resting_until_s = 0.0
                self._work.notify()

    def counting_parts(self) -> tuple[object, ...]:
        return (self.cache,)

    def close(self) -> None:
        """Unmap and let go of everything; what is in the cache stays there."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._work.notify_all()
        for thread in self._threads:
            thread.join()
        for shard in list(self._pins):
            self._plan.drop(shard)
            self._detach(shard)

    def _wait(self, missing: Int64Array) -> None:
        started_s = told_s = time.monotonic()
        awaited = Counter(missing.tolist())
        self._awaited.update(awaited)
        self._start_threads()
        self._resting_until_s = 0.0
        self._work.notify_all()
        try:
            while not self._plan.held[missing].all():
                if self._is_closed:
                    raise UserError(f"split {self._split.name}: the feed is closed")
                self._raise_failure(missing)
                self._changed.wait(1.0)
                if time.monotonic() - told_s > _SLOW_S:
                    told_s = time.monotonic()
                    shard = int(missing[np.argmin(self._plan.held[missing])])
                    url = self._entries[shard].files[0].url
                    log.warning("data: waiting for %s for %.0f s", url, told_s - started_s)
        finally:
            self._awaited -= awaited
            self.waited_s += time.monotonic() - started_s

    def _raise_failure(self, shards: Int64Array) -> None:
        if self._failed and (failed := [self._failed[shard] for shard in shards.tolist() if shard in self._failed]):
            raise failed[0]

    def _run(self) -> None:
        """Fetch one shard after the other; a thread's whole life."""
        while (taken := self._next_shard()) is not None:
            shard, generation = taken
            pin: Pin | None = None
            error: UserError | None = None
            is_stopped = False
            try:
                pin = self._fetch(shard, generation)
                if pin is not None:
                    self._mapped.map_file(shard, self._split.shards[shard].path)
            except StoppedError:
                is_stopped = True
            except UserError as raised:
                error = raised
            except Exception as raised:
                error = UserError(f"{self._entries[shard].files[0].url}: {raised!r}")
            with self._changed:
                self._num_fetching -= 1
                if pin is not None and error is None:
                    self._pins[shard] = pin
                    self._plan.hold(shard)
                elif error is not None:
                    self._failed[shard] = error
                    self._plan.drop(shard)
                    if pin is not None:
                        pin.close()
                elif is_stopped:
                    self._plan.drop(shard)
                else:
                    # No room, and no hurry: others have it for now.
                    self._plan.put_back(shard)
                    self._resting_until_s = time.monotonic() + _REST_S
                self._changed.notify_all()

    def _fetch(self, shard: int, generation: int) -> Pin | None:
        step = self._plan.next_use(shard)
        return self.cache.fetch(
            self._entries[shard],
            next_use=self._next_use,
            is_urgent=lambda: self._is_needed(step),
            is_stopped=lambda: self._is_closed or self._generation != generation,
        )

    def _next_shard(self) -> tuple[int, int] | None:
        """Return the shard to fetch now, when there is one, and the iteration; None when the feed is closed."""
        with self._changed:
            while not self._is_closed:
                has_more = self._look_ahead()
                for shard in self._plan.let_go():
                    self._detach(shard)
                if (chosen := self._choose()) is not None:
                    self._plan.take(chosen)
                    self._num_fetching += 1
                    self._work.notify()
                    return chosen, self._generation
                is_blocked = self._plan.first_wanted() is not None
                self._work.wait(0.001 if has_more else _REST_S if is_blocked else None)
        return None

    def _choose(self) -> int | None:
        """Return the wanted shard that is used first, if it may be fetched now."""
        if (shard := self._plan.first_wanted()) is None:
            return None
        is_needed = self._is_needed(self._plan.next_use(shard))
        if not self._plan.has_room(shard):
            # What is held is used before, and let go when its steps are finished, unless this is one of them.
            if is_needed and self._plan.is_stuck(shard):
                share_bytes = self._plan.share_bytes or 0
                self._failed[shard] = self._too_much(self._plan.held_bytes + int(self._bytes[shard]), share_bytes)
                self._plan.drop(shard)
                self._changed.notify_all()
            return None
        is_resting = time.monotonic() < self._resting_until_s
        return shard if is_needed or not (is_resting or self.cache.folder.is_hungry()) else None

    def _is_needed(self, step: float) -> bool:
        """Tell whether anybody waits for a shard that is used at this step or later."""
        with self._changed:
            waiting = [shard for shard in self._awaited if not self._plan.held[shard]]
            return any(math.inf > self._plan.next_use(shard) >= step for shard in waiting)

    def _next_use(self, key: str) -> float:
        shard = self._number_of.get(key)
        return math.inf if shard is None else self._plan.next_use(shard)

    def _look_ahead(self, *, only_needed: bool = False) -> bool:
        try:
            return self._plan.look_ahead(only_needed=only_needed)
        except Exception as raised:
            # Told to whoever waits: nobody looks at a thread.
            error = raised if isinstance(raised, UserError) else UserError(f"split {self._split.name}: {raised!r}")
            self._plan.begin(iter(()))
            self._failed = dict.fromkeys(range(len(self._entries)), error)
            self._changed.notify_all()
            return False

    def _detach(self, shard: int) -> None:
        """Unmap and unpin a shard that the plan has dropped."""
        self._mapped.unmap_file(shard)
        self._pins.pop(shard).close()

    def _steps(self, uses: Iterator[Use]) -> Iterator[StepShards]:
        for step, sample_ids in uses:
            yield step, np.unique(np.searchsorted(self._first_ids, sample_ids, side="right") - 1)

    def _check(self, steps: Iterator[StepShards], share_bytes: int) -> Iterator[StepShards]:
        """Return the steps, those gone through included, after holding the order against the room.

        Where the share fills up within k steps, up to 64 k steps are looked at, by which time an order that returns
        to shards that were let go has done so.
        """
        working_set = WorkingSet(self._bytes)
        seen: deque[StepShards] = deque()
        full_after: int | None = None
        num_shards = 0
        for step, shards in steps:
            seen.append((step, shards))
            working_set.add(shards)
            num_shards += len(shards)
            if full_after is None and working_set.seen_bytes > share_bytes:
                full_after = working_set.num_steps
            if full_after is None:
                is_done = num_shards >= MAX_CHECKED_SHARDS
            else:
                is_done = num_shards >= MAX_CHECKED_SHARDS or working_set.num_steps >= CHECKED_ROUNDS * full_after
                # At powers of two, so that looking costs little beside going through.
                if is_done or working_set.num_steps.bit_count() == 1:
                    self._check_fits(working_set, share_bytes)
            if is_done:
                break
        self._check_fits(working_set, share_bytes)
        return chain(seen, steps)

    def _check_fits(self, working_set: WorkingSet, share_bytes: int) -> None:
        if (needed_bytes := working_set.max_bytes()) > share_bytes:
            raise self._too_much(needed_bytes, share_bytes)

    def _too_much(self, needed_bytes: int, share_bytes: int) -> UserError:
        return UserError(
            f"split {self._split.name}: this order reads {needed_bytes:,} bytes of shards at a time or more, and"
            f" cache.max_bytes={self.cache.options.max_bytes} leaves a rank {share_bytes:,} for them: read less at"
            " a time (order=window, smaller windows or batches, fewer lanes), or let the cache hold everything:"
            f" cache.max_bytes={self._all_bytes}"
        )

    def _start_threads(self) -> None:
        if not self._threads and not self._is_closed:
            for number in range(NUM_FETCHERS):
                thread = threading.Thread(target=self._run, name=f"fetch-{number}", daemon=True)
                self._threads.append(thread)
                thread.start()
