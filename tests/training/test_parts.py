"""Objectives, metrics, schedule and models, against torch's own and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.build_model import build_model
from pipeline.model.mlp import BottleneckBlock, bottleneck_mlp, mlp
from pipeline.model_config import BottleneckMlpConfig, LogisticRegressionConfig, MlpConfig
from pipeline.training.metrics import MetricSums
from pipeline.training.objective import cross_entropy, mean_squared_error
from pipeline.training.optim import parameter_groups
from pipeline.training.schedule import rate_factor


def test_cross_entropy_is_minus_the_log_of_the_labels_softmax() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    expected = [-math.log(math.exp(2) / (math.exp(2) + 1 + math.exp(-1))), math.log(3)]
    assert cross_entropy(logits, torch.tensor([0, 2])).tolist() == pytest.approx(expected, rel=1e-6)


def test_mean_squared_error_is_the_mean_over_classes_against_one_hot() -> None:
    losses = mean_squared_error(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([0, 0]))
    assert losses.tolist() == pytest.approx([0.0, 0.25])


def test_metrics_are_exact_and_padding_weighs_nothing() -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(200, 9)).astype(np.float32), generator.integers(0, 9, 200)
    weights = (generator.random(200) < 0.7).astype(np.float32)
    order = np.argsort(-logits, axis=1)
    kept = weights > 0
    top1 = (order[:, 0] == labels)[kept].mean()
    top5 = (order[:, :5] == labels[:, None]).any(axis=1)[kept].mean()
    sums = MetricSums("cpu")
    for part in np.array_split(np.arange(200), 7):
        losses = torch.from_numpy(logits[part]).logsumexp(1)
        losses[torch.from_numpy(weights[part]) == 0] = float("nan")
        tensors = (torch.from_numpy(values[part]) for values in (logits, labels))
        sums.add(*tensors, losses, torch.from_numpy(weights[part]))
    metrics, _ = sums.read()
    assert metrics["samples"] == kept.sum()
    assert metrics["top1_frac"] == top1
    assert metrics["top5_frac"] == top5
    assert metrics["loss"] == pytest.approx(torch.from_numpy(logits).logsumexp(1)[kept].double().mean().item())
    assert sums.read()[0]["samples"] == 0


def test_a_model_of_equal_logits_or_nan_is_not_called_right() -> None:
    sums = MetricSums("cpu")
    labels = torch.tensor([1, 2, 3])
    for value in (0.0, float("nan")):
        sums.add(torch.full((3, 4), value), labels, torch.zeros(3), torch.ones(3))
    assert sums.read()[0]["top1_frac"] == 0.0


def test_warm_up_and_cosine_at_their_corners() -> None:
    def factor(step: int) -> float:
        return rate_factor(step=step, total_steps=110, warmup_steps=10, shape="cosine", final_frac=0.1)

    assert [factor(0), factor(9), factor(10)] == pytest.approx([0.1, 1.0, 1.0])
    assert factor(60) == pytest.approx((1 + 0.1) / 2)
    assert factor(110) == pytest.approx(0.1)
    assert all(factor(step) > factor(step + 1) for step in range(10, 109))
    assert rate_factor(step=10**6, total_steps=10) == 1.0


def test_decay_is_for_matrices_alone_and_every_parameter_is_in_one_group() -> None:
    model = bottleneck_mlp(in_features=12, depth=2, width=8, num_classes=3)
    decayed, free = parameter_groups(model, weight_decay=0.1)
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in free["params"]} == {1}
    assert free["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("depth", "width", "millions"),
    [(6, 256, 9.19), (12, 256, 12.35), (6, 512, 24.66), (12, 512, 37.26), (6, 1024, 74.47), (12, 1024, 124.84)],
)
def test_bottleneck_family_has_the_published_parameter_counts(depth: int, width: int, millions: float) -> None:
    with torch.device("meta"):
        model = bottleneck_mlp(in_features=64 * 64 * 3, depth=depth, width=width, num_classes=11_230)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_a_bottleneck_block_is_z_plus_contract_gelu_expand_norm() -> None:
    block = BottleneckBlock(width=6, expansion=4)
    z = torch.randn(5, 6)
    normed = (z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    inner = normed @ block.expand.weight.T + block.expand.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    torch.testing.assert_close(block(z), z + inner @ block.contract.weight.T + block.contract.bias)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "gelu", "silu"])
def test_every_mlp_learns_a_batch_by_heart(norm: str, activation: str) -> None:
    torch.manual_seed(0)
    model = mlp(in_features=20, widths=[64], num_classes=3, activation=activation, norm=norm)
    inputs, labels = torch.randn(30, 20), torch.arange(30) % 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    assert (model(inputs).argmax(1) == labels).float().mean() == 1.0


def test_logistic_regression_is_one_linear_layer_and_dropout_drops() -> None:
    assert [type(layer) for layer in build_model(LogisticRegressionConfig(), in_features=4, num_classes=2, seed=0)] == [
        nn.Linear
    ]
    model = build_model(MlpConfig(hidden=[1000], dropout=0.5), in_features=4, num_classes=2, seed=0)
    hidden = model[:-1](torch.ones(1, 4))
    assert 0.3 < (hidden == 0).float().mean() - (model[:2](torch.ones(1, 4)) == 0).float().mean() / 2 < 0.7


def test_weights_are_a_function_of_the_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        model = build_model(BottleneckMlpConfig(depth=1, width=8), in_features=4, num_classes=2, seed=seed)
        return nn.utils.parameters_to_vector(model.parameters())

    first = weights(1)
    torch.rand(3)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))
