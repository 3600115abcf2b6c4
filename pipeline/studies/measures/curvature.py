"""A loss around some weights: its gradient, its curvature, and how many of a layer's neurons are different.

    loss_of(model, pixels_ND, labels_N)                     # 0.38
    sharpness(model, pixels_ND, labels_N)                   # 5.4: the largest curvature in any direction
    gradient_and_curvatures(model, pixels_ND, labels_N)     # of a tiny model: (1.5e-3, [-1e-9, ..., 0.58])

Axes: N samples, D input features, P parameters, U units of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pipeline.model.roles import linear_layers
from pipeline.training.objective import cross_entropy

MAX_ITERATIONS, TOLERANCE = 300, 1e-5
# Units are different that are apart by more than this share of the longest one.
APART = 1e-3


def loss_of(model: nn.Module, pixels_ND: torch.Tensor, labels_N: torch.Tensor) -> float:
    """Return the mean cross-entropy of the samples."""
    with torch.no_grad():
        return float(cross_entropy(model(pixels_ND), labels_N).mean())


def sharpness(model: nn.Module, pixels_ND: torch.Tensor, labels_N: torch.Tensor) -> float:
    """Return the top eigenvalue of the loss's Hessian, by power iteration with products of Hessian and vector.

    No Hessian is kept: a product is the derivative of the gradient's component along the vector (Pearlmutter 1994).
    What is found is the eigenvalue furthest from 0, which near the end of training is the largest one.
    """
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(
        cross_entropy(model(pixels_ND), labels_N).mean(), parameters, create_graph=True, materialize_grads=True
    )
    generator = torch.Generator().manual_seed(0)
    direction = _normalised([torch.randn(parameter.shape, generator=generator) for parameter in parameters])
    found = 0.0
    for _ in range(MAX_ITERATIONS):
        product = torch.autograd.grad(gradients, parameters, direction, retain_graph=True, materialize_grads=True)
        before, found = found, sum(float((a * b).sum()) for a, b in zip(product, direction, strict=True))
        if abs(found - before) <= TOLERANCE * abs(found):
            break
        direction = _normalised(product)
    return found


def gradient_and_curvatures(
    model: nn.Module, pixels_ND: torch.Tensor, labels_N: torch.Tensor
) -> tuple[float, list[float]]:
    """Return the gradient's length and the Hessian's eigenvalues, ascending: P products, so of tiny models alone."""
    parameters = list(model.parameters())
    loss = cross_entropy(model(pixels_ND), labels_N).mean()
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    gradient_P = torch.cat([gradient.flatten() for gradient in gradients])
    rows = [
        torch.cat(
            [
                part.flatten()
                for part in torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
            ]
        )
        for value in gradient_P
    ]
    return float(gradient_P.detach().norm()), torch.linalg.eigvalsh(torch.stack(rows).double()).tolist()


def num_different_units(model: nn.Module) -> int:
    """Return how many units of the first hidden layer differ, in what comes in or in what goes out."""
    first, following, *_ = linear_layers(model).values()
    units = torch.cat([first.weight, first.bias[:, None], following.weight.T], dim=1).detach()
    apart_UU = torch.cdist(units, units, compute_mode="donot_use_mm_for_euclid_dist")
    is_like_UU = apart_UU <= APART * units.norm(dim=1).max()
    # A unit is new where none of those before it is like it.
    return int((~is_like_UU.tril(diagonal=-1).any(dim=1)).sum())


def _normalised(vector: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    length = float(torch.stack([part.norm() for part in vector]).norm())
    return [part.detach() / max(length, 1e-30) for part in vector]
