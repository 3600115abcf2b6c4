"""What a host reads, against the batches themselves."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.host_load import HostLoad, host_load
from pipeline.data.mixture import MixtureOrder
from pipeline.data.order import FullOrder, rank_slots
from pipeline.data.subset import SubsetOrder, counts_within, subset_ids
from pipeline.data.window import WindowOrder

COUNTS = [40 + 7 * (k % 5) for k in range(60)]
SIZES = [1000 * count + 500 for count in COUNTS]


def load_of(order: WindowOrder | FullOrder | SubsetOrder, *, host: int, hosts: int) -> HostLoad:
    return host_load(order, shard_bytes=SIZES, shard_counts=COUNTS, host=host, hosts=hosts)


def shards_by_step(order: WindowOrder | SubsetOrder, *, host: int, hosts: int) -> list[set[int]]:
    ends = np.cumsum(COUNTS)
    slots = rank_slots(order, epoch=0, first_step=0, rank=host, world_size=hosts)
    return [set(np.searchsorted(ends, part.sample_ids, side="right").tolist()) for part in slots]


@pytest.mark.parametrize(("lanes", "window_chunks"), [(8, 1), (8, 3), (4, 2)])
@pytest.mark.parametrize("hosts", [1, 2, 3, 4, 8])
def test_a_host_reads_the_shards_of_its_batches(lanes: int, window_chunks: int, hosts: int) -> None:
    order = WindowOrder(shard_counts=COUNTS, batch_size=24, seed=1, lanes=lanes, window_chunks=window_chunks)
    for host in range(hosts):
        steps = shards_by_step(order, host=host, hosts=hosts)
        used = set().union(*steps)
        load = load_of(order, host=host, hosts=hosts)
        # A window's samples that the epoch drops can be all that a shard has.
        assert load.read_shards - 1 <= len(used) <= load.read_shards
        assert load.read_bytes >= sum(SIZES[shard] for shard in used)
        # Brute force: a shard is held from its first to its last use; those that two lanes share may be let go between.
        first = {shard: next(t for t, step in enumerate(steps) if shard in step) for shard in used}
        last = {shard: max(t for t, step in enumerate(steps) if shard in step) for shard in used}
        held = [
            sum(SIZES[shard] for shard in used if first[shard] <= step <= last[shard]) for step in range(len(steps))
        ]
        per_step = max(sum(SIZES[shard] for shard in step) for step in steps)
        assert per_step <= load.open_bytes <= max(held) + max(SIZES) * lanes
        assert load.open_bytes <= load.cache_bytes <= load.read_bytes


def test_the_open_part_is_the_lanes_windows() -> None:
    sizes, counts = [1_000_000] * 400, [100] * 400
    order = WindowOrder(shard_counts=counts, batch_size=8, seed=1, lanes=8, window_chunks=4)
    load = host_load(order, shard_bytes=sizes, shard_counts=counts, host=0, hosts=2)
    assert load.lanes == 4
    # Four lanes of four shards, and a window that ends in the step in which the next begins.
    assert 16_000_000 <= load.open_bytes <= 20_000_000
    assert load.cache_bytes - load.open_bytes >= 4_000_000
    assert 200 <= load.read_shards <= 202


def test_chunks_smaller_than_shards_count_by_their_share() -> None:
    sizes, counts = [1_000_000] * 400, [100] * 400
    order = WindowOrder(shard_counts=counts, batch_size=8, seed=1, lanes=8, window_chunks=4, chunk_samples=10)
    load = host_load(order, shard_bytes=sizes, shard_counts=counts, host=0, hosts=1)
    assert 3_200_000 <= load.open_bytes <= 3_700_000


def test_a_full_shuffle_needs_everything_all_the_time() -> None:
    load = load_of(FullOrder(num_samples=sum(COUNTS), batch_size=24, seed=1), host=1, hosts=2)
    assert load.read_bytes == load.open_bytes == load.cache_bytes == sum(SIZES)
    assert load.lanes is None


@pytest.mark.parametrize("hosts", [1, 2])
def test_of_a_part_of_the_split_the_shards_that_it_lies_in_are_read(hosts: int) -> None:
    ids_N = subset_ids(num_samples=sum(COUNTS), wanted=96, seed=2)
    within = counts_within(ids_N, COUNTS).tolist()
    inner = WindowOrder(shard_counts=within, batch_size=24, seed=1, lanes=4, window_chunks=2)
    order = SubsetOrder(order=inner, ids_N=ids_N)
    for host in range(hosts):
        used = set().union(*shards_by_step(order, host=host, hosts=hosts))
        load = load_of(order, host=host, hosts=hosts)
        assert load.read_shards == len(used) < len(COUNTS)
        assert load.read_bytes == sum(SIZES[shard] for shard in used) > load.open_bytes


def test_a_full_shuffle_of_a_part_needs_the_shards_that_the_part_lies_in() -> None:
    ids_N = subset_ids(num_samples=sum(COUNTS), wanted=24, seed=2)
    order = SubsetOrder(order=FullOrder(num_samples=24, batch_size=8, seed=1), ids_N=ids_N)
    used = set().union(*shards_by_step(order, host=0, hosts=1))
    load = load_of(order, host=0, hosts=1)
    assert load.read_shards == len(used) < len(COUNTS)
    assert load.read_bytes == load.open_bytes == load.cache_bytes == sum(SIZES[shard] for shard in used)


def test_a_mixtures_sets_add_up_by_how_often_each_is_gone_through() -> None:
    counts = [COUNTS[:20], COUNTS[20:60]]
    orders = [WindowOrder(shard_counts=part, batch_size=4, seed=k, lanes=4) for k, part in enumerate(counts)]
    num_samples = [sum(part) for part in counts]
    mixture = MixtureOrder(orders=orders, num_samples=num_samples, weights=[3, 1], batch_size=24)
    ids = np.concatenate(
        [mixture.global_batch(epoch=0, step=step).sample_ids for step in range(mixture.steps_per_epoch)]
    )
    expected = [np.count_nonzero((ids >= num_samples[0]) == k) / num_samples[k] for k in range(2)]
    assert mixture.passes(epoch=0) == pytest.approx(expected, rel=0.01)
    parts = [
        host_load(orders[0], shard_bytes=SIZES[:20], shard_counts=counts[0], host=1, hosts=2),
        host_load(orders[1], shard_bytes=SIZES[20:], shard_counts=counts[1], host=1, hosts=2),
    ]
    load = host_load(mixture, shard_bytes=SIZES, shard_counts=COUNTS, host=1, hosts=2)
    assert load.open_bytes == sum(part.open_bytes for part in parts)
    assert load.cache_bytes == sum(part.cache_bytes for part in parts)
    by_share = sum(part.read_bytes * times for part, times in zip(parts, expected, strict=True))
    assert load.read_bytes == pytest.approx(by_share, rel=0.01)
    assert load.lanes == 2
