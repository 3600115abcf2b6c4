"""The native kernels for pixels against torch's own operations, to the last bit, at every kind of size."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.augment import augment_normalise, augmentation_bits, normalise, random_flip_crop
from pipeline.data.order import slots_of
from pipeline.data.packed import PackedReader
from pipeline.data.pixels import PIXEL_DTYPES, gather, gather_augmented
from pipeline.native import SWITCH
from pipeline.shards.manifest import DataSet
from pixel_cases import MEAN, SHAPES, STD, random_images
from runs import assert_equal_weights, train_here

# Batches of 8 MiB and more are written past the cache.
PAST_CACHE = (600, 64, 64, 3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop_padding", [0, 1, 4, 9])
@pytest.mark.usefixtures("native")
def test_native_floats_are_torchs_to_the_last_bit(shape: tuple[int, int, int], flip: bool, crop_padding: int) -> None:
    mean, std = MEAN[: shape[2]], STD[: shape[2]]
    for batch in (1, 7, 64):
        images, bits = random_images(batch, *shape), augmentation_bits(torch.arange(batch), seed=batch, epoch=1)
        expected = normalise(random_flip_crop(images, bits, flip=flip, crop_padding=crop_padding), mean, std)
        options = {"flip": flip, "crop_padding": crop_padding, "mean_C": mean, "std_C": std}
        assert torch.equal(augment_normalise(images, bits, **options), expected)
        for dtype in PIXEL_DTYPES:
            out = torch.full(expected.shape, float("nan"), dtype=dtype)
            assert augment_normalise(images, bits, **options, out=out) is out
            assert torch.equal(out, expected.to(dtype))


@pytest.mark.parametrize("dtype", PIXEL_DTYPES)
@pytest.mark.usefixtures("native")
def test_batches_past_the_cache_and_by_several_threads_are_the_same(dtype: torch.dtype) -> None:
    images, bits = random_images(*PAST_CACHE), augmentation_bits(torch.arange(PAST_CACHE[0]), seed=0, epoch=0)
    options = {"flip": True, "crop_padding": 4, "mean_C": MEAN[:3], "std_C": STD[:3]}
    expected = normalise(random_flip_crop(images, bits, flip=True, crop_padding=4), MEAN[:3], STD[:3]).to(dtype)
    for num_threads in (1, 2, 7, 1_000):
        out = torch.full(expected.shape, float("nan"), dtype=dtype)
        augment_normalise(images, bits, **options, out=out, num_threads=num_threads)
        assert torch.equal(out, expected)


@pytest.mark.usefixtures("native")
def test_the_fallback_of_torch_alone_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images, bits = random_images(50, 9, 7, 3), augmentation_bits(torch.arange(50), seed=0, epoch=0)
    options = {"mean_C": MEAN[:3], "std_C": STD[:3]}

    def both_forms() -> list[torch.Tensor]:
        out = torch.empty((50, 9 * 7 * 3), dtype=torch.float16)
        return [
            augment_normalise(images, bits, flip=True, crop_padding=2, **options),
            augment_normalise(images, bits, flip=True, crop_padding=2, **options, out=out),
            augment_normalise(images, None, flip=False, crop_padding=0, **options),
        ]

    found = both_forms()
    monkeypatch.setenv(SWITCH, "0")
    assert all(torch.equal(*pair) for pair in zip(found, both_forms(), strict=True))


def test_images_that_are_not_contiguous_are_augmented_as_if_they_were() -> None:
    images, bits = random_images(20, 6, 5, 3), augmentation_bits(torch.arange(40), seed=0, epoch=0)[::2]
    options = {"flip": True, "crop_padding": 1, "mean_C": MEAN[:3], "std_C": STD[:3]}
    strided = images.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)
    assert not strided.is_contiguous()
    assert torch.equal(augment_normalise(strided, bits, **options), augment_normalise(images, bits, **options))


@pytest.mark.parametrize("image_bytes", [1, 15, 64, 65, 200, 3_072, 12_288])
@pytest.mark.parametrize("num_images", [0, 1, 7, 8, 9, 24, 700])
def test_the_native_gather_is_numpys_take(native: ctypes.CDLL, image_bytes: int, num_images: int) -> None:
    rng = np.random.default_rng(image_bytes)
    source = rng.integers(0, 256, image_bytes + 50_000, dtype=np.uint8)
    offsets = rng.integers(0, 50_001, num_images)
    canary = np.full(64, 77, dtype=np.uint8)
    room = torch.from_numpy(np.concatenate([np.zeros(num_images * image_bytes, dtype=np.uint8), canary]))
    gather(native, source, offsets, out=room[: num_images * image_bytes].view(num_images, image_bytes))
    expected = source[offsets[:, None] + np.arange(image_bytes)]
    assert np.array_equal(room.numpy(), np.concatenate([expected.ravel(), canary]))


@pytest.mark.parametrize("offset", [-1, 101])
def test_an_offset_outside_the_source_is_refused(native: ctypes.CDLL, offset: int) -> None:
    source, offsets = np.zeros(112, dtype=np.uint8), np.array([0, offset, 100])
    with pytest.raises(IndexError, match=r"12 bytes at .* of 112 bytes"):
        gather(native, source, offsets, out=torch.empty((3, 12), dtype=torch.uint8))
    with pytest.raises(IndexError, match=r"12 bytes at .* of 112 bytes"):
        augmented(native, source=source, offsets=offsets)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"out": torch.empty((3, 12), dtype=torch.float64)}, "out is torch.float64"),
        ({"out": torch.empty((3, 11))}, r"out is torch.float32 \(3, 11\)"),
        ({"out": torch.empty((3, 24))[:, ::2]}, "contiguous floats"),
        ({"bits_B": torch.zeros(2, dtype=torch.int64)}, "bits_B is"),
        ({"bits_B": torch.zeros(3, dtype=torch.int32)}, "bits_B is"),
        ({"mean_C": torch.zeros(4)}, "mean_C"),
        ({"crop_padding": -1}, "crop_padding"),
        ({"offsets": np.zeros(3, dtype=np.int32)}, "a contiguous row of int64"),
        ({"offsets": np.zeros(6, dtype=np.int64)[::2]}, "a contiguous row of int64"),
        ({"source": np.zeros((2, 56), dtype=np.uint8)}, "a contiguous row of uint8"),
    ],
)
def test_what_c_would_misread_is_refused(native: ctypes.CDLL, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augmented(native, **wrong)


def test_a_batch_of_another_type_or_length_is_refused(native: ctypes.CDLL) -> None:
    source, offsets = np.zeros(112, dtype=np.uint8), np.zeros(3, dtype=np.int64)
    for out in (torch.empty((3, 12)), torch.empty((4, 12), dtype=torch.uint8)):
        with pytest.raises(ValueError, match="contiguous uint8, 3 images wanted"):
            gather(native, source, offsets, out=out)


def test_augmentation_without_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="bits_B wanted"):
        augment_normalise(random_images(2, 3, 3, 3), None, flip=True, crop_padding=0, mean_C=MEAN[:3], std_C=STD[:3])


@pytest.mark.parametrize("switch", ["0", "1"])
def test_floats_straight_from_the_shards_are_those_by_way_of_a_batch(
    synthetic: DataSet, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv(SWITCH, switch)
    reader = PackedReader(synthetic, "train")
    slots = slots_of(np.random.default_rng(0).permutation(reader.num_samples))
    bits = augmentation_bits(torch.from_numpy(slots.positions), seed=0, epoch=0)
    options = {"flip": True, "crop_padding": 2, "mean_C": MEAN[:3], "std_C": STD[:3]}
    images, floats = torch.empty((len(slots), 8, 8, 3), dtype=torch.uint8), torch.empty((len(slots), 192))
    labels = reader.fill(slots, epoch=0, out=images)
    assert np.array_equal(reader.fill_augmented(slots, bits, **options, out=floats), labels)
    assert torch.equal(floats, augment_normalise(images, bits, **options))


@pytest.mark.usefixtures("native")
def test_a_run_ends_with_the_same_weights_with_native_code_and_without(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["augment=flip_crop", "trainer.max_epochs=2"]
    train_here(synthetic.root, tmp_path / "with", *options)
    monkeypatch.setenv(SWITCH, "0")
    train_here(synthetic.root, tmp_path / "without", *options)
    assert_equal_weights(tmp_path / "with", tmp_path / "without")


def augmented(native: ctypes.CDLL, **changed: object) -> None:
    arguments: dict[str, object] = {
        "source": np.zeros(112, dtype=np.uint8),
        "offsets": np.zeros(3, dtype=np.int64),
        "bits_B": torch.zeros(3, dtype=torch.int64),
        "image_shape": (2, 2, 3),
        "flip": True,
        "crop_padding": 1,
        "mean_C": MEAN[:3],
        "std_C": STD[:3],
        "num_threads": 1,
        "out": torch.empty((3, 12)),
    }
    gather_augmented(native, **(arguments | changed))
