"""Width transfer: against the other published form of it, closed forms, and what it promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.model.bottleneck import bottleneck_mlp
from pipeline.model.coordinates import LOGITS, coordinates, slope
from pipeline.model.initialise import INITS
from pipeline.model.mlp import mlp
from pipeline.model.roles import linear_layers
from pipeline.model.width import WidthMultiplier, WidthScale, rate_scales, width_ratio, width_scales

WIDTHS = [64, 128, 256, 512]


def test_without_a_base_width_or_at_it_nothing_is_scaled() -> None:
    inputs = torch.randn(5, 12)
    results = []
    for base_width in (None, 8):
        torch.manual_seed(0)
        model = bottleneck_mlp(in_features=12, depth=2, width=8, num_classes=3, base_width=base_width)
        assert width_ratio(model) == 1
        assert set(rate_scales(model, rule="sgd").values()) == set(rate_scales(model, rule="adam").values()) == {1.0}
        results.append(model(inputs))
    assert torch.equal(*results)


def test_factors_are_those_of_the_published_table() -> None:
    """Tensor Programs V, table 8, at 16 times the base width, written out."""
    model = mlp(in_features=12, widths=[64, 64], num_classes=3, norm="layer", base_width=4)
    adam, sgd = rate_scales(model, rule="adam"), rate_scales(model, rule="sgd")
    assert adam == {
        **{"0.linear.weight": 1, "0.linear.bias": 1, "0.norm.weight": 1, "0.norm.bias": 1},
        **{"1.linear.weight": 1 / 16, "1.linear.bias": 1, "1.norm.weight": 1, "1.norm.bias": 1},
        **{"3.weight": 1, "3.bias": 1},
    }
    assert sgd == {
        **{"0.linear.weight": 16, "0.linear.bias": 16, "0.norm.weight": 16, "0.norm.bias": 16},
        **{"1.linear.weight": 1, "1.linear.bias": 16, "1.norm.weight": 16, "1.norm.bias": 16},
        **{"3.weight": 16, "3.bias": 1},
    }
    # torch's uniform +-1/sqrt(fan_in): hidden weights are right as they are; what has a width as its fan_in and is to
    # start with the base model's spread was drawn 4 times too small.
    scales = width_scales(model, init="torch", rule="sgd")
    assert scales["1.linear.weight"] == WidthScale(rate_scale=1.0, init_scale=1.0)
    assert scales["3.weight"] == WidthScale(rate_scale=16.0, init_scale=4.0)
    assert scales["1.linear.bias"].init_scale == 4.0
    assert scales["0.linear.weight"].init_scale == scales["0.norm.weight"].init_scale == 1.0
    hidden = [module for module in model if isinstance(module, WidthMultiplier)]
    assert hidden[0](torch.full((1, 64), 16.0)).tolist() == [[1.0] * 64]


@pytest.mark.parametrize("init", INITS)
def test_initial_weights_spread_as_the_base_models_and_hidden_ones_by_the_root_of_the_width_less(init: str) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"in_features": 300, "num_classes": 200, "init": init}
    base = linear_layers(mlp(widths=[200, 200], **shape))
    wide = linear_layers(mlp(widths=[1600, 1600], base_width=200, **shape))
    for (_, narrow), (_, other), factor in zip(base.items(), wide.items(), [1, math.sqrt(8), 1], strict=True):
        assert (other.weight.std() * factor / narrow.weight.std()).item() == pytest.approx(1, rel=0.05)
        if init == "torch":
            assert (other.bias.std() / narrow.bias.std()).item() == pytest.approx(1, rel=0.15)


def sgd_groups(model: nn.Module, rate: float) -> list[dict[str, Any]]:
    scales = rate_scales(model, rule="sgd")
    return [{"params": [p], "lr": rate * scales[name]} for name, p in model.named_parameters()]


def test_it_is_the_same_training_as_by_the_papers_other_table() -> None:
    """Table 3 has no multiplier: the output's weights are m times smaller, and its rate for SGD 1/m instead of m."""
    ratio = 8
    torch.manual_seed(0)
    ours = mlp(in_features=10, widths=[64, 64], num_classes=4, activation="tanh", base_width=8).double()
    theirs = mlp(in_features=10, widths=[64, 64], num_classes=4, activation="tanh").double()
    for (_, target), (_, source) in zip(linear_layers(theirs).items(), linear_layers(ours).items(), strict=True):
        target.load_state_dict(source.state_dict())
    with torch.no_grad():
        theirs[-1].weight /= ratio
    rate = 0.05
    factors = {"0.linear.weight": ratio, "0.linear.bias": ratio, "1.linear.weight": 1, "1.linear.bias": ratio}
    factors |= {"2.weight": 1 / ratio, "2.bias": 1}
    their_groups = [{"params": [p], "lr": rate * factors[name]} for name, p in theirs.named_parameters()]
    pairs = [
        (ours, torch.optim.SGD(sgd_groups(ours, rate), lr=rate, momentum=0.9)),
        (theirs, torch.optim.SGD(their_groups, lr=rate, momentum=0.9)),
    ]
    inputs, labels = torch.randn(32, 10, dtype=torch.float64), torch.randint(4, (32,))
    first = ours(inputs)
    for _ in range(10):
        for model, optimizer in pairs:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=1e-9, atol=1e-12)
    assert (ours(inputs) - first).abs().max() > 0.1


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0, 2.0])
def test_a_slope_is_the_exponent_of_a_power_of_the_width(exponent: float) -> None:
    assert slope(WIDTHS, [3.0 * width**exponent for width in WIDTHS]) == pytest.approx(exponent, abs=1e-9)
    assert math.isnan(slope(WIDTHS, [0.0, 1.0, 1.0, 1.0]))


def test_coordinates_are_root_mean_squares_of_outputs_and_of_their_change() -> None:
    torch.manual_seed(0)
    model = mlp(in_features=6, widths=[8], num_classes=3, dropout=0.5)
    inputs, labels = torch.randn(16, 6), torch.randint(3, (16,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model[0].linear(inputs).detach()
    rows = list(coordinates(model, optimizer, inputs, labels, steps=2))
    after = model[0].linear(inputs).detach()
    assert [list(row) for row in rows] == [["0.linear", LOGITS]] * 3
    assert rows[0]["0.linear"].size == pytest.approx(before.square().mean().sqrt().item(), rel=1e-5)
    assert rows[0][LOGITS].change == 0.0  # the same dropout each time
    assert rows[2]["0.linear"].size == pytest.approx(after.square().mean().sqrt().item(), rel=1e-5)
    assert rows[2]["0.linear"].change == pytest.approx((after - before).square().mean().sqrt().item(), rel=1e-4)


def change_slopes(kind: str, rule: str, *, transfer: bool, steps: int = 3) -> dict[str, float]:
    """Return the slope of each layer's change after a few steps on noise, over 3 seeds."""
    changes: dict[str, list[float]] = {}
    for width in WIDTHS:
        logs: dict[str, list[float]] = {}
        for seed in range(3):
            torch.manual_seed(seed)
            base: dict[str, Any] = {"base_width": WIDTHS[0] if transfer else None}
            if kind == "mlp":
                model = mlp(in_features=48, widths=[width] * 3, num_classes=10, **base)
            else:
                model = bottleneck_mlp(in_features=48, depth=2, width=width, num_classes=10, **base)
            # Small, so that it is the size of a step that is seen and not where training is going.
            rate = 1e-3 if rule == "adam" else 0.02
            scales = rate_scales(model, rule=rule)  # type: ignore[arg-type]
            groups = [{"params": [p], "lr": rate * scales[name]} for name, p in model.named_parameters()]
            optimizer = torch.optim.Adam(groups) if rule == "adam" else torch.optim.SGD(groups)
            inputs, labels = torch.randn(64, 48), torch.randint(10, (64,))
            *_, last = coordinates(model, optimizer, inputs, labels, steps=steps)
            for layer, coordinate in last.items():
                logs.setdefault(layer, []).append(math.log(coordinate.change))
        for layer, values in logs.items():
            changes.setdefault(layer, []).append(math.exp(sum(values) / len(values)))
    return {layer: slope(WIDTHS, values) for layer, values in changes.items()}


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["adam", "sgd"])
@pytest.mark.parametrize("kind", ["mlp", "bottleneck"])
def test_with_transfer_no_layers_change_depends_on_the_width_and_without_it_does(kind: str, rule: str) -> None:
    with_transfer = change_slopes(kind, rule, transfer=True)
    without = change_slopes(kind, rule, transfer=False)
    assert max(map(abs, with_transfer.values())) < 0.2, with_transfer
    assert abs(with_transfer[LOGITS]) < 0.15
    assert without[LOGITS] > 0.4, without
