"""Regression on random features, solved exactly: the smallest model with two descents of the test error.

    images = read_images(Path("data/studies/cifar10-8"), "train", sample_ids)
    fits = fit_features(images, new_images, counts=[100, 1_000, 4_000], num_classes=10, seed=0)

A hidden layer of P ReLU units with random weights that stay as they are, and a linear layer on top of it, fitted to
one-hot targets by least squares. Where several weights fit alike (P > N) the smallest of them is taken. At P = N just
one fits, and its norm is huge (Belkin, Hsu, Ma, Mandal 2019, "Reconciling modern machine-learning practice and the
classical bias-variance trade-off", arXiv 1812.11118; Rahimi, Recht 2007 for the features).

Axes: N samples, M new samples, D input features, P random features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from pipeline.build import pixel_statistics
from pipeline.data.augment import normalise
from pipeline.data.order import Int64Array
from pipeline.shards.manifest import read_data_set
from pipeline.studies.measures.models_along import samples_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Normalised pixels, float32 (N, D), and labels, int64 (N,)."""

    pixels_ND: torch.Tensor
    labels_N: torch.Tensor


def read_images(path: Path, split: str, sample_ids: Int64Array) -> Images:
    """Return samples of a local packed data set.

    Raises:
        UserError: there is none.
    """
    data_set = read_data_set(path)
    images_BHWC, labels_N = samples_at(data_set, split, sample_ids)
    mean, std = pixel_statistics(data_set.statistics, channels=images_BHWC.shape[3])
    pixels_ND = normalise(images_BHWC, torch.tensor(mean), torch.tensor(std))
    return Images(pixels_ND=pixels_ND, labels_N=torch.from_numpy(labels_N))


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureFit:
    """What a least-squares fit on random features comes to.

    Attributes:
        train_error, test_error: shares of samples whose largest output is not their class's.
        norm: of the fitted weights, Frobenius.
    """

    train_error: float
    test_error: float
    norm: float


def fit_features(
    images: Images, new_images: Images, *, counts: Sequence[int], num_classes: int, seed: int
) -> list[FeatureFit]:
    """Return the fits on the first P of a seed's random features, for each P of `counts`."""
    generator = torch.Generator().manual_seed(seed)
    width = images.pixels_ND.shape[1]
    weights_DP = torch.randn(width, max(counts), generator=generator) / width**0.5
    features_NP, new_MP = (torch.relu(some.pixels_ND @ weights_DP).double() for some in (images, new_images))
    targets_NK = functional.one_hot(images.labels_N, num_classes).double()
    fits = []
    for count in counts:
        solution_PK = smallest_solution(features_NP[:, :count], targets_NK)
        fits.append(
            FeatureFit(
                train_error=_error(features_NP[:, :count] @ solution_PK, images.labels_N),
                test_error=_error(new_MP[:, :count] @ solution_PK, new_images.labels_N),
                norm=float(solution_PK.norm()),
            )
        )
    return fits


def smallest_solution(features_NP: torch.Tensor, targets_NK: torch.Tensor) -> torch.Tensor:
    """Return the (P, K) weights of least squared error, the smallest of them where there are several.

    By an orthogonal decomposition, whose error grows with the condition number and not with its square as that of the
    normal equations; the features must have full rank.
    """
    num_samples, num_features = features_NP.shape
    solution_PK: torch.Tensor
    if num_features <= num_samples:
        q_NP, r_PP = torch.linalg.qr(features_NP)
        solution_PK = torch.linalg.solve_triangular(r_PP, q_NP.T @ targets_NK, upper=True)
    else:
        q_PN, r_NN = torch.linalg.qr(features_NP.T)
        solution_PK = q_PN @ torch.linalg.solve_triangular(r_NN.T, targets_NK, upper=False)
    return solution_PK


def _error(outputs_NK: torch.Tensor, labels_N: torch.Tensor) -> float:
    return float((outputs_NK.argmax(dim=1) != labels_N).double().mean())
