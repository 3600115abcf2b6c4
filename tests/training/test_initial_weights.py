"""Initial weights against the formulas of their papers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from pipeline.build_model import build_model
from pipeline.model.bottleneck import bottleneck_mlp
from pipeline.model.initialise import initial_std
from pipeline.model.mlp import mlp
from pipeline.model.roles import linear_layers
from pipeline.model_config import (
    BottleneckMlpConfig,
    Init,
    MlpConfig,
)


def test_torch_is_the_initialisation_of_nn_linear() -> None:
    torch.manual_seed(3)
    model = mlp(in_features=7, widths=[5], num_classes=3, init="torch")
    torch.manual_seed(3)
    for layer in (nn.Linear(7, 5), nn.Linear(5, 3)):
        ours = linear_layers(model).popitem() if layer.in_features == 5 else next(iter(linear_layers(model).items()))
        assert torch.equal(ours[1].weight, layer.weight)
        assert torch.equal(ours[1].bias, layer.bias)


@pytest.mark.parametrize(
    ("init", "variances"),
    [
        # Of 400 -> 600 -> 300 -> 200, from the papers.
        ("torch", [1 / 1200, 1 / 1800, 1 / 900]),
        ("lecun", [1 / 400, 1 / 600, 1 / 300]),
        ("xavier", [2 / 1000, 2 / 900, 2 / 500]),
        ("kaiming", [2 / 400, 2 / 600, 1 / 300]),
        ("orthogonal", [1 / 600, 1 / 600, 1 / 300]),
    ],
)
def test_initial_weights_have_the_published_variance(init: str, variances: list[float]) -> None:
    torch.manual_seed(0)
    layers = linear_layers(mlp(in_features=400, widths=[600, 300], num_classes=200, init=init)).values()
    for layer, variance in zip(layers, variances, strict=True):
        assert layer.weight.var().item() == pytest.approx(variance, rel=0.03)
        assert layer.weight.mean().item() == pytest.approx(0, abs=4 * math.sqrt(variance / layer.weight.numel()))
        is_head = layer.out_features == 200
        std = initial_std(init, fan_in=layer.in_features, fan_out=layer.out_features, is_head=is_head)
        assert std == pytest.approx(math.sqrt(variance))
        assert (layer.bias.count_nonzero() == 0) == (init != "torch")


def test_orthogonal_keeps_lengths_where_there_is_room() -> None:
    first, last = linear_layers(mlp(in_features=5, widths=[9], num_classes=4, init="orthogonal")).values()
    torch.testing.assert_close(first.weight.T @ first.weight, torch.eye(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.weight @ last.weight.T, torch.eye(4), atol=1e-5, rtol=0)


def test_kaiming_keeps_the_size_of_activations_through_relu_layers_and_lecun_halves_it() -> None:
    """Of the mean square (He et al. 2015, section 2.2), over 8 layers."""
    inputs = torch.randn(256, 512)
    for init, expected in (("kaiming", 1.0), ("lecun", 0.5**8)):
        torch.manual_seed(0)
        model = mlp(in_features=512, widths=[512] * 8 + [512], num_classes=2, init=init)
        before_last = model[8].linear(model[:8](inputs))
        gain = 2 if init == "kaiming" else 1
        assert (before_last.square().mean() / gain).item() == pytest.approx(expected, rel=0.4)


@pytest.mark.parametrize("config", [MlpConfig(zero_head=True), BottleneckMlpConfig(zero_head=True)])
def test_a_head_of_zeros_finds_every_class_equally_likely(config: MlpConfig | BottleneckMlpConfig) -> None:
    model = build_model(config, in_features=12, num_classes=5, seed=0)
    assert torch.equal(model(torch.randn(3, 12)), torch.zeros(3, 5))


def test_units_that_start_alike_are_one_neuron_that_passes_on_as_much_as_all_would() -> None:
    config = MlpConfig(hidden=[6, 9], init=Init.kaiming, identical_units=True)
    first, second, head = linear_layers(build_model(config, in_features=5, num_classes=4, seed=1)).values()
    plain = dataclasses.replace(config, identical_units=False)
    drawn_first, drawn_second, drawn_head = linear_layers(
        build_model(plain, in_features=5, num_classes=4, seed=1)
    ).values()
    assert torch.equal(first.weight, drawn_first.weight[:1].repeat(6, 1))
    # Sums over what comes into a unit, of the one that was drawn first.
    torch.testing.assert_close(second.weight.sum(1), drawn_second.weight[0].sum().repeat(9))
    torch.testing.assert_close(head.weight.sum(1), drawn_head.weight.sum(1))
    for layer in (first, second, head):
        assert torch.linalg.matrix_rank(torch.cat([layer.weight, layer.bias[:, None]], 1)) == 1


def test_blocks_of_zero_residual_start_as_the_identity() -> None:
    model = bottleneck_mlp(in_features=12, depth=3, width=8, num_classes=5, zero_residual=True)
    inputs = torch.randn(3, 12)
    assert torch.equal(model(inputs), model[-1](model[0](inputs)))
    plain = bottleneck_mlp(in_features=12, depth=3, width=8, num_classes=5)
    assert not torch.equal(plain(inputs), plain[-1](plain[0](inputs)))
