"""What to read next and what to let go, of blocks of data that are used in a known order. Plain values, no files.

    ahead = Lookahead(uses, num_blocks=1_000, budget_blocks=64, group_blocks=8)
    group = ahead.next_group(wanted=256)    # group.blocks: read these, sorted, and 1,024 samples can be had
    ahead.finish(step=0)                    # [17, 18]: these blocks have no further use in sight

The uses of the coming steps are gone through as far as the blocks that they need fit the budget. A block is let go
when the last step *in sight* that uses it is finished. Where a window's samples are spread over all its blocks, those
stay until the window's end, and the room that they leave takes in the next window.

The budget holds but for one case: what the consumer waits for is read in any case, since it cannot go on, and so let
go of anything, without it. Where the budget is smaller than what is used again and again, blocks leave before their
next use is in sight and are read again: slower, never wrong; `blocks_read` tells.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
# Steps gone through for one group, where they need next to no blocks: their samples are there all the sooner.
MAX_GROUP_STEPS = 512

# How many times group_blocks a group grows at most, to end between windows.
MAX_GROWTH = 4

# A step, the number of samples in it, and the blocks that they lie in, any of them several times.
BlockUse = tuple[int, int, Int64Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Blocks to read in one go, ascending; with them there are so many samples of the iteration, from its start."""

    blocks: Int64Array
    samples: int


class Lookahead:
    """The state of one iteration. Takes 4 bytes a block, and 8 for each use in sight.

    Attributes:
        blocks_held: read or being read, and not let go.
        blocks_read: all that were ever asked to be read.
        samples: of the steps gone through so far.
        is_at_end: all uses are gone through.
    """

    def __init__(self, uses: Iterator[BlockUse], *, num_blocks: int, budget_blocks: int, group_blocks: int) -> None:
        """Begin; `uses` is read lazily.

        Args:
            budget_blocks: to hold at most.
            group_blocks: to read in one go, or some more: groups are sorted, so the larger they are, the longer the
                runs. While there is less room, and nobody waits, nothing is read.
        """
        if not 1 <= group_blocks <= budget_blocks:
            raise ValueError(f"group_blocks={group_blocks}: 1 to budget_blocks={budget_blocks} wanted")
        self._uses = uses
        self._budget, self._group = budget_blocks, group_blocks
        # Of each block the last use in sight, as a place in the iteration counted from 1; 0: it is not held.
        self._last_uses = np.zeros(num_blocks, dtype=np.int32)
        self._in_sight: deque[tuple[int, int, Int64Array]] = deque()
        self._next: BlockUse | None = None
        self._place = 0
        self._finished_step = -1
        self.blocks_held = self.blocks_read = self.samples = 0
        self.is_at_end = False

    def next_group(self, *, wanted: int) -> Group | None:
        """Return what to read now, None where nothing is to be read.

        Args:
            wanted: of the iteration's samples, counted from its start, how many the consumer waits for.
        """
        if wanted <= self.samples and self._budget - self.blocks_held < self._group:
            return None
        parts: list[Int64Array] = []
        num_blocks, first_samples = 0, self.samples
        while (use := self._peek()) is not None:
            step, _, blocks = use
            blocks = np.unique(blocks) if step > self._finished_step else blocks[:0]
            fresh = blocks[self._last_uses[blocks] == 0]
            # A group ends where nothing new is needed for a step. One that goes from window to window needs blocks
            # from all over a new one at once, and a cut in its midst would make many short runs of a few long ones.
            is_full = num_blocks >= self._group and (len(fresh) == 0 or num_blocks >= MAX_GROWTH * self._group)
            has_room = self.blocks_held + len(fresh) <= self._budget
            if wanted <= self.samples and (is_full or not has_room or len(parts) == MAX_GROUP_STEPS):
                break
            self._take(blocks)
            parts.append(fresh)
            num_blocks += len(fresh)
            self.blocks_held += len(fresh)
        if self.samples == first_samples:
            return None
        self.blocks_read += num_blocks
        return Group(blocks=np.sort(np.concatenate(parts)), samples=self.samples)

    def next_settled(self) -> int:
        """Take the next steps that need nothing new into sight, and return the samples that can be had then.

        To be called before `finish`: what is used again only by steps out of sight is let go there.
        """
        for _ in range(MAX_GROUP_STEPS):
            use = self._peek()
            if use is None or use[0] <= self._finished_step or (self._last_uses[use[2]] == 0).any():
                break
            self._take(np.unique(use[2]))
        return self.samples

    def finish(self, *, step: int) -> Int64Array:
        """Return the blocks, ascending, that no step in sight uses after this one and those before; they are let go."""
        self._finished_step = max(self._finished_step, step)
        gone = [np.empty(0, dtype=np.int64)]
        while self._in_sight and self._in_sight[0][0] <= step:
            _, place, blocks = self._in_sight.popleft()
            gone.append(self._unless_needed(blocks[self._last_uses[blocks] == place]))
            self._last_uses[gone[-1]] = 0
        self.blocks_held -= sum(map(len, gone))
        return np.sort(np.concatenate(gone))

    def _unless_needed(self, blocks: Int64Array) -> Int64Array:
        """Return the blocks without those that the next use, which is not in sight for want of room, needs too."""
        if self._next is None or self._next[0] <= self._finished_step or len(blocks) == 0:
            return blocks
        step, _, needed = self._next
        is_needed = np.isin(blocks, needed)
        if not is_needed.any():
            return blocks
        self._place += 1
        self._last_uses[blocks[is_needed]] = self._place
        self._in_sight.append((step, self._place, blocks[is_needed]))
        return blocks[~is_needed]

    def finish_all(self) -> Int64Array:
        """Let go of everything and return it, ascending."""
        held = np.flatnonzero(self._last_uses)
        self._last_uses[held] = 0
        self._in_sight.clear()
        self.blocks_held = 0
        return held

    def _take(self, blocks: Int64Array) -> None:
        """Take the next use, of these blocks, into sight."""
        assert self._next is not None
        step, num_samples, _ = self._next
        self._place += 1
        self._last_uses[blocks] = self._place
        self._in_sight.append((step, self._place, blocks))
        self._next = None
        self.samples += num_samples

    def _peek(self) -> BlockUse | None:
        """Return the next use, which is not gone through yet."""
        if self._next is None:
            self._next = next(self._uses, None)
            self.is_at_end = self._next is None
        return self._next
