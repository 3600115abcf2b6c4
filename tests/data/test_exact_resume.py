"""Left in any step and gone on with in another shape, a run is the run that it was; and going on costs nothing."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from exact_resume import SHAPES, Shape, assert_resumes_exactly
from pipeline.data.concat import ConcatReader
from pipeline.data.crop import RandomCrop
from pipeline.data.encoded import EncodedReader
from pipeline.data.loader import BatchLoader
from pipeline.data.mixture import MixtureOrder, member_seed
from pipeline.data.order import SLOTS_AHEAD, FullOrder, Int64Array, Order, Slots
from pipeline.data.packed import PackedReader
from pipeline.data.paged_feed import PagedFeed
from pipeline.data.reader import MakeFeed, Reader, Use
from pipeline.data.remote_set import make_feeds, open_data_set
from pipeline.data.sample_ranges import encoded_ranges, packed_ranges
from pipeline.data.shard_cache import CacheOptions
from pipeline.data.stream import StreamOrder
from pipeline.data.window import WindowOrder
from pipeline.shards.manifest import DataSet
from served import served
from stream_shards import open_reader as open_stream
from stream_shards import write_stream
from synthetic_data import make_synthetic
from tiny_data import prepare_pictures, write_pictures

BATCH_SIZE = 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """63 JPEG images in several shards of the encoded layout."""
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root / "in", num_each=21, size=24, extension="jpg")
    data_set = prepare_pictures(root / "in", root / "out", "layout=encoded", "layout.shard_bytes=8000")
    assert len(data_set.split("train").shards) > 3
    return data_set


@pytest.fixture(scope="module")
def other_synthetic(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """30 images of the shape and classes of `synthetic`."""
    options = ["source.samples=30", "source.val_samples=5", "source.classes=7", "layout.shard_bytes=20000"]
    return make_synthetic(tmp_path_factory.mktemp("other") / "synthetic", *options)


@pytest.fixture(scope="module")
def small_shards(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """100 packed images in shards of three."""
    options = ["source.samples=100", "source.val_samples=5", "source.classes=7", "layout.shard_bytes=8000"]
    return make_synthetic(tmp_path_factory.mktemp("small") / "synthetic", *options)


def full_order(data_set: DataSet) -> FullOrder:
    return FullOrder(num_samples=data_set.split("train").num_samples, batch_size=BATCH_SIZE, seed=5)


def window_order(data_set: DataSet) -> WindowOrder:
    counts = [shard.num_samples for shard in data_set.split("train").shards]
    return WindowOrder(shard_counts=counts, batch_size=BATCH_SIZE, seed=5, lanes=2, window_chunks=2, chunk_samples=7)


ORDERS = {"full": full_order, "window": window_order}
WINDOW_IS_SLOW = ["full", pytest.param("window", marks=pytest.mark.slow)]


def open_reader(data_set: DataSet, shape: Shape, *, make_feed: MakeFeed | None = None) -> Reader:
    if data_set.packed is not None:
        return PackedReader(data_set, "train", make_feed=make_feed)
    crop = RandomCrop(seed=5)
    return EncodedReader(data_set, "train", size=(8, 6), crop=crop, threads=shape.threads, make_feed=make_feed)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.slow
def test_packed_shards(synthetic: DataSet, order: str) -> None:
    assert_resumes_exactly(lambda shape: (open_reader(synthetic, shape), ORDERS[order](synthetic)))


@pytest.mark.parametrize("order", WINDOW_IS_SLOW)
def test_encoded_shards_with_random_crops_and_decode_threads(pictures: DataSet, order: str) -> None:
    assert_resumes_exactly(lambda shape: (open_reader(pictures, shape), ORDERS[order](pictures)))


@pytest.mark.parametrize("order", WINDOW_IS_SLOW)
@pytest.mark.parametrize("kind", ["packed", "encoded"])
@pytest.mark.slow
def test_shards_larger_than_memory(synthetic: DataSet, pictures: DataSet, kind: str, order: str) -> None:
    """With room for a few blocks, so that what is read ahead is dropped and read again in every epoch."""
    data_set = synthetic if kind == "packed" else pictures
    split = data_set.split("train")
    ranges = encoded_ranges(split) if data_set.packed is None else packed_ranges(data_set.packed, split)
    make_feed = functools.partial(PagedFeed, split, ranges, budget_bytes=48 << 10, block_bytes=4 << 10)

    assert_resumes_exactly(lambda shape: (open_reader(data_set, shape, make_feed=make_feed), ORDERS[order](data_set)))


@pytest.mark.parametrize("order", WINDOW_IS_SLOW)
@pytest.mark.slow
def test_mixtures_of_packed_sets(synthetic: DataSet, other_synthetic: DataSet, order: str) -> None:
    """The smaller set comes round again within an epoch of the mixture."""
    sets = (synthetic, other_synthetic)
    lanes = 2
    orders: list[Order] = []
    for number, data_set in enumerate(sets):
        counts, seed = [shard.num_samples for shard in data_set.split("train").shards], member_seed(5, number)
        if order == "full":
            orders.append(FullOrder(num_samples=sum(counts), batch_size=lanes, seed=seed))
        else:
            orders.append(WindowOrder(shard_counts=counts, batch_size=lanes, lanes=lanes, seed=seed, window_chunks=2))
    sizes = [data_set.split("train").num_samples for data_set in sets]
    mixture = MixtureOrder(orders=orders, num_samples=sizes, weights=[2, 3], batch_size=BATCH_SIZE)
    assert_resumes_exactly(lambda _: (ConcatReader([PackedReader(data_set, "train") for data_set in sets]), mixture))


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["packed", "encoded"])
def test_remote_shards_through_the_cache(
    small_shards: DataSet, pictures: DataSet, tmp_path: Path, kind: str, order: str
) -> None:
    """Windows of a cache that cannot hold all of the shards; ranks and runs share it."""
    local = small_shards if kind == "packed" else pictures
    all_bytes = sum(shard.size_bytes + shard.index_bytes for shard in local.split("train").shards)
    max_bytes = 20 * all_bytes if order == "full" else all_bytes * 4 // 5
    with served(local.root) as url:
        opened = open_data_set(url, cache=CacheOptions(dir=str(tmp_path / "cache"), max_bytes=max_bytes))

        def open_rank(shape: Shape) -> tuple[Reader, Order]:
            (make_feed,) = make_feeds([(opened, "train")], ranks=shape.world_size)
            return open_reader(opened.data_set, shape, make_feed=make_feed), ORDERS[order](opened.data_set)

        # Six ranks' windows would not go into the smaller cache at once.
        shapes = SHAPES if order == "full" else [shape for shape in SHAPES if shape.world_size <= 2]
        assert_resumes_exactly(open_rank, shapes=shapes)


def test_a_stream_does_not_resume_exactly_and_that_is_seen(tmp_path: Path) -> None:
    """The other side: what says of itself that it goes on with other samples is found to."""
    shards = write_stream(tmp_path / "web", counts=[20, 7, 13])
    order = StreamOrder(num_samples=40, batch_size=BATCH_SIZE)
    one_rank = [shape for shape in SHAPES if shape.world_size == 1]
    with pytest.raises(AssertionError, match=r"step 1: other (labels|images)"):
        assert_resumes_exactly(lambda _: (open_stream(shards, num_samples=40), order), shapes=one_rank)


# Going on costs nothing: a billion samples, of which none is stored.

BILLION = 1_000_000_000


class CountingOrder:
    """An order that counts the slots it is asked for."""

    def __init__(self, order: Order) -> None:
        self.order, self.num_slots = order, 0
        self.batch_size, self.steps_per_epoch = order.batch_size, order.steps_per_epoch

    def global_batch(self, *, epoch: int, step: int) -> Slots:
        return self.order.global_batch(epoch=epoch, step=step)

    def global_weight(self, *, step: int) -> int:
        return self.order.global_weight(step=step)

    def slots_at(self, *, epoch: int, positions: Int64Array) -> Slots:
        self.num_slots += len(positions)
        return self.order.slots_at(epoch=epoch, positions=positions)


class FakeReader:
    """A billion samples, each of which is its own id as 8 pixels."""

    num_samples = BILLION
    image_shape = (1, 8, 1)

    def __init__(self, *, steps_ahead: int) -> None:
        self.steps_ahead, self.steps_seen = steps_ahead, 0

    def start(self, uses: Iterator[Use]) -> None:
        """Look ahead as a feed does."""
        for _ in range(self.steps_ahead):
            next(uses)
            self.steps_seen += 1

    def fill(self, slots: Slots, *, epoch: int, out: torch.Tensor) -> Int64Array:
        out.numpy()[:] = slots.sample_ids.view(np.uint8).reshape(-1, 1, 8, 1)
        return slots.sample_ids % 1000

    def finish(self, step: int) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("world_size", [1, 64])
def test_going_on_deep_in_a_billion_samples_computes_the_slots_at_hand_alone(
    kind: str, world_size: int, record_property: pytest.RecordProperty
) -> None:
    inner: Order
    if kind == "full":
        inner = FullOrder(num_samples=BILLION, batch_size=4096, seed=1)
    else:
        inner = WindowOrder(shard_counts=[BILLION // 50_000] * 50_000, batch_size=4096, seed=1, lanes=64)
    order, reader = CountingOrder(inner), FakeReader(steps_ahead=20)
    first_step = 7 * order.steps_per_epoch + order.steps_per_epoch // 3 * 2
    rank = world_size - 1
    loader = BatchLoader(reader, order, rank=rank, world_size=world_size, first_step=lambda: first_step)  # type: ignore[arg-type]
    started_s = time.perf_counter()
    batch = next(iter(loader))
    record_property("first_batch_s", time.perf_counter() - started_s)  # 0.004 full, 0.1 window on two busy cores
    loader.close()
    expected = inner.global_batch(epoch=7, step=first_step - 7 * order.steps_per_epoch)
    assert batch.step == first_step
    assert np.array_equal(batch.sample_ids, expected.of_rank(rank=rank, world_size=world_size).sample_ids)
    assert np.array_equal(batch.images_BHWC.numpy().reshape(-1, 8).copy().view(np.int64).ravel(), batch.sample_ids)
    # The loader and its reader each go through the order; either is ahead by what one call computes.
    share = 4096 // world_size
    assert order.num_slots <= 2 * SLOTS_AHEAD + (reader.steps_seen + loader.prefetch + 1) * share
