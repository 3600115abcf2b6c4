"""What each parameter is to its model: what optimisers, rates and initialisations go by.

    roles_of(bottleneck_mlp(in_features=12, depth=1, width=8, num_classes=3))
    # {"0.weight": Role.input, "0.bias": Role.vector, "1.norm.weight": Role.vector, "1.norm.bias": Role.vector,
    #  "1.expand.weight": Role.hidden, ..., "2.weight": Role.output, "2.bias": Role.vector}

Roles follow from the tree of modules, whose order is that of use, and from nothing that is hung onto tensors: so they
outlive copying, loading, sharding and wrapping. A name is that of `model.named_parameters()`.
"""

from __future__ import annotations

from enum import Enum

from torch import nn


class Role(Enum):
    """What a parameter maps, or what it is added to.

    Attributes:
        input: the first matrix, from pixels to a width.
        hidden: from a width to a width: the only matrices both of whose sides grow with the model.
        output: the last matrix, to the logits; also the only one of a model without hidden layers.
        vector: biases, and gains and offsets of norms.
    """

    input = "input"
    hidden = "hidden"
    output = "output"
    vector = "vector"


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers by name, input to output."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def output_layer(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return name and module of the layer that makes the logits: what fine-tuning replaces."""
    name, layer = list(linear_layers(model).items())[-1]
    return name, layer


def roles_of(model: nn.Module) -> dict[str, Role]:
    """Return the role of every parameter, by name, in the model's order.

    Raises:
        ValueError: a matrix that is no linear layer's: its role cannot be known.
    """
    matrices = [f"{name}.weight" if name else "weight" for name in linear_layers(model)]
    roles = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            roles[name] = Role.vector
        elif name not in matrices:
            raise ValueError(f"{name}: a matrix outside linear layers has no role")
        elif name == matrices[-1]:
            roles[name] = Role.output
        else:
            roles[name] = Role.input if name == matrices[0] else Role.hidden
    return roles
