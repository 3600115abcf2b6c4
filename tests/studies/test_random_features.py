"""Least squares on random features: against torch's own solver, by its norm, and read from the shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.studies.measures.random_features import Images, fit_features, read_images, smallest_solution
from tiny_data import prepare_here, rows_of


@pytest.mark.parametrize(("num_samples", "num_features"), [(30, 7), (30, 30), (30, 95)])
def test_the_solution_is_that_of_the_pseudo_inverse(num_samples: int, num_features: int) -> None:
    """Which is the one of least squared error, and of least norm among those (Penrose 1956)."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(num_samples, num_features, generator=generator, dtype=torch.float64)
    targets = torch.randn(num_samples, 4, generator=generator, dtype=torch.float64)
    expected = torch.linalg.pinv(features) @ targets
    torch.testing.assert_close(smallest_solution(features, targets), expected, rtol=1e-9, atol=1e-9)


def random_images(num: int, *, seed: int) -> Images:
    """Return images of two classes, told apart by the sign of one of twelve noisy pixels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(num, 12, generator=generator)
    noise = torch.randn(num, generator=generator)
    return Images(pixels_ND=pixels, labels_N=(pixels[:, 0] + noise > 0).long())


def test_the_norm_peaks_where_samples_and_features_are_as_many_and_errors_beyond_are_none() -> None:
    fits = fit_features(
        random_images(60, seed=1), random_images(2000, seed=2), counts=[10, 30, 60, 120, 600], num_classes=2, seed=3
    )
    norms, train = [fit.norm for fit in fits], [fit.train_error for fit in fits]
    assert max(norms) == norms[2]
    assert train[0] > 0
    assert train[2:] == [0, 0, 0]
    # Labels are right for 3 in 4 at best.
    assert fits[2].test_error > fits[0].test_error > 0.2
    assert fits[2].test_error > fits[4].test_error


def test_more_features_begin_with_the_fewer() -> None:
    images, others = random_images(60, seed=1), random_images(100, seed=2)
    (alone,) = fit_features(images, others, counts=[20], num_classes=2, seed=3)
    assert fit_features(images, others, counts=[20, 60], num_classes=2, seed=3)[0].test_error == alone.test_error


def test_another_seed_has_other_features() -> None:
    images, others = random_images(60, seed=1), random_images(100, seed=2)
    norms = {fit_features(images, others, counts=[20], num_classes=2, seed=seed)[0].norm for seed in (3, 4)}
    assert len(norms) == 2


def test_images_are_those_of_the_shards(tmp_path: Path) -> None:
    data = prepare_here(tmp_path / "set", "source=points", "source.samples=40", "source.val_samples=10")
    images = read_images(data.root, "train", np.array([7, 3]))
    labels = [int(row["label"]) for _, row in rows_of(data, "train")]
    assert images.labels_N.tolist() == [labels[7], labels[3]]
    whole = read_images(data.root, "train", np.arange(40))
    assert torch.equal(whole.pixels_ND[[7, 3]], images.pixels_ND)
    assert data.statistics is not None
    mean, std = torch.tensor(data.statistics.mean), torch.tensor(data.statistics.std)
    pixels = whole.pixels_ND * std + mean
    assert torch.allclose(pixels, pixels.round(), atol=1e-4)
    assert len(pixels.round().unique()) > 20
