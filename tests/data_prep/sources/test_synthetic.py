from __future__ import annotations

import hashlib

import numpy as np
import pytest

from data_prep.sources.synthetic import SyntheticSource
from tiny_sets import list_all


def make(
    *,
    samples: int = 100,
    val_samples: int = 20,
    classes: int = 10,
    channels: int = 3,
    seed: int = 0,
    resolution: int | None = 16,
) -> SyntheticSource:
    return SyntheticSource(
        samples=samples, val_samples=val_samples, classes=classes, channels=channels, seed=seed, resolution=resolution
    )


def images_NHWC(source: SyntheticSource, split: str, count: int) -> np.ndarray:
    return np.stack([source.read(path=split, offset=index, size_bytes=0) for index in range(count)])


def test_an_image_is_a_function_of_seed_split_and_index_alone() -> None:
    reference = images_NHWC(make(), "train", 40)
    # Read backwards, from a larger set, in a source opened anew.
    other = make(samples=10_000, val_samples=0)
    again = [other.read(path="train", offset=index, size_bytes=0) for index in reversed(range(40))]
    np.testing.assert_array_equal(again[::-1], reference)
    for changed in (images_NHWC(make(seed=1), "train", 20), images_NHWC(make(), "val", 20)):
        assert all(not np.array_equal(image, before) for image, before in zip(changed, reference, strict=False))


def test_the_bytes_are_these_on_every_machine() -> None:
    """Benchmarks and stored synthetic shards rely on it."""
    images = images_NHWC(make(resolution=64, classes=1000, seed=7), "train", 50)
    assert (
        hashlib.sha256(images.tobytes()).hexdigest()
        == "6fa7c7eb36a46b152a0904ab79ac06dcb8c33b0a4a6baa84825e41415afe22b6"
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [None, 1, 3, 65, 300])
def test_every_size_has_its_shape_and_uses_the_range(channels: int, resolution: int | None) -> None:
    source = make(channels=channels, resolution=resolution)
    side = resolution or 64
    images = images_NHWC(source, "train", 12)
    assert images.shape == (12, side, side, channels)
    assert images.dtype == np.uint8
    assert source.native_shape == (side, side, channels)
    assert images.flags.c_contiguous
    if side >= 64:
        assert images.std() > 20


def test_labels_are_balanced_and_items_in_order() -> None:
    source = make(samples=101, classes=7)
    items = list_all(source, "train")
    counts = np.bincount(items.labels, minlength=7)
    assert counts.max() - counts.min() <= 1
    assert len(source.classes) == 7
    assert items.offsets.tolist() == list(range(101))
    assert len(set(items.source_keys)) == 101
    assert set(items.sizes_bytes.tolist()) == {16 * 16 * 3}
    assert make(val_samples=0).splits == ("train",)
    assert make().splits == ("train", "val")


def test_no_two_images_are_equal() -> None:
    images = images_NHWC(make(samples=20_000, classes=2, resolution=8), "train", 20_000)
    assert len(np.unique(images.reshape(20_000, -1), axis=0)) == 20_000


def test_memory_does_not_grow_with_classes_or_samples() -> None:
    source = make(samples=10**12, classes=100_000, resolution=32)
    held_bytes = sum(value.nbytes for value in vars(source).values() if isinstance(value, np.ndarray))
    assert held_bytes < 4_000_000
    assert source.read(path="train", offset=10**12 - 1, size_bytes=0).shape == (32, 32, 3)


def right_frac(*, classes: int, channels: int) -> float:
    """Return the validation accuracy of ridge regression on one-hot targets, in closed form, after 3,000 images."""
    source = make(samples=3000, val_samples=1000, classes=classes, channels=channels)
    train, val = (
        images_NHWC(source, split, count).reshape(count, -1) / 255 for split, count in (("train", 3000), ("val", 1000))
    )
    mean = train.mean(axis=0)
    targets = np.eye(classes)[list_all(source, "train").labels]
    centred = train - mean
    weights = np.linalg.solve(centred.T @ centred + 30 * np.eye(train.shape[1]), centred.T @ (targets - 1 / classes))
    guesses = ((val - mean) @ weights).argmax(axis=1)
    return float((guesses == list_all(source, "val").labels).mean())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_linear_classifier_beats_chance_clearly_and_is_far_from_perfect(channels: int) -> None:
    assert 0.3 < right_frac(classes=10, channels=channels) < 0.9


def test_a_hundred_classes_can_be_learned_too() -> None:
    assert 0.08 < right_frac(classes=100, channels=3) < 0.9
