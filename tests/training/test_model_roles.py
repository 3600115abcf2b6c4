"""The roles of parameters and the units of models, known from the tree of modules."""

from __future__ import annotations

import copy

import pytest
from torch import nn

from pipeline.build_model import build_model
from pipeline.model.blocks import shardable_units, wrappable_blocks
from pipeline.model.bottleneck import BottleneckBlock, bottleneck_mlp
from pipeline.model.hidden_layer import HiddenLayer
from pipeline.model.mlp import mlp
from pipeline.model.roles import Role, output_layer, roles_of
from pipeline.model_config import (
    LogisticRegressionConfig,
    PerceptronConfig,
)


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
