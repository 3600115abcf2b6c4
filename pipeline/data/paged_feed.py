"""The feed of local shards that do not fit memory: read ahead in file order, dropped from memory behind the consumer.

    budget_bytes = paging_budget(data_bytes=300e9, available_bytes=available_bytes(), num_ranks=1)      # memory_room.py
    make_feed = None if budget_bytes is None else paged(data_set, "train", budget_bytes=budget_bytes, is_random=False)
    reader = PackedReader(data_set, "train", make_feed=make_feed)       # holds so much of the shards, always

One thread goes through the coming uses (pipeline/data/lookahead.py says which blocks of which shards to read and which
to let go), and sorts what is to be read; a few others bring it in, and drop what is let go (pipeline/shards/pages.py).
The pages are in the process's page table before the samples are asked for, so filling a batch is a gather from memory;
what was used for the last time leaves the page table and the page cache. Both thus stay at the budget, whatever the
size of the data.

A window order reads each shard in long runs and once an epoch, and so does evaluation's. Other orders work as well:
with `is_random=True` little but the samples themselves is read, at the disk's rate of random reads.

Measured: benchmarks/larger_than_memory.py, docs/SCALE.md.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.data.lookahead import BlockUse, Lookahead
from pipeline.data.reader import Int64Array, MakeFeed, Use
from pipeline.data.sample_ranges import RangesOf, encoded_ranges, packed_ranges
from pipeline.shards.check import check_sizes
from pipeline.shards.manifest import DataSet, Split
from pipeline.shards.mapping import MappedFiles
from pipeline.shards.pages import LARGE_BYTES, MappedPages

log = logging.getLogger(__name__)

BLOCK_BYTES = LARGE_BYTES
# For samples in random places: with 64x64 RGB images twice their bytes are read, where 2 MB each would be 160 times.
RANDOM_BLOCK_BYTES = 16 << 10
# Threads that wait for the disk, each for one piece; small pieces need more of them to keep it busy.
THREADS, RANDOM_THREADS = 4, 16
PIECE_BYTES = LARGE_BYTES
# Pieces planned and not loaded yet. What is planned cannot be replaced by what turns out to be needed at once.
QUEUED_PIECES = 32
MAX_GROUP_BYTES = 256 << 20
GROUPS_IN_BUDGET = 8
# Above so many bytes read for a byte used the budget holds no window, and that is said.
WASTEFUL_READS = 2.0


def paged(data_set: DataSet, split_name: str, *, budget_bytes: int, is_random: bool) -> MakeFeed:
    """Return what makes the feed of a local split, packed or encoded, for its reader.

    Args:
        is_random: the order jumps over the whole split, as `full` does.
    """
    split = data_set.split(split_name)
    ranges_of = encoded_ranges(split) if data_set.packed is None else packed_ranges(data_set.packed, split)
    block_bytes = RANDOM_BLOCK_BYTES if is_random else BLOCK_BYTES
    return functools.partial(PagedFeed, split, ranges_of, budget_bytes=budget_bytes, block_bytes=block_bytes)


class Pages(Protocol):
    """What MappedPages does."""

    def load(self, shard: int, offset: int, size_bytes: int) -> None: ...
    def drop(self, shard: int, offset: int, size_bytes: int) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class Loading:
    """A group on its way: pieces still to come, and how many samples, from the iteration's start, are there then."""

    pieces: int
    samples: int


class Blocks:
    """Blocks of the files of a split, numbered through; the last one of a file may be shorter."""

    def __init__(self, sizes_bytes: Int64Array, *, block_bytes: int) -> None:
        self.block_bytes, self._sizes = block_bytes, sizes_bytes
        counts = -(-sizes_bytes // block_bytes)
        self._firsts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def of(self, shards: Int64Array, begins: Int64Array, ends: Int64Array) -> Int64Array:
        """Return the blocks that ranges [begin, end) of files lie in, some of them several times."""
        firsts = self._firsts[shards] + begins // self.block_bytes
        counts = self._firsts[shards] + (ends - 1) // self.block_bytes - firsts + 1
        blocks: Int64Array = np.repeat(firsts - np.cumsum(counts) + counts, counts)
        return blocks + np.arange(len(blocks))

    def runs(self, blocks: Int64Array) -> Iterator[tuple[int, int, int]]:
        """Yield (file, offset, size) of the contiguous runs of ascending blocks, none over two files."""
        files = np.searchsorted(self._firsts, blocks, side="right") - 1
        borders = np.flatnonzero((np.diff(blocks) != 1) | (np.diff(files) != 0)) + 1
        for run in np.split(np.arange(len(blocks)), borders) if len(blocks) else []:
            file = int(files[run[0]])
            begin, end = ((blocks[run[[0, -1]]] - self._firsts[file] + [0, 1]) * self.block_bytes).tolist()
            yield file, begin, min(end, int(self._sizes[file])) - begin


class PagedFeed:
    """Maps a split's shards, and keeps what is about to be read in memory.

    Attributes:
        bytes_read: from the disk, since the feed was opened.
        bytes_held: of the shards, in memory or on their way there.
    """

    def __init__(
        self,
        split: Split,
        ranges_of: RangesOf,
        mapped: MappedFiles | None = None,
        *,
        budget_bytes: int,
        block_bytes: int = BLOCK_BYTES,
        pages: Pages | None = None,
    ) -> None:
        """Open a split.

        Args:
            mapped: the range that the reader reads from.
            budget_bytes: of the shards to hold in memory; at least the samples of a few batches.
            block_bytes: that are read and dropped together, a multiple of the page size.
            pages: what carries advice out; None for the kernel.

        Raises:
            DamageError: a shard or sidecar is missing or has another length.
        """
        check_sizes(split)
        shards = split.shards
        if pages is None:
            assert mapped is not None, "pages are advised about through their mapping"
            is_large = block_bytes % LARGE_BYTES == 0
            pages = MappedPages(mapped, [shard.path for shard in shards], is_large=is_large)
        self._pages, self._ranges_of = pages, ranges_of
        self._blocks = Blocks(np.array([shard.size_bytes for shard in shards]), block_bytes=block_bytes)
        self._budget_blocks = max(2, budget_bytes // block_bytes)
        self._group_blocks = max(1, min(self._budget_blocks // GROUPS_IN_BUDGET, MAX_GROUP_BYTES // block_bytes))
        self.bytes_read = self.bytes_held = 0
        self._bytes_used = 0
        self._is_warned = False
        # What the consumer has asked for and done, told to the planning thread; what is loaded, told back.
        self._changed = threading.Condition()
        self._uses: Iterator[Use] | None = None
        self._is_running = self._is_closed = False
        self._wanted = self._ready = 0
        self._finished_step = -1
        self._error: Exception | None = None
        self._queued = 0
        num_threads = THREADS if block_bytes >= PIECE_BYTES else RANDOM_THREADS
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="pages")
        self._planner = threading.Thread(target=self._plan, name="read-ahead", daemon=True)
        self._planner.start()

    def start(self, uses: Iterator[Use]) -> None:
        with self._changed:
            self._uses, self._is_running = uses, True
            self._wanted = self._ready = 0
            self._finished_step = -1
            self._error = None
            self._changed.notify_all()

    def wait_for(self, shards: Int64Array) -> None:
        """Return when as many samples are in memory, from the iteration's start on, as were ever waited for.

        Which shards they lie in does not matter: batches are asked for in their order, so that with the n-th sample
        asked for come those before it. Outside an iteration there is nothing to wait for; what is then read is
        brought in by faults.
        """
        with self._changed:
            if not self._is_running:
                return
            self._wanted += len(shards)
            wanted = self._wanted
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ready >= wanted or self._error or not self._is_running)
            if self._error:
                raise self._error

    def finish(self, step: int) -> None:
        with self._changed:
            self._finished_step = step
            self._changed.notify_all()

    def counters(self) -> dict[str, float]:
        return {"disk_bytes": float(self.bytes_read)}

    def close(self) -> None:
        """Drop everything and end the threads."""
        with self._changed:
            self._is_closed, self._is_running = True, False
            self._changed.notify_all()
        self._planner.join()
        self._pool.shutdown()
        self._pages.close()

    def _plan(self) -> None:
        """Plan iteration after iteration; the whole life of its thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._uses is not None or self._is_closed)
                uses, self._uses = self._uses, None
                if uses is None or self._is_closed:
                    break
            ahead = Lookahead(
                self._block_uses(uses),
                num_blocks=len(self._blocks),
                budget_blocks=self._budget_blocks,
                group_blocks=self._group_blocks,
            )
            try:
                self._iterate(ahead)
            except Exception as error:
                self._fail(error)
            self._drop(ahead.finish_all())

    def _iterate(self, ahead: Lookahead) -> None:
        """Read ahead and drop behind, until another iteration starts or the feed is closed."""
        loading: deque[Loading] = deque()
        waiting: deque[tuple[Loading, int, int, int]] = deque()
        finished_step = -1
        while True:
            with self._changed:
                if self._uses is not None or self._is_closed:
                    # What is on its way cannot be dropped before it is there.
                    self._changed.wait_for(lambda: self._queued == 0)
                    return
                wanted, is_busy = self._wanted, self._queued >= QUEUED_PIECES
                is_finished, finished_step = self._finished_step > finished_step, self._finished_step
            if is_finished:
                self._look_on(loading, ahead)
                self._drop(ahead.finish(step=finished_step))
            if not is_busy and not waiting:
                self._extend(waiting, loading, ahead, wanted=wanted)
            if not is_busy and waiting:
                with self._changed:
                    self._queued += 1
                self._pool.submit(self._load, loading, *waiting.popleft())
            else:
                self._rest(ahead, wanted=wanted, finished_step=finished_step, is_busy=is_busy)
            self.bytes_held = ahead.blocks_held * self._blocks.block_bytes

    def _extend(
        self,
        waiting: deque[tuple[Loading, int, int, int]],
        loading: deque[Loading],
        ahead: Lookahead,
        *,
        wanted: int,
    ) -> None:
        """Append the pieces of the next group, if there is one."""
        group = ahead.next_group(wanted=wanted)
        if group is None:
            return
        pieces = [
            (shard, start, min(PIECE_BYTES, offset + size - start))
            for shard, offset, size in self._blocks.runs(group.blocks)
            for start in range(offset, offset + size, PIECE_BYTES)
        ]
        its = Loading(pieces=len(pieces), samples=group.samples)
        with self._changed:
            loading.append(its)
            self._tell_ready(loading)
        waiting.extend((its, *piece) for piece in pieces)

    def _look_on(self, loading: deque[Loading], ahead: Lookahead) -> None:
        """Go through the steps that need nothing new: what they use must not be dropped."""
        known = ahead.samples
        if ahead.next_settled() > known:
            with self._changed:
                loading.append(Loading(pieces=0, samples=ahead.samples))
                self._tell_ready(loading)

    def _load(self, loading: deque[Loading], its: Loading, shard: int, offset: int, size_bytes: int) -> None:
        """Bring a piece in; in any of the threads."""
        try:
            self._pages.load(shard, offset, size_bytes)
        except Exception as error:
            self._fail(error)
        with self._changed:
            self.bytes_read += size_bytes
            self._queued -= 1
            its.pieces -= 1
            self._tell_ready(loading)
            self._changed.notify_all()

    def _tell_ready(self, loading: deque[Loading]) -> None:
        """Count the samples of the leading groups that are there; for who holds the lock."""
        while loading and loading[0].pieces == 0:
            samples = loading.popleft().samples
            # Not of an iteration that is over.
            if self._uses is None:
                self._ready = samples
                self._changed.notify_all()

    def _rest(self, ahead: Lookahead, *, wanted: int, finished_step: int, is_busy: bool) -> None:
        """Wait for news, with nothing to plan."""
        with self._changed:
            if ahead.is_at_end and self._uses is None and not is_busy:
                self._changed.wait_for(lambda: self._queued == 0)
                # Whoever reads on after the last use, outside an iteration, must not wait; but of one that has begun
                # meanwhile nothing is ready: its steps would be finished, and dropped, before they are loaded.
                if self._uses is None:
                    self._ready = sys.maxsize
                    self._changed.notify_all()
            self._changed.wait_for(
                lambda: (
                    self._wanted > wanted
                    or self._finished_step > finished_step
                    or self._uses is not None
                    or self._is_closed
                    or (is_busy and self._queued < QUEUED_PIECES)
                )
            )

    def _drop(self, blocks: Int64Array) -> None:
        for shard, offset, size_bytes in self._blocks.runs(blocks):
            self._pool.submit(self._let_go, shard, offset, size_bytes)

    def _let_go(self, shard: int, offset: int, size_bytes: int) -> None:
        """Drop a run; in any of the threads."""
        try:
            self._pages.drop(shard, offset, size_bytes)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Tell whoever waits: nobody looks at a thread."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _block_uses(self, uses: Iterator[Use]) -> Iterator[BlockUse]:
        for step, sample_ids in uses:
            shards, begins, ends = self._ranges_of(sample_ids)
            self._bytes_used += int((ends - begins).sum())
            self._warn_of_waste()
            yield step, len(sample_ids), self._blocks.of(shards, begins, ends)

    def _warn_of_waste(self) -> None:
        budget_bytes = self._budget_blocks * self._blocks.block_bytes
        if not self._is_warned and self.bytes_read > WASTEFUL_READS * self._bytes_used + budget_bytes:
            self._is_warned = True
            log.warning(
                "data: the disk reads %.1f times the bytes of the images, as the order uses more of the data at a time"
                " than the %d MB of memory for it: order=window, smaller windows or chunks, or more memory read less",
                self.bytes_read / self._bytes_used,
                budget_bytes >> 20,
            )
