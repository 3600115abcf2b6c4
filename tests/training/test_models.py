"""Models against formulas in numpy, published parameter counts, and what each option is to change."""

from __future__ import annotations

import copy
import dataclasses
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
from pipeline.model.blocks import shardable_units, wrappable_blocks
from pipeline.model.bottleneck import BottleneckBlock, bottleneck_mlp
from pipeline.model.hidden_layer import ACTIVATIONS, NORMS, HiddenLayer
from pipeline.model.initialise import INITS, initial_std
from pipeline.model.mlp import mlp
from pipeline.model.roles import Role, linear_layers, output_layer, roles_of
from pipeline.model_config import (
    Activation,
    BottleneckMlpConfig,
    Init,
    LogisticRegressionConfig,
    MlpConfig,
    Norm,
    PerceptronConfig,
)
from pipeline.shards.errors import UserError
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


def test_what_the_options_offer_is_what_there_is() -> None:
    assert {item.name for item in Activation} == set(ACTIVATIONS)
    assert {item.name for item in Norm} == {"none", *NORMS}
    assert tuple(item.name for item in Init) == INITS


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


# Initial weights


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


def test_blocks_of_zero_residual_start_as_the_identity() -> None:
    model = bottleneck_mlp(in_features=12, depth=3, width=8, num_classes=5, zero_residual=True)
    inputs = torch.randn(3, 12)
    assert torch.equal(model(inputs), model[-1](model[0](inputs)))
    plain = bottleneck_mlp(in_features=12, depth=3, width=8, num_classes=5)
    assert not torch.equal(plain(inputs), plain[-1](plain[0](inputs)))


# Units and roles


def roles_by_hand(depth: int) -> dict[str, Role]:
    """Of a bottleneck model, written out."""
    roles = {"0.weight": Role.input, "0.bias": Role.vector}
    for block in range(1, depth + 1):
        roles |= {f"{block}.norm.weight": Role.vector, f"{block}.norm.bias": Role.vector}
        roles |= {f"{block}.expand.weight": Role.hidden, f"{block}.expand.bias": Role.vector}
        roles |= {f"{block}.contract.weight": Role.hidden, f"{block}.contract.bias": Role.vector}
    return {**roles, f"{depth + 1}.weight": Role.output, f"{depth + 1}.bias": Role.vector}


def test_roles_of_every_parameter_are_known_from_the_tree() -> None:
    model = bottleneck_mlp(in_features=12, depth=2, width=8, num_classes=3)
    assert roles_of(model) == roles_by_hand(2)
    assert roles_of(copy.deepcopy(model)) == roles_by_hand(2)
    assert {name.removeprefix("inner."): role for name, role in roles_of(nn.ModuleDict({"inner": model})).items()} == (
        roles_by_hand(2)
    )
    roles = roles_of(mlp(in_features=4, widths=[8, 8, 8], num_classes=3)).values()
    assert [role for role in roles if role is not Role.vector] == [
        Role.input,
        Role.hidden,
        Role.hidden,
        Role.output,
    ]


def test_the_only_matrix_of_a_model_is_its_output() -> None:
    for config in (LogisticRegressionConfig(), PerceptronConfig()):
        model = build_model(config, in_features=4, num_classes=3, seed=0)
        assert roles_of(model) == {"0.weight": Role.output, "0.bias": Role.vector}
        assert output_layer(model)[0] == "0"


def test_a_matrix_of_unknown_role_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"0\.weight: a matrix outside linear layers"):
        roles_of(model)


@pytest.mark.parametrize(
    ("model", "blocks", "units"),
    [
        (bottleneck_mlp(in_features=12, depth=3, width=8, num_classes=3), ["1", "2", "3"], ["0", "1", "2", "3", "4"]),
        (mlp(in_features=12, widths=[8, 8], num_classes=3), ["0", "1"], ["0", "1", "2"]),
        (mlp(in_features=12, widths=[8], num_classes=3, base_width=4), ["0"], ["0", "2"]),
        (mlp(in_features=12, widths=[], num_classes=3), [], ["0"]),
    ],
)
def test_units_come_input_to_output_and_hold_every_parameter_once(
    model: nn.Sequential, blocks: list[str], units: list[str]
) -> None:
    names = {module: name for name, module in model.named_modules()}
    assert [names[block] for block in wrappable_blocks(model)] == blocks
    assert all(isinstance(block, HiddenLayer | BottleneckBlock) for block in wrappable_blocks(model))
    assert [names[unit] for unit in shardable_units(model)] == units
    held = [parameter for unit in shardable_units(model) for parameter in unit.parameters()]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))


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


# Options


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("model.base_width=0", "base_width=0: null or at least 1 wanted"),
        ("model.activation=softmax", "base_width: not with model.activation=softmax"),
        ("model.dropout=1", "dropout=1.0: 0 <= dropout < 1"),
        ("model.hidden=[8,0]", "at least 1 each"),
    ],
)
def test_options_that_make_no_sense_are_refused(option: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        compose("train", TRAIN_SCHEMAS, ["data.path=x", "model=mlp", "model.base_width=8", option])


def test_a_perceptron_takes_no_objective_of_several_wanted_classes() -> None:
    options = ["data.path=x", "model=perceptron", "objective=binary_cross_entropy"]
    with pytest.raises(UserError, match="one wanted class"):
        compose("train", TRAIN_SCHEMAS, options)


MLP_OPTIONS = [
    ("hidden", [7]),
    ("depth", 3),
    ("width", 9),
    ("activation", Activation.silu),
    ("norm", Norm.rms),
    ("dropout", 0.5),
    ("skip", True),
    ("init", Init.lecun),
    ("zero_head", True),
    ("base_width", 4),
]
BOTTLENECK_OPTIONS = [
    ("depth", 3),
    ("width", 9),
    ("expansion", 2),
    ("dropout", 0.5),
    ("init", Init.lecun),
    ("zero_head", True),
    ("zero_residual", True),
    ("base_width", 4),
]


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [(MlpConfig(depth=2, width=8), *option) for option in MLP_OPTIONS]
    + [(BottleneckMlpConfig(depth=2, width=8), *option) for option in BOTTLENECK_OPTIONS],
)
def test_every_option_changes_the_outcome(config: MlpConfig | BottleneckMlpConfig, name: str, value: object) -> None:
    inputs = torch.randn(6, 12)
    plain, other = (
        build_model(one, in_features=12, num_classes=3, seed=0)(inputs)
        for one in (config, dataclasses.replace(config, **{name: value}))  # type: ignore[arg-type]
    )
    assert not torch.equal(plain, other)
    fields = {field.name for field in dataclasses.fields(config)}
    listed = MLP_OPTIONS if isinstance(config, MlpConfig) else BOTTLENECK_OPTIONS
    assert fields == {option for option, _ in listed}


def test_model_presets_state_what_they_are() -> None:
    for preset in PRESETS:
        header = Path(ROOT / "conf" / "model" / f"{preset}.yaml").read_text().splitlines()[0]
        assert "arXiv 2306.13575" in header
