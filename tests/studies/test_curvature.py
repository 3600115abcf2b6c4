"""Curvature and neurons: against Hessians by torch.autograd, and layers whose units are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional

from pipeline.model.mlp import mlp
from pipeline.studies.measures.curvature import gradient_and_curvatures, loss_of, num_different_units, sharpness


def full_hessian(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the Hessian over all parameters laid end to end, by torch.autograd.functional."""
    named = dict(model.named_parameters())
    flat = torch.cat([value.detach().flatten() for value in named.values()])

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([value.numel() for value in named.values()])
        weights = {name: part.view_as(named[name]) for name, part in zip(named, parts, strict=True)}
        return functional.cross_entropy(functional_call(model, weights, (pixels,)), labels)

    found: torch.Tensor = hessian(loss, flat)
    return found


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_sharpness_and_curvatures_are_eigenvalues_of_the_hessian(activation: str) -> None:
    torch.manual_seed(3)
    model = mlp(in_features=4, widths=[6], num_classes=3, activation=activation)
    pixels, labels = torch.randn(50, 4), torch.randint(0, 3, (50,))
    expected = torch.linalg.eigvalsh(full_hessian(model, pixels, labels))
    assert sharpness(model, pixels, labels) == pytest.approx(expected[-1].item(), rel=0.01)
    length, curvatures = gradient_and_curvatures(model, pixels, labels)
    assert curvatures == pytest.approx(expected.tolist(), abs=1e-5)
    loss = functional.cross_entropy(model(pixels), labels)
    assert loss_of(model, pixels, labels) == pytest.approx(loss.item())
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
    assert length == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_a_steeper_minimum_is_sharper_by_the_square_of_its_inputs() -> None:
    """Of a linear model of two classes at equal odds: the Hessian is that of the inputs, times 1/4 for each class."""
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    pixels, labels = torch.randn(200, 3), torch.arange(200) % 2
    inputs = torch.cat([pixels, torch.ones(200, 1)], dim=1)
    expected = 0.5 * torch.linalg.eigvalsh(inputs.T @ inputs / 200)[-1]
    assert sharpness(model, pixels, labels) == pytest.approx(expected.item(), rel=0.01)


def test_units_are_counted_once_for_all_that_are_alike() -> None:
    model = mlp(in_features=3, widths=[8], num_classes=2, identical_units=True)
    assert num_different_units(model) == 1
    first, last = model[0].linear, model[1]
    with torch.no_grad():
        first.weight[2] += 1e-7
        assert num_different_units(model) == 1
        first.weight[5] += 1.0
        assert num_different_units(model) == 2
        # Alike in what comes in, not in what goes out.
        last.weight[:, 7] += 1.0
        assert num_different_units(model) == 3
    assert num_different_units(mlp(in_features=3, widths=[8], num_classes=2)) == 8
