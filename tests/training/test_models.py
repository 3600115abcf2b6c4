"""Models against formulas in numpy and published parameter counts; built on the meta device, traced, exported."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.build_model import build_model
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.model.bottleneck import BottleneckBlock
from pipeline.model.hidden_layer import ACTIVATIONS, NORMS
from pipeline.model.mlp import mlp
from pipeline.model_config import (
    BottleneckMlpConfig,
    Init,
    LogisticRegressionConfig,
    MlpConfig,
    Norm,
    PerceptronConfig,
)
from tiny_data import ROOT

Array = npt.NDArray[np.float64]
PRESETS = sorted(path.stem for path in (ROOT / "conf" / "model").glob("b*_w*.yaml"))
PUBLISHED = {
    "b6_w256": 9.19,
    "b12_w256": 12.35,
    "b6_w512": 24.66,
    "b12_w512": 37.26,
    "b6_w1024": 74.47,
    "b12_w1024": 124.84,
}


def activate(name: str, x: Array) -> Array:
    """The oracle: activations as they are defined, in float64."""
    sigmoid = 1 / (1 + np.exp(-x))
    exponentials = np.exp(x)
    results: dict[str, Array] = {
        "identity": x,
        "sigmoid": sigmoid,
        "tanh": (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)),
        "relu": np.where(x > 0, x, 0.0),
        "leaky_relu": np.where(x > 0, x, 0.01 * x),
        "gelu": x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
        "silu": x * sigmoid,
        "softmax": exponentials / exponentials.sum(axis=1, keepdims=True),
    }
    return results[name]


def normalise(name: str, x: Array) -> Array:
    """The oracle: norms as they start, with gain 1 and offset 0."""
    if name == "batch":
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    if name == "layer":
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    if name == "rms":
        return x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5)
    return x


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("norm", ["none", *NORMS])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_is_linear_norm_activation_and_a_skip_between_equal_widths(
    activation: str, norm: str, skip: bool
) -> None:
    torch.manual_seed(0)
    model = mlp(in_features=4, widths=[6, 6, 5], num_classes=3, activation=activation, norm=norm, skip=skip).double()
    inputs = torch.randn(8, 4, dtype=torch.float64)
    z: Array = inputs.numpy()
    for number, has_skip in enumerate([False, skip, False]):
        linear = model[number].linear
        inner = z @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        inner = activate(activation, normalise(norm, inner))
        z = z + inner if has_skip else inner
    expected = z @ model[-1].weight.detach().numpy().T + model[-1].bias.detach().numpy()
    np.testing.assert_allclose(model(inputs).detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_without_activations_any_depth_is_one_linear_map() -> None:
    model = mlp(in_features=4, widths=[9, 9, 9], num_classes=3, activation="identity").double()
    x, y = torch.randn(2, 5, 4, dtype=torch.float64)
    zero = model(torch.zeros(1, 4, dtype=torch.float64))
    torch.testing.assert_close(model(2 * x - 3 * y) - zero, 2 * (model(x) - zero) - 3 * (model(y) - zero))


@pytest.mark.parametrize("norm", ["none", *NORMS])
@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"identity"}))
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


@pytest.mark.parametrize("preset", PRESETS)
def test_bottleneck_presets_have_the_published_parameter_counts(preset: str) -> None:
    """Of arXiv 2306.13575 at 64x64 and ImageNet-21k's 11,230 classes, in millions, to the last digit that is told."""
    config: TrainConfig = compose("train", TRAIN_SCHEMAS, ["data.path=x", f"model={preset}"])
    with torch.device("meta"):
        model = build_model(config.model, in_features=64 * 64 * 3, num_classes=11_230, seed=0)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED[preset], abs=0.005)
    assert f": {PUBLISHED[preset]} million parameters" in (ROOT / "conf" / "model" / f"{preset}.yaml").read_text()


def test_every_published_size_is_a_preset() -> None:
    assert sorted(PUBLISHED) == PRESETS


def test_a_bottleneck_block_is_z_plus_contract_gelu_expand_norm() -> None:
    block = BottleneckBlock(width=6, expansion=4)
    z = torch.randn(5, 6)
    normed = (z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    inner = normed @ block.expand.weight.T + block.expand.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    torch.testing.assert_close(block(z), z + inner @ block.contract.weight.T + block.contract.bias)


def test_logistic_regression_is_one_linear_layer() -> None:
    model = build_model(LogisticRegressionConfig(), in_features=4, num_classes=2, seed=0)
    assert [type(layer) for layer in model.children()] == [nn.Linear]


def test_dropout_drops_its_share_of_hidden_units_in_training_alone() -> None:
    model = build_model(MlpConfig(hidden=[4000], dropout=0.3), in_features=4, num_classes=2, seed=0)
    layer = next(model.children())
    ones = torch.ones(1, 4)
    kept = layer.eval()(ones)
    dropped = layer.train()(ones)[kept > 0] == 0
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(layer.eval()(ones), kept)


def test_dropout_in_a_bottleneck_drops_from_what_a_block_adds() -> None:
    block = BottleneckBlock(width=4000, expansion=1, dropout=0.3)
    z = torch.randn(1, 4000)
    assert (block(z) == z).float().mean().item() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("config", [MlpConfig(depth=2, width=8), BottleneckMlpConfig(depth=1, width=8)])
def test_weights_are_a_function_of_the_seed(config: MlpConfig | BottleneckMlpConfig) -> None:
    def weights(seed: int) -> torch.Tensor:
        return nn.utils.parameters_to_vector(build_model(config, in_features=4, num_classes=2, seed=seed).parameters())

    first = weights(1)
    torch.rand(3)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


@pytest.mark.parametrize(
    "config",
    [
        PerceptronConfig(),
        LogisticRegressionConfig(),
        *(MlpConfig(init=init, zero_head=True, base_width=64, norm=Norm.rms) for init in Init),
        BottleneckMlpConfig(init=Init.orthogonal, zero_residual=True, base_width=64),
    ],
)
def test_every_model_is_built_without_memory_on_the_meta_device(
    config: PerceptronConfig | LogisticRegressionConfig | MlpConfig | BottleneckMlpConfig,
) -> None:
    with torch.device("meta"):
        model = build_model(config, in_features=12, num_classes=3, seed=0)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model(torch.zeros(2, 12, device="meta")).shape == (2, 3)


# torch warns of what its own tracer does with autograd functions.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    "config",
    [
        PerceptronConfig(),
        MlpConfig(depth=2, width=16, norm=Norm.rms, skip=True, base_width=8),
        BottleneckMlpConfig(depth=1, width=16, base_width=8),
    ],
)
def test_every_model_compiles_and_exports_whole_with_equal_results(
    config: PerceptronConfig | MlpConfig | BottleneckMlpConfig,
) -> None:
    """Traced without a break in the graph; the compiler behind it is left out."""
    model = build_model(config, in_features=12, num_classes=3, seed=0)
    torch.manual_seed(0)
    inputs, labels = torch.randn(4, 12), torch.tensor([0, 1, 2, 1])
    gradients = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        functional.cross_entropy(run(inputs), labels).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)
    assert any(gradient.count_nonzero() for gradient in gradients[0])
    exported = torch.export.export(model.eval(), (inputs,)).module()
    torch.testing.assert_close(exported(inputs), model(inputs))


def test_a_model_of_175_billion_parameters_is_built_on_the_meta_device() -> None:
    config = BottleneckMlpConfig(depth=143, width=12_288)
    with torch.device("meta"):
        model = build_model(config, in_features=64 * 64 * 3, num_classes=11_230, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(175e9, rel=0.02)


def test_model_presets_state_what_they_are() -> None:
    for preset in PRESETS:
        header = Path(ROOT / "conf" / "model" / f"{preset}.yaml").read_text().splitlines()[0]
        assert "arXiv 2306.13575" in header
