"""Objectives, metrics and schedule, against torch's own and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.model.bottleneck import bottleneck_mlp
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


@pytest.mark.parametrize("kept_logits", [1, 300, 1 << 18], ids=["each batch by itself", "some", "all together"])
def test_metrics_are_exact_and_padding_weighs_nothing(monkeypatch: pytest.MonkeyPatch, kept_logits: int) -> None:
    monkeypatch.setattr("pipeline.training.metrics.KEPT_LOGITS", kept_logits)
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


def test_batches_are_counted_as_they_were_however_wide_their_labels_and_whatever_becomes_of_their_logits() -> None:
    """A CUDA graph writes the next logits over the last ones; labels are padded to the most that a batch has."""
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    sums = MetricSums("cpu")
    for labels in (torch.tensor([[0], [1]]), torch.tensor([[1, 2], [0, -1]])):  # both right, both wrong
        static = logits.clone()
        sums.add(static, labels, torch.zeros(2), torch.ones(2))
        static.fill_(float("nan"))
    metrics, _ = sums.read()
    assert (metrics["samples"], metrics["top1_frac"]) == (4, 0.5)


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
