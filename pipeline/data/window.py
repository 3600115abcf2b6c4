"""The window order: shuffled well enough, while each lane has only a few chunks open. Pure mathematics, numpy only.

    order = WindowOrder(shard_counts=[25_000] * 52, batch_size=256, seed=7, lanes=8, window_chunks=4)
    slots = order.global_batch(epoch=3, step=12)        # slots 0..31 read lane 0, slots 32..63 lane 1, ...
    chunks = order.lane_chunks(epoch=3, lane=0)         # the runs of samples that lane 0 goes through, in order
    chunks.first_ids[:4], chunks.windows[:5]            # its first four shards, [0 0 0 0 1]: four at a time

The split is cut into *chunks*, runs of one shard. An epoch lays them end to end in shuffled order and cuts that tape
into equal *lanes*; slot s of a global batch of B belongs to lane s*lanes//B. A lane goes through its chunks a *window*
of a few at a time, and takes the samples of a window in shuffled order. So a host reads its lanes' shards alone, once
an epoch, and has few of them open at any time. Specification: docs/ORDER.md.

There is no state: any step of any epoch is computed from (shard counts, batch size, seed, lanes, window, chunk). What
is kept is 8 bytes a chunk, and 8 more for each of the last two epochs asked for: 0.8 MB for a billion samples in 50,000
shards, 1.2 MB where epochs meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.data.order import Int64Array, Slots, positions_of
from pipeline.shards.errors import UserError
from pipeline.shards.keyed import make_key
from pipeline.shards.permutation import permute, permute_runs

# Epochs whose chunks stay laid out: the one in use and one that another thread has gone on to.
KEPT_EPOCHS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneChunks:
    """The chunks of one lane in one epoch, or the parts of them that lie in it, in the order that the lane has.

    Attributes:
        first_ids: int64 (chunks,), the first sample id of each.
        counts: int64 (chunks,), its samples, from first_ids on.
        windows: int64 (chunks,), the window that it belongs to: 0, 1, 2...
    """

    first_ids: Int64Array
    counts: Int64Array
    windows: Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """Window `number` of a lane: places [begin, end) of the epoch's tape."""

    lane: int
    number: int
    begin: int
    end: int


class WindowOrder:
    """Every epoch the chunks are shuffled, and the samples within windows of chunks; O(batch log chunks) a step.

    Training drops the `num_samples mod batch_size` samples at the end of the last lane, a random part of its last
    windows. With `batch_size > num_samples` (only by the padding of a full batch) the one batch of the epoch ends in
    slots of weight 0. Safe to use from several threads, at several epochs.

    Args:
        shard_counts: samples in each shard, in the order of the split; a shard may be empty.
        batch_size: slots of a global batch.
        lanes: must divide batch_size; with no fewer lanes than hosts no two hosts read the same lane.
        window_chunks: chunks of a lane whose samples are mixed with each other.
        chunk_samples: samples in a chunk, the last of a shard has what is left; None: a whole shard is a chunk.

    Raises:
        UserError: lanes do not divide the batch, or a number is out of range.
    """

    def __init__(
        self,
        *,
        shard_counts: Sequence[int] | Int64Array,
        batch_size: int,
        seed: int,
        lanes: int = 8,
        window_chunks: int = 4,
        chunk_samples: int | None = None,
    ) -> None:
        least = {"batch.size": batch_size, "order.lanes": lanes, "order.window_chunks": window_chunks}
        if chunk_samples is not None:
            least["order.chunk_samples"] = chunk_samples
        for name, value in least.items():
            if value < 1:
                raise UserError(f"{name}={value}: at least 1 wanted")
        if batch_size % lanes:
            raise UserError(_lanes_message(batch_size, lanes))
        self.batch_size, self.seed = batch_size, seed
        self.lanes, self.window_chunks, self.chunk_samples = lanes, window_chunks, chunk_samples
        # The last value is the number of samples: chunk k is ids [firsts[k], firsts[k + 1]).
        self._firsts = _chunk_firsts(np.asarray(shard_counts, dtype=np.int64), chunk_samples)
        if self.num_samples < 1:
            raise UserError("the split has no samples")
        self._lane_slots = batch_size // lanes
        lane_bounds = np.arange(lanes + 1, dtype=np.int64) * self.steps_per_epoch * self._lane_slots
        # What an epoch drops belongs to the last lane, so that its last windows decide by chance what that is.
        lane_bounds[-1] = self.num_samples
        self._lane_bounds = np.minimum(lane_bounds, self.num_samples)
        # Lanes pass from window to window one after the other, not all in the same step.
        self._stagger = np.arange(lanes, dtype=np.int64) * window_chunks // lanes
        self._tape = lru_cache(maxsize=KEPT_EPOCHS)(self._lay_out)

    @property
    def num_samples(self) -> int:
        """Samples in the split."""
        return int(self._firsts[-1])

    @property
    def num_chunks(self) -> int:
        """Chunks in the split."""
        return len(self._firsts) - 1

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.num_samples // self.batch_size)

    @property
    def num_dropped(self) -> int:
        """Samples that an epoch leaves out, another set in each."""
        return max(0, self.num_samples - self.steps_per_epoch * self.batch_size)

    def global_batch(self, *, epoch: int, step: int) -> Slots:
        return self.slots_at(epoch=epoch, positions=positions_of(self, step))

    def global_weight(self, *, step: int) -> int:
        return min(self.batch_size, self.num_samples - step * self.batch_size)

    def slots_at(self, *, epoch: int, positions: Int64Array) -> Slots:
        steps, slots = np.divmod(positions % self.num_samples, self.batch_size)
        lanes, slots = np.divmod(slots, self._lane_slots)
        places = self._lane_bounds[lanes] + steps * self._lane_slots + slots
        # Sorted, a window's places are neighbours, and each search starts where the last one ended.
        sequence = np.argsort(places, kind="stable")
        sample_ids = np.empty_like(places)
        sample_ids[sequence] = self._samples_at(epoch, places[sequence])
        return Slots(
            sample_ids=sample_ids,
            positions=positions,
            weights=(positions < self.num_samples).astype(np.float32),
        )

    def lane_chunks(self, *, epoch: int, lane: int) -> LaneChunks:
        """Return what lane `lane` reads in an epoch; a chunk on the border of two lanes is in both, in part."""
        starts, first_chunks = self._tape(epoch)
        begin, end = self._lane_bounds[lane : lane + 2]
        chunks = np.arange(first_chunks[lane], np.searchsorted(starts, end), dtype=np.int64)
        cut = np.clip(starts[first_chunks[lane] : first_chunks[lane] + len(chunks) + 1], begin, end)
        return LaneChunks(
            first_ids=self._firsts[self._shuffled(epoch, chunks)] + cut[:-1] - starts[chunks],
            counts=np.diff(cut),
            windows=(chunks - first_chunks[lane] + self._stagger[lane]) // self.window_chunks,
        )

    def _samples_at(self, epoch: int, places: Int64Array) -> Int64Array:
        """Return the samples at sorted places of the epoch's tape."""
        starts, _ = self._tape(epoch)
        windows, counts = [], []
        done = 0
        while done < len(places):
            windows.append(self._window_at(epoch, int(places[done])))
            end = int(np.searchsorted(places, windows[-1].end))
            counts.append(end - done)
            done = end
        begins = np.repeat([window.begin for window in windows], counts)
        places = begins + permute_runs(
            [make_key("window", self.seed, epoch, window.lane, window.number) for window in windows],
            places - begins,
            lengths=[window.end - window.begin for window in windows],
            counts=counts,
        )
        chunks = _at(starts, places)
        return places - starts[chunks] + self._firsts[self._shuffled(epoch, chunks)]

    def _window_at(self, epoch: int, place: int) -> _Window:
        """Return the window that a place of the epoch's tape lies in."""
        starts, first_chunks = self._tape(epoch)
        lane = int(np.searchsorted(self._lane_bounds, place, side="right")) - 1
        first_chunk, stagger = int(first_chunks[lane]), int(self._stagger[lane])
        number = (int(np.searchsorted(starts, place, side="right")) - 1 - first_chunk + stagger) // self.window_chunks
        first = first_chunk - stagger + number * self.window_chunks
        last = min(first + self.window_chunks, self.num_chunks)
        return _Window(
            lane=lane,
            number=number,
            begin=max(int(starts[max(first, first_chunk)]), int(self._lane_bounds[lane])),
            end=min(int(starts[last]), int(self._lane_bounds[lane + 1])),
        )

    def _lay_out(self, epoch: int) -> tuple[Int64Array, Int64Array]:
        """Return where each chunk starts on the epoch's tape, its end added, and the first chunk of each lane."""
        starts = np.zeros_like(self._firsts)
        chunks = self._shuffled(epoch, np.arange(self.num_chunks, dtype=np.int64))
        np.cumsum(np.diff(self._firsts)[chunks], out=starts[1:])
        return starts, _at(starts, self._lane_bounds[:-1])

    def _shuffled(self, epoch: int, chunks: Int64Array) -> Int64Array:
        """Return the numbers in the split of the chunks that stand at these places of the tape."""
        return permute(make_key("window", self.seed, epoch), chunks, length=self.num_chunks)


def _chunk_firsts(shard_counts: Int64Array, chunk_samples: int | None) -> Int64Array:
    """Return the first sample id of each chunk, and the number of samples at the end; empty shards have no chunk."""
    counts = shard_counts[shard_counts > 0]
    ends = np.cumsum(counts)
    if chunk_samples is None:
        return np.concatenate([[0], ends]).astype(np.int64)
    chunks = -(-counts // chunk_samples)
    firsts = np.zeros(int(chunks.sum()) + 1, dtype=np.int64)
    first_chunks = np.cumsum(chunks) - chunks
    firsts[:-1] = np.arange(len(firsts) - 1) - np.repeat(first_chunks, chunks)
    firsts *= chunk_samples
    firsts[:-1] += np.repeat(ends - counts, chunks)
    firsts[-1] = counts.sum()
    return firsts


def _at(starts: Int64Array, places: Int64Array) -> Int64Array:
    """Return the chunk of the tape that each place lies in."""
    return np.searchsorted(starts, places, side="right") - 1


def _lanes_message(batch_size: int, lanes: int) -> str:
    near = [next(number for number in range(min(lanes, batch_size), 0, -1) if batch_size % number == 0)]
    near += [number for number in range(lanes + 1, 4 * lanes) if batch_size % number == 0][:1]
    below = batch_size // lanes * lanes
    near_sizes = " or ".join(str(size) for size in (below, below + lanes) if size)
    return (
        f"order.lanes={lanes} does not divide batch.size={batch_size}:"
        f" try order.lanes={' or '.join(map(str, near))}, or batch.size={near_sizes}"
    )
