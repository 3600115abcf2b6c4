"""The feed of local shards larger than memory: what it tells the kernel, and that batches are right under it."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.crop import CentreCrop
from pipeline.data.encoded import EncodedReader
from pipeline.data.loader import BatchLoader
from pipeline.data.order import FullOrder, Int64Array, Order
from pipeline.data.packed import PackedReader
from pipeline.data.paged_feed import Blocks, PagedFeed, paged
from pipeline.data.sample_ranges import RangesOf, encoded_ranges, packed_ranges
from pipeline.data.window import WindowOrder
from pipeline.shards.errors import DamageError
from pipeline.shards.manifest import DataSet
from pipeline.shards.record import PackedLayout
from tiny_data import prepare_pictures, rows_of, write_packed_set, write_pictures

PAGE = 4096
SHARD_SIZES = [30, 17, 1, 40, 22]


class FakePages:
    """Keeps the bytes that are held, and what was told, in place of the kernel."""

    def __init__(self, *, failing_shard: int | None = None) -> None:
        self.held: set[tuple[int, int]] = set()
        self.most = 0
        self.loads: list[tuple[int, int, int]] = []
        self.failing_shard = failing_shard
        self.lock = threading.Lock()

    def load(self, shard: int, offset: int, size_bytes: int) -> None:
        if shard == self.failing_shard:
            raise DamageError("the disk fails")
        with self.lock:
            self.loads.append((shard, offset, size_bytes))
            self.held |= pages_of(shard, offset, size_bytes)
            self.most = max(self.most, len(self.held))

    def drop(self, shard: int, offset: int, size_bytes: int) -> None:
        with self.lock:
            self.held -= pages_of(shard, offset, size_bytes)

    def close(self) -> None:
        pass


def pages_of(shard: int, offset: int, size_bytes: int) -> set[tuple[int, int]]:
    return {(shard, page) for page in range(offset // PAGE, (offset + size_bytes - 1) // PAGE + 1)}


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    layout = PackedLayout(height=32, width=32, channels=3)
    return write_packed_set(tmp_path_factory.mktemp("paged") / "set", shard_sizes={"train": SHARD_SIZES}, layout=layout)


def packed_ranges_of(data_set: DataSet) -> RangesOf:
    assert data_set.packed is not None
    return packed_ranges(data_set.packed, data_set.split("train"))


def feed_of(data_set: DataSet, pages: FakePages, *, budget_bytes: int = 30 * PAGE) -> PagedFeed:
    assert data_set.packed is not None
    split = data_set.split("train")
    return PagedFeed(
        split, packed_ranges(data_set.packed, split), budget_bytes=budget_bytes, block_bytes=PAGE, pages=pages
    )


def uses_of(order: Order, *, first_step: int = 0) -> Iterator[tuple[int, Int64Array]]:
    for step in range(first_step, order.steps_per_epoch):
        yield step, order.global_batch(epoch=0, step=step).sample_ids


ORDERS: dict[str, Order] = {
    "full": FullOrder(num_samples=110, batch_size=4, seed=1),
    "window": WindowOrder(shard_counts=SHARD_SIZES, batch_size=4, seed=1, lanes=2, window_chunks=1, chunk_samples=8),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_what_was_waited_for_is_held_until_it_is_finished_and_little_else(data_set: DataSet, order: Order) -> None:
    pages = FakePages()
    feed = feed_of(data_set, pages)
    layout, split = data_set.packed, data_set.split("train")
    assert layout is not None
    ranges_of = packed_ranges(layout, split)
    feed.start(uses_of(order))
    for step, sample_ids in uses_of(order):
        shards, begins, ends = ranges_of(sample_ids)
        feed.wait_for(shards)
        needed = set().union(
            *(pages_of(*map(int, (s, b, e - b))) for s, b, e in zip(shards, begins, ends, strict=True))
        )
        with pages.lock:
            assert pages.held >= needed
        feed.finish(step)
    feed.close()
    assert pages.most <= 30 + 8, "the budget, and what was being dropped"
    assert not pages.held


def test_an_iteration_that_begins_while_the_last_one_ends_is_waited_for(data_set: DataSet) -> None:
    """The old one has all planned and a load on its way when the new one begins: none of it counts for that."""
    order, is_held_up, goes_on = ORDERS["window"], threading.Event(), threading.Event()

    class SlowPages(FakePages):
        def load(self, shard: int, offset: int, size_bytes: int) -> None:
            if not goes_on.is_set():
                is_held_up.set()
                goes_on.wait(60)
            super().load(shard, offset, size_bytes)

    pages = SlowPages()
    feed = feed_of(data_set, pages, budget_bytes=1 << 30)
    feed.start(uses_of(order, first_step=order.steps_per_epoch - 1))
    assert is_held_up.wait(60)
    time.sleep(0.2)  # for the planner to find that all is planned
    feed.start(uses_of(order, first_step=0))
    goes_on.set()
    for step, sample_ids in uses_of(order, first_step=0):
        feed.wait_for(np.zeros(len(sample_ids), dtype=np.int64))
        shards, begins, ends = packed_ranges_of(data_set)(sample_ids)
        needed = [pages_of(*(int(value) for value in row)) for row in zip(shards, begins, ends - begins, strict=True)]
        assert set().union(*needed) <= pages.held
        feed.finish(step)
    feed.close()
    assert not pages.held


def test_a_new_iteration_starts_anywhere_and_the_old_one_leaves_nothing(data_set: DataSet) -> None:
    pages, order = FakePages(), ORDERS["window"]
    feed = feed_of(data_set, pages)
    for first_step in (0, 20, 3):
        feed.start(uses_of(order, first_step=first_step))
        for step, sample_ids in uses_of(order, first_step=first_step):
            feed.wait_for(np.zeros(len(sample_ids), dtype=np.int64))
            if step == first_step + 4:
                break
            feed.finish(step)
    feed.close()
    assert not pages.held


def test_batches_in_flight_beyond_the_budget_do_not_stop_the_loader(data_set: DataSet) -> None:
    """Several batches are waited for before the first is finished, though the budget holds not one."""
    feed, order = feed_of(data_set, FakePages(), budget_bytes=2 * PAGE), ORDERS["full"]
    feed.start(uses_of(order))
    steps = list(uses_of(order))
    for step, sample_ids in steps:
        feed.wait_for(sample_ids)
        if step >= 3:
            feed.finish(step - 3)
    feed.wait_for(np.zeros(5, dtype=np.int64))  # after the last use, outside an iteration
    feed.close()


def test_reads_are_sorted_runs_of_a_shard(data_set: DataSet) -> None:
    pages = FakePages()
    feed = feed_of(data_set, pages, budget_bytes=1 << 30)
    everything = np.random.default_rng(0).permutation(110).astype(np.int64)
    feed.start(iter([(0, everything)]))
    feed.wait_for(everything)
    feed.close()
    assert sorted(shard for shard, _, _ in pages.loads) == list(range(len(SHARD_SIZES)))
    sizes = [shard.size_bytes for shard in data_set.split("train").shards]
    for shard, offset, size_bytes in pages.loads:
        assert offset <= PAGE
        assert sizes[shard] - 2 * PAGE <= offset + size_bytes <= sizes[shard]


def test_who_waits_is_told_that_the_disk_fails(data_set: DataSet) -> None:
    feed = feed_of(data_set, FakePages(failing_shard=3))
    feed.start(iter([(0, np.array([60]))]))
    with pytest.raises(DamageError, match="the disk fails"):
        feed.wait_for(np.array([3]))
    feed.close()


def test_an_order_that_the_budget_does_not_hold_is_said_once(
    data_set: DataSet, caplog: pytest.LogCaptureFixture
) -> None:
    feed, order = feed_of(data_set, FakePages(), budget_bytes=4 * PAGE), ORDERS["full"]
    for _ in range(3):
        feed.start(uses_of(order))
        for step, sample_ids in uses_of(order):
            feed.wait_for(sample_ids)
            feed.finish(step)
    feed.close()
    (record,) = caplog.records
    assert "order=window" in record.message


@pytest.mark.parametrize("block_bytes", [16 << 10, 2 << 20])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_batches_are_equal_with_and_without_it(data_set: DataSet, order: Order, block_bytes: int) -> None:
    assert data_set.packed is not None
    split = data_set.split("train")
    make_feed = functools.partial(
        PagedFeed,
        split,
        packed_ranges(data_set.packed, split),
        budget_bytes=2 * block_bytes,
        block_bytes=block_bytes,
    )
    plain, paged = PackedReader(data_set, "train"), PackedReader(data_set, "train", make_feed=make_feed)
    first_step = 5
    loaders = [
        BatchLoader(reader, order, rank=0, world_size=1, first_step=lambda: first_step) for reader in (plain, paged)
    ]
    for _ in range(2):
        num_batches = 0
        for wanted, batch in zip(*loaders, strict=True):
            assert np.array_equal(batch.sample_ids, wanted.sample_ids)
            assert batch.images_BHWC.equal(wanted.images_BHWC)
            assert batch.labels_B.equal(wanted.labels_B)
            num_batches += 1
        assert num_batches == order.steps_per_epoch - first_step
    for loader in loaders:
        loader.close()
        loader.reader.close()


def test_a_file_that_became_shorter_is_named(data_set: DataSet, tmp_path: Path) -> None:
    layout = PackedLayout(height=32, width=32, channels=3)
    cut = write_packed_set(tmp_path / "set", shard_sizes={"train": [40]}, layout=layout)
    split = cut.split("train")
    reader = PackedReader(
        cut, "train", make_feed=functools.partial(PagedFeed, split, packed_ranges(layout, split), budget_bytes=1 << 22)
    )
    os.truncate(split.shards[0].path, 50_000)
    reader.start(iter([(0, np.arange(30, 40))]))
    feed = reader._feed
    with pytest.raises(DamageError, match=r"shard-000000\.tar: cannot be read"):
        feed.wait_for(np.zeros(10, dtype=np.int64))
    reader.close()


def test_ranges_of_encoded_samples_hold_the_image_and_nothing_else(tmp_path: Path) -> None:
    write_pictures(tmp_path / "src", num_each=3)
    data_set = prepare_pictures(
        tmp_path / "src", tmp_path / "set", "layout=encoded", "layout.shard_bytes=3000", "source.val_frac=0"
    )
    split = data_set.split("train")
    shards, begins, ends = encoded_ranges(split)(np.arange(split.num_samples)[::-1].copy())
    rows = rows_of(data_set, "train")[::-1]
    for (path, row), shard, begin, end in zip(rows, shards, begins, ends, strict=True):
        assert split.shards[shard].path == path
        assert (begin, end - begin) == (row["image_offset"], row["image_bytes"])


def test_encoded_batches_are_equal_with_and_without_it(tmp_path: Path) -> None:
    write_pictures(tmp_path / "src", num_each=6)
    data_set = prepare_pictures(
        tmp_path / "src", tmp_path / "set", "layout=encoded", "layout.shard_bytes=9000", "source.val_frac=0"
    )
    order = FullOrder(num_samples=18, batch_size=4, seed=2)
    make_feed = paged(data_set, "train", budget_bytes=1 << 16, is_random=True)
    readers = [
        EncodedReader(data_set, "train", size=(8, 8), crop=CentreCrop(frac=1.0), make_feed=make)
        for make in (None, make_feed)
    ]
    loaders = [BatchLoader(reader, order, rank=0, world_size=1) for reader in readers]
    for wanted, batch in zip(*loaders, strict=True):
        assert batch.images_BHWC.equal(wanted.images_BHWC)
        assert batch.labels_B.equal(wanted.labels_B)
    for loader in loaders:
        loader.close()
        loader.reader.close()


def test_blocks_of_ranges_and_runs_of_blocks_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(3)
    sizes = np.array([1000, 0, 77, 4096, 513])
    blocks = Blocks(sizes, block_bytes=64)
    names = [(file, offset) for file, size in enumerate(sizes) for offset in range(0, size, 64)]
    assert len(blocks) == len(names)
    files = rng.choice([0, 2, 3, 4], 200)
    begins = (rng.random(200) * (sizes[files] - 1)).astype(np.int64)
    ends = begins + 1 + (rng.random(200) * (sizes[files] - begins - 1)).astype(np.int64)
    found = blocks.of(files, begins, ends)
    wanted = [
        names.index((file, offset))
        for file, begin, end in zip(files, begins, ends, strict=True)
        for offset in range(begin // 64 * 64, end, 64)
    ]
    assert found.tolist() == wanted
    chosen = np.flatnonzero(rng.random(len(names)) < 0.7)
    covered = [
        (file, start)
        for file, offset, size in blocks.runs(chosen)
        for start in range(offset, offset + size, 64)
        if offset + size <= sizes[file]
    ]
    assert covered == [names[block] for block in chosen]
