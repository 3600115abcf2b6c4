"""What an epoch costs a host: the bytes it reads, how much of them is open at a time, the cache that this asks for.

    order = WindowOrder(shard_counts=[10_000] * 1000, batch_size=1024, seed=7)      # 8 lanes, windows of 4
    load = host_load(order, shard_bytes=[128 << 20] * 1000, shard_counts=[10_000] * 1000, host=0, hosts=2)
    load.read_bytes         # 67_108_864_000: 500 of the thousand shards
    load.open_bytes         # 2_684_354_560: 20 of them, where one window ends and the next begins
    load.cache_bytes        # 3_221_225_472: and the next window of one lane

Pure. A window order is followed window by window, also over a part of the split, a mixture set by set; any other order
is taken to read every shard that it has samples in, at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.data.mixture import MixtureOrder
from pipeline.data.order import Int64Array, Order
from pipeline.data.subset import SubsetOrder, counts_within
from pipeline.data.window import WindowOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """An epoch of one host.

    Attributes:
        read_bytes: of the distinct shards that it reads, in full; of their chunks, where shards are cut. In a mixture a
            set that is gone through twice is read twice, and one that is gone through by half is read by half.
        read_shards: how many these are; in a mixture, if all sets were gone through.
        open_bytes: the most of them, or of their chunks, that the windows open at one time hold.
        open_chunks: how many chunks that is.
        cache_bytes: what a cache must hold so that nothing is fetched twice and the next window is there in time.
        lanes: that it reads, None where an order has none.
    """

    read_bytes: int
    read_shards: int
    open_bytes: int
    open_chunks: int
    cache_bytes: int
    lanes: int | None


def host_load(
    order: Order,
    *,
    shard_bytes: Sequence[int] | Int64Array,
    shard_counts: Sequence[int] | Int64Array,
    host: int,
    hosts: int,
    epoch: int = 0,
) -> HostLoad:
    """Return what host `host` of `hosts`, each with as many ranks, has to do in an epoch.

    Args:
        shard_bytes, shard_counts: length and samples of each shard.
    """
    sizes, counts = np.asarray(shard_bytes, dtype=np.int64), np.asarray(shard_counts, dtype=np.int64)
    if isinstance(order, SubsetOrder):  # whose shards are read for the samples that it has in them
        counts = counts_within(order.ids_N, counts)
        order = order.order
    if isinstance(order, MixtureOrder):
        return _mixture_load(order, sizes, counts, host=host, hosts=hosts, epoch=epoch)
    if not isinstance(order, WindowOrder):
        sizes = sizes[counts > 0]
        total = int(sizes.sum())
        return HostLoad(
            read_bytes=total,
            read_shards=len(sizes),
            open_bytes=total,
            open_chunks=len(sizes),
            cache_bytes=total,
            lanes=None,
        )
    lanes = range(host * order.lanes // hosts, -(-(host + 1) * order.lanes // hosts))
    ends = np.cumsum(counts)
    slots = order.batch_size // order.lanes
    opened = np.zeros((2, order.steps_per_epoch + 1), dtype=np.int64)
    read: list[Int64Array] = []
    widest_bytes = chunks_bytes = 0
    for lane in lanes:
        chunks = order.lane_chunks(epoch=epoch, lane=lane)
        if not len(chunks.counts):
            continue
        shards = np.searchsorted(ends, chunks.first_ids, side="right")
        read.append(np.unique(shards))
        # A whole shard is fetched whole, also by the two lanes that share one.
        chunk_bytes = sizes[shards] if order.chunk_samples is None else sizes[shards] * chunks.counts // counts[shards]
        chunks_bytes += int(chunk_bytes.sum())
        borders = np.flatnonzero(np.diff(chunks.windows, prepend=-1))
        window_bytes = np.add.reduceat(chunk_bytes, borders)
        widest_bytes = max(widest_bytes, int(window_bytes.max()))
        # The places of the lane at which its windows end give the steps in which they are open.
        window_ends = np.cumsum(np.add.reduceat(chunks.counts, borders))
        first_steps = np.concatenate([[0], window_ends[:-1]]) // slots
        last_steps = np.minimum((window_ends - 1) // slots, order.steps_per_epoch - 1)
        used = first_steps < order.steps_per_epoch
        for row, amounts in enumerate((window_bytes, np.diff(borders, append=len(chunk_bytes)))):
            np.add.at(opened[row], first_steps[used], amounts[used])
            np.add.at(opened[row], last_steps[used] + 1, -amounts[used])
    shards = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *read]))
    open_bytes, open_chunks = (int(row.max()) for row in np.cumsum(opened, axis=1))
    read_bytes = int(sizes[shards].sum()) if order.chunk_samples is None else chunks_bytes
    return HostLoad(
        read_bytes=read_bytes,
        read_shards=len(shards),
        open_bytes=min(open_bytes, read_bytes),
        open_chunks=open_chunks,
        cache_bytes=min(open_bytes + widest_bytes, read_bytes),
        lanes=len(lanes),
    )


def _mixture_load(
    order: MixtureOrder, sizes: Int64Array, counts: Int64Array, *, host: int, hosts: int, epoch: int
) -> HostLoad:
    """Return the sum over the sets, each of which is open all the time."""
    bounds = np.searchsorted(np.cumsum(counts), order.bases[1:]) + 1
    parts = [slice(first, end) for first, end in pairwise([0, *bounds.tolist()])]
    loads = [
        host_load(member, shard_bytes=sizes[part], shard_counts=counts[part], host=host, hosts=hosts)
        for member, part in zip(order.orders, parts, strict=True)
    ]
    passes = order.passes(epoch=epoch)
    return HostLoad(
        read_bytes=round(sum(load.read_bytes * times for load, times in zip(loads, passes, strict=True))),
        read_shards=sum(load.read_shards for load in loads),
        open_bytes=sum(load.open_bytes for load in loads),
        open_chunks=sum(load.open_chunks for load in loads),
        cache_bytes=sum(load.cache_bytes for load in loads),
        lanes=loads[0].lanes,
    )
