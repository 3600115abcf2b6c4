"""A fixed sample of a training split: which samples, on any number of ranks, and as an evaluation sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.concat import ConcatReader
from pipeline.data.crop import CentreCrop, RandomCrop
from pipeline.data.encoded import EncodedReader
from pipeline.data.first_places import FirstPlaces
from pipeline.data.loader import BatchLoader
from pipeline.data.order import FullOrder, Order, rank_slots, slots_of
from pipeline.data.packed import PackedReader
from pipeline.data.reader import Int64Array, Use
from pipeline.data.uncropped import uncropped, whole_images
from pipeline.data.window import WindowOrder
from pipeline.shards.manifest import DataSet
from tiny_data import prepare_pictures, write_pictures

NUM = 97
SIZE = (8, 8)
ORDERS = [
    FullOrder(num_samples=NUM, batch_size=12, seed=5),
    WindowOrder(shard_counts=[40, 57], batch_size=12, seed=5, lanes=2, window_chunks=2, chunk_samples=10),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "root", num_each=20, size=20)
    return prepare_pictures(folder / "root", folder / "set", "layout=encoded", "layout.shard_bytes=40000")


@pytest.mark.parametrize("training", ORDERS, ids=["full", "window"])
@pytest.mark.parametrize("num_samples", [1, 30, 96])
def test_the_sample_is_what_training_reads_first_and_each_of_it_counts_once(training: Order, num_samples: int) -> None:
    wanted = np.concatenate([training.global_batch(epoch=0, step=step).sample_ids for step in range(8)])[:num_samples]
    order = FirstPlaces(order=training, num_samples=num_samples, batch_size=8)
    for epoch in (0, 3):
        steps = [order.global_batch(epoch=epoch, step=step) for step in range(order.steps_per_epoch)]
        ids, weights = (np.concatenate([getattr(slots, name) for slots in steps]) for name in ("sample_ids", "weights"))
        assert ids[weights > 0].tolist() == wanted.tolist()
        assert [order.global_weight(step=step) for step in range(len(steps))] == [s.weights.sum() for s in steps]
    for world_size in (2, 4):
        shares = [
            list(rank_slots(order, epoch=0, first_step=0, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        dealt = [np.concatenate([slots.sample_ids for slots in step]) for step in zip(*shares, strict=True)]
        assert [part.tolist() for part in dealt] == [slots.sample_ids.tolist() for slots in steps]


@pytest.mark.parametrize("num_samples", [0, 97])
def test_a_sample_that_an_epoch_has_not_is_refused(num_samples: int) -> None:
    with pytest.raises(ValueError, match="1 to 96 wanted"):
        FirstPlaces(order=ORDERS[0], num_samples=num_samples, batch_size=8)


@pytest.mark.parametrize("is_mixed", [False, True])
def test_training_images_are_read_whole_through_the_reader_that_crops(pictures: DataSet, is_mixed: bool) -> None:
    def opened(crop: CentreCrop | RandomCrop) -> EncodedReader:
        return EncodedReader(pictures, "train", size=SIZE, crop=crop, threads=1)

    cropping = [opened(RandomCrop(seed=1)) for _ in range(1 + is_mixed)]
    reader = ConcatReader(cropping) if is_mixed else cropping[0]
    slots = slots_of(np.array([3, 53, 0, 17]) + 54 * (np.array([0, 1, 1, 0]) if is_mixed else 0))
    expected, cropped = (torch.empty((4, *SIZE, 3), dtype=torch.uint8) for _ in range(2))
    labels = opened(CentreCrop(frac=1.0)).fill(slots_of(np.array([3, 53, 0, 17])), epoch=0, out=expected)
    reader.fill(slots, epoch=0, out=cropped)
    assert not torch.equal(cropped, expected)
    order = FirstPlaces(
        order=FullOrder(num_samples=reader.num_samples, batch_size=4, seed=0), num_samples=4, batch_size=4
    )
    (batch,) = BatchLoader(uncropped(reader), order, rank=0, world_size=1)
    found = torch.empty_like(expected)
    assert uncropped(reader).fill(slots, epoch=0, out=found).tolist() == labels.tolist()
    assert torch.equal(found, expected)
    whole = whole_images(reader, batch.sample_ids, read_BHWC=cropped)
    assert whole is not None
    assert torch.equal(whole, batch.images_BHWC)
    # The reader itself crops as before.
    again = torch.empty_like(cropped)
    reader.fill(slots, epoch=0, out=again)
    assert torch.equal(again, cropped)


class Fetched:
    """A feed that has no shard but those that an iteration was told of: none."""

    def start(self, uses: Iterator[Use]) -> None:
        pass

    def wait_for(self, shards: Int64Array) -> None:
        raise AssertionError(f"shards {shards} were asked for")

    def finish(self, step: int) -> None:
        pass

    def close(self) -> None:
        pass


def test_where_shards_are_fetched_nothing_is_read_but_what_training_asks_for(pictures: DataSet) -> None:
    reader = EncodedReader(
        pictures, "train", size=SIZE, crop=RandomCrop(seed=1), threads=1, make_feed=lambda _: Fetched()
    )
    read = torch.zeros((2, *SIZE, 3), dtype=torch.uint8)
    assert whole_images(reader, np.array([0, 1]), read_BHWC=read) is None
    both = ConcatReader([EncodedReader(pictures, "train", size=SIZE, crop=RandomCrop(seed=1), threads=1), reader])
    assert whole_images(both, np.array([0, 1]), read_BHWC=read) is None


def test_packed_images_are_whole_and_nothing_is_read_twice(synthetic: DataSet, tmp_path: Path) -> None:
    reader = PackedReader(synthetic, "train")
    read = torch.zeros((2, *reader.image_shape), dtype=torch.uint8)
    assert whole_images(reader, np.array([0, 1]), read_BHWC=read) is read
    assert uncropped(reader) is reader
