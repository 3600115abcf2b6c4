"""Functions as data sets: targets are the values at the stored points, and noise is what it is said to be."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from data_prep.source_config import Function
from data_prep.sources.function import HILLS, KINKS, FunctionSource, value

FloatArray = npt.NDArray[np.float64]


def source_of(function: Function, *, noise: float = 0.0, seed: int = 0, samples: int = 400) -> FunctionSource:
    return FunctionSource(function=function, samples=samples, val_samples=samples, noise=noise, seed=seed)


def drawn(source: FunctionSource, split: str) -> tuple[FloatArray, FloatArray]:
    """Return points (N, V) as they are stored, in 0 to 1, and targets (N,)."""
    (items,) = source.list_items(split)
    images = [source.read(path=split, offset=i, size_bytes=1) for i in items.offsets.tolist()]
    assert all(image.shape == source.native_shape and image.dtype == np.uint8 for image in images)
    return np.array([image[0, :, 0] for image in images]) / 255, np.asarray(items.labels)[:, 0].astype(np.float64)


@pytest.mark.parametrize("function", Function)
def test_targets_without_noise_are_the_functions_values_at_the_stored_points(function: Function) -> None:
    oracles = {
        Function.waves: lambda x: (
            0.5 * math.sin(2 * math.pi * x[0])
            + 0.3 * math.sin(4 * math.pi * x[0] + 1)
            + 0.2 * math.sin(8 * math.pi * x[0] + 2)
        ),
        Function.kinks: lambda x: (
            KINKS[min(7, int(8 * x[0]))] * (1 - (8 * x[0] - min(7, int(8 * x[0]))))
            + KINKS[min(7, int(8 * x[0])) + 1] * (8 * x[0] - min(7, int(8 * x[0])))
        ),
        Function.hills: lambda x: sum(
            height * math.exp(-((x[0] - a) ** 2 + (x[1] - b) ** 2) / (2 * width * width))
            for a, b, width, height in HILLS
        ),
        Function.ripples: lambda x: math.cos(4 * math.pi * math.hypot(x[0] - 0.5, x[1] - 0.5)),
    }
    for split in ("train", "val"):
        points_NV, targets_N = drawn(source_of(function), split)
        wanted_N = [oracles[function](point) for point in points_NV.tolist()]
        assert targets_N == pytest.approx(wanted_N, abs=1e-6)
        assert np.abs(targets_N).max() < 1.1


@pytest.mark.parametrize("function", Function)
def test_functions_are_continuous(function: Function) -> None:
    variables = source_of(function).native_shape[1]
    fine = np.random.default_rng(0).random((2000, variables))
    for near in (1e-4, 1e-6):
        moved = np.abs(value(function, fine + near) - value(function, fine))
        assert moved.max() < 30 * near  # the steepest of them rises by about 12.6 over the unit interval


def test_noise_is_normal_of_its_standard_deviation_and_in_training_alone() -> None:
    source = source_of(Function.waves, noise=0.25, samples=20_000)
    (train,), (val,) = source.list_items("train"), source.list_items("val")
    clean, held_out = source_of(Function.waves, samples=20_000), source_of(Function.waves, samples=20_000)
    (without,) = clean.list_items("train")
    (val_without,) = held_out.list_items("val")
    noise = (np.asarray(train.labels) - np.asarray(without.labels))[:, 0] / 0.25
    assert abs(noise.mean()) < 4 / math.sqrt(20_000)
    assert noise.std() == pytest.approx(1, abs=0.02)
    # Shares within one, two and three standard deviations.
    shares = [float(np.mean(np.abs(noise) < width)) for width in (1, 2, 3)]
    assert shares == pytest.approx([0.6827, 0.9545, 0.9973], abs=0.01)
    assert np.array_equal(np.asarray(val.labels), np.asarray(val_without.labels))


def test_points_spread_over_all_levels_and_variables_are_independent() -> None:
    points_NV, _ = drawn(source_of(Function.hills, samples=4000), "train")
    counts = np.bincount((points_NV.ravel() * 255).round().astype(int), minlength=256)
    assert counts.min() > 8  # 31 expected
    assert abs(np.corrcoef(points_NV.T)[0, 1]) < 0.06


def test_a_sample_is_a_function_of_seed_split_and_index() -> None:
    first, again, other = (source_of(Function.ripples, noise=0.1, seed=seed) for seed in (1, 1, 2))
    for split in ("train", "val"):
        assert all(np.array_equal(a, b) for a, b in zip(drawn(first, split), drawn(again, split), strict=True))
        assert not np.array_equal(drawn(first, split)[0], drawn(other, split)[0])
    assert not np.array_equal(drawn(first, "train")[0], drawn(first, "val")[0])


def test_samples_are_the_same_for_ever() -> None:
    """Studies whose results are kept have trained on them."""
    one, two = (source_of(function, noise=0.1, samples=3) for function in (Function.waves, Function.ripples))
    levels = {split: np.rint(drawn(two, split)[0] * 255).astype(int).tolist() for split in two.splits}
    assert levels == {"train": [[1, 150], [145, 39], [166, 213]], "val": [[84, 9], [103, 11], [81, 172]]}
    assert drawn(one, "train")[1] == pytest.approx([0.4164381, -0.0186025, -0.5523478], abs=1e-6)
    assert drawn(two, "val")[1] == pytest.approx([0.9980481, 0.9145112, -0.9995449], abs=1e-6)
