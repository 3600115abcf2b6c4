"""The reader, the loader and augmentation, against other readers and brute force."""

from __future__ import annotations

import io
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.augment import augmentation_bits, normalise, random_flip_crop
from pipeline.data.loader import BatchLoader, num_buffers
from pipeline.data.order import FullOrder, SequentialOrder, Slots, slots_of
from pipeline.data.packed import PackedReader
from pipeline.shards.errors import DamageError
from pipeline.shards.keyed import make_key, random_bits
from pipeline.shards.manifest import DataSet, read_data_set


@pytest.fixture
def reader(synthetic: DataSet) -> PackedReader:
    return PackedReader(synthetic, "train")


def read_by_tarfile(data_set: DataSet, split: str) -> tuple[np.ndarray, list[int]]:
    """Read a split with Python's tar reader and Pillow: images (N, H, W, C) and labels."""
    images, labels = [], []
    for shard in data_set.split(split).shards:
        with tarfile.open(shard.path) as archive:
            for entry in archive:
                content = archive.extractfile(entry).read()
                if entry.name.endswith(".cls"):
                    labels.append(int(content))
                else:
                    images.append(np.asarray(Image.open(io.BytesIO(content))))
    return np.stack(images), labels


def test_the_gather_reads_what_tarfile_and_pillow_read(synthetic: DataSet, reader: PackedReader) -> None:
    images, labels = read_by_tarfile(synthetic, "train")
    assert len(synthetic.split("train").shards) > 1
    ids = np.random.default_rng(0).permutation(len(images))
    out = torch.empty((len(ids), 8, 8, 3), dtype=torch.uint8)
    found = reader.fill(slots_of(ids), epoch=0, out=out)
    assert np.array_equal(out.numpy(), images[ids])
    assert found.tolist() == [labels[i] for i in ids]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_slots", [None, 3])
@pytest.mark.parametrize("together", [1, 3])
def test_batches_come_in_order_whole_and_for_the_right_rank(
    reader: PackedReader, world_size: int, micro_slots: int | None, together: int
) -> None:
    order = FullOrder(num_samples=100, batch_size=24, seed=5)
    seen: dict[int, list[int]] = {step: [] for step in range(4)}
    for rank in range(world_size):
        loader = BatchLoader(
            reader, order, rank=rank, world_size=world_size, micro_slots=micro_slots, together=together
        )
        batches = [(batch, batch.images_BHWC.clone()) for batch in loader]
        assert len(batches) == len(loader)
        for batch, images in batches:
            expected = torch.empty_like(images)
            labels = reader.fill(slots_of(batch.sample_ids), epoch=0, out=expected)
            assert torch.equal(images, expected)
            assert batch.labels_B.tolist() == labels.tolist()
            assert batch.global_weight == 24
            seen[batch.step] += batch.sample_ids.tolist()
    for step, ids in seen.items():
        assert ids == order.global_batch(epoch=0, step=step).sample_ids.tolist()


@pytest.mark.parametrize("together", [1, 4])
def test_started_at_every_step_the_whole_tail_is_equal_and_the_length_stays(
    reader: PackedReader, together: int
) -> None:
    order = FullOrder(num_samples=100, batch_size=10, seed=5)

    def ids_from(first_step: int) -> list[list[int]]:
        loader = BatchLoader(reader, order, rank=0, world_size=1, first_step=lambda: first_step, together=together)
        assert len(loader) == 10
        return [batch.sample_ids.tolist() for batch in loader]

    epochs = [ids_from(0), ids_from(10)]
    for first_step in range(20):
        assert ids_from(first_step) == epochs[first_step // 10][first_step % 10 :]


@pytest.mark.parametrize(("prefetch", "together"), [(1, 1), (3, 1), (1, 4), (2, 3)])
def test_a_batch_stays_valid_until_two_more_were_asked_for_in_so_many_buffers(
    reader: PackedReader, prefetch: int, together: int
) -> None:
    order = FullOrder(num_samples=100, batch_size=5, seed=5)
    loader = BatchLoader(reader, order, rank=0, world_size=1, prefetch=prefetch, together=together)
    previous: list[tuple[torch.Tensor, torch.Tensor]] = []
    buffers = set()
    for batch in loader:
        previous.append((batch.images_BHWC, batch.images_BHWC.clone()))
        buffers.add(batch.images_BHWC.data_ptr())
        for view, copy in previous[-2:]:
            assert torch.equal(view, copy)
    assert len(previous) == 20
    assert len(buffers) == num_buffers(prefetch=prefetch, together=together)


def test_a_batch_that_fails_is_told_after_those_before_it(
    reader: PackedReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = SequentialOrder(num_samples=100, batch_size=5)
    fill = reader.fill

    def broken(slots: Slots, *, epoch: int, out: torch.Tensor) -> np.ndarray:
        if 37 in slots.sample_ids:
            raise OSError("bad sector")
        return fill(slots, epoch=epoch, out=out)

    monkeypatch.setattr(reader, "fill", broken)
    batches = iter(BatchLoader(reader, order, rank=0, world_size=1, prefetch=2, together=4))
    assert [next(batches).step for _ in range(7)] == list(range(7))
    with pytest.raises(OSError, match="bad sector"):
        next(batches)


def test_leaving_an_epoch_early_ends_the_thread(reader: PackedReader) -> None:
    loader = BatchLoader(reader, FullOrder(num_samples=100, batch_size=5, seed=5), rank=0, world_size=1)
    before = set(threading.enumerate())
    iterator = iter(loader)
    next(iterator)
    (thread,) = set(threading.enumerate()) - before
    iterator.close()
    assert not thread.is_alive()


def test_an_error_in_the_thread_reaches_the_consumer(reader: PackedReader, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("bad sector")

    monkeypatch.setattr(reader, "fill", broken)
    loader = BatchLoader(reader, SequentialOrder(num_samples=100, batch_size=5), rank=0, world_size=1)
    with pytest.raises(OSError, match="bad sector"):
        next(iter(loader))


def test_a_shard_cut_short_is_refused_at_opening(synthetic: DataSet, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(synthetic.root, root)
    shard = root / "train" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-2048])
    with pytest.raises(DamageError, match=r"shard-000000.tar: cut short"):
        PackedReader(read_data_set(root), "train")


def test_augmentation_bits_are_the_numpy_hash() -> None:
    positions = np.array([0, 1, 2, 12345, 2**40, 2**62])
    expected = random_bits(make_key("augment", 3, 9), positions).astype(np.int64)
    assert augmentation_bits(torch.from_numpy(positions), seed=3, epoch=9).tolist() == expected.tolist()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("flip", "padding"), [(True, 0), (False, 2), (True, 4)])
def test_flip_and_crop_equal_the_slow_way(channels: int, flip: bool, padding: int) -> None:
    """Brute force: pad with zeros, slice, mirror, one image after the other."""
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (50, 9, 7, channels), dtype=np.uint8))
    bits = augmentation_bits(torch.arange(50), seed=0, epoch=0)
    found = random_flip_crop(images, bits, flip=flip, crop_padding=padding)
    for index, image in enumerate(images.numpy()):
        word = int(bits[index])
        top, left = (word >> 8 & 0xFFFFF) % (2 * padding + 1), (word >> 28 & 0xFFFFF) % (2 * padding + 1)
        expected = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))[top : top + 9, left : left + 7]
        if flip and word & 1:
            expected = expected[:, ::-1]
        assert np.array_equal(found[index].numpy(), expected)


def test_every_shift_and_mirror_occurs_about_equally_often() -> None:
    bits = augmentation_bits(torch.arange(90_000), seed=1, epoch=2)
    assert (bits & 1).float().mean() == pytest.approx(0.5, abs=0.01)
    counts = torch.bincount((bits >> 8 & 0xFFFFF) % 9 * 9 + (bits >> 28 & 0xFFFFF) % 9, minlength=81)
    assert counts.min() > 1111 * 0.85
    assert counts.max() < 1111 * 1.15


def test_a_samples_augmentation_does_not_depend_on_its_batch() -> None:
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8))
    bits = augmentation_bits(torch.arange(24), seed=0, epoch=0)
    together = random_flip_crop(images, bits, flip=True, crop_padding=2)
    for parts in (2, 3, 8):
        apart = [
            random_flip_crop(i, b, flip=True, crop_padding=2)
            for i, b in zip(images.chunk(parts), bits.chunk(parts), strict=True)
        ]
        assert torch.equal(torch.cat(apart), together)


def test_normalise_is_minus_mean_over_std_in_rows_columns_channels() -> None:
    images = torch.arange(2 * 2 * 2 * 3, dtype=torch.uint8).reshape(2, 2, 2, 3)
    mean, std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 8.0])
    found = normalise(images, mean, std)
    assert found.shape == (2, 12)
    assert found[1, 4].item() == (images[1, 0, 1, 1].item() - 2.0) / 4.0
