"""Options of models: each changes the outcome, and what makes no sense is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pipeline.build_model import build_model
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS
from pipeline.model.hidden_layer import ACTIVATIONS, NORMS
from pipeline.model.initialise import INITS
from pipeline.model_config import (
    Activation,
    BottleneckMlpConfig,
    Init,
    MlpConfig,
    Norm,
)
from pipeline.shards.errors import UserError


def test_what_the_options_offer_is_what_there_is() -> None:
    assert {item.name for item in Activation} == set(ACTIVATIONS)
    assert {item.name for item in Norm} == {"none", *NORMS}
    assert tuple(item.name for item in Init) == INITS


def test_units_that_are_alike_take_no_layer_norm() -> None:
    with pytest.raises(UserError, match="which makes 0 of units that are alike"):
        compose("train", TRAIN_SCHEMAS, ["data.path=x", "model=mlp", "model.identical_units=true", "model.norm=layer"])


def test_a_skip_from_the_image_itself_would_part_units_that_are_alike() -> None:
    config = MlpConfig(hidden=[12, 12], skip=True, identical_units=True)
    with pytest.raises(UserError, match="12 units, as many as an image has values"):
        build_model(config, in_features=12, num_classes=3, seed=0)
    model = build_model(config, in_features=9, num_classes=3, seed=0)
    hidden_BU = torch.randn(5, 9)
    for layer in list(model.children())[:2]:
        hidden_BU = layer(hidden_BU)
    torch.testing.assert_close(hidden_BU, hidden_BU[:, :1].expand_as(hidden_BU))


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
    ("input_shuffle_seed", 3),
    ("hidden", [7]),
    ("depth", 3),
    ("width", 9),
    ("activation", Activation.silu),
    ("norm", Norm.rms),
    ("dropout", 0.5),
    ("skip", True),
    ("init", Init.lecun),
    ("zero_head", True),
    ("identical_units", True),
    ("base_width", 4),
]
BOTTLENECK_OPTIONS = [
    ("input_shuffle_seed", 3),
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
