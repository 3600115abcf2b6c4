"""Initial weights, by name.

    initialise(model, init="kaiming", zero_head=True)
    initial_std("xavier", fan_in=512, fan_out=256)      # 0.051: what a weight's standard deviation is then

| init         | weights of a matrix                             | biases   | source                    |
|--------------|-------------------------------------------------|----------|---------------------------|
| `torch`      | uniform in +-1/sqrt(fan_in)                     | the same | `torch.nn.Linear`         |
| `lecun`      | normal, variance 1/fan_in                       | zero     | LeCun et al. 1998, 4.6    |
| `xavier`     | uniform, variance 2/(fan_in + fan_out)          | zero     | Glorot, Bengio 2010, (16) |
| `kaiming`    | normal, variance 2/fan_in; last layer 1/fan_in  | zero     | He et al. 2015, (10)      |
| `orthogonal` | orthonormal rows, or columns if these are fewer | zero     | Saxe et al. 2013          |
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn

from pipeline.model.roles import linear_layers, output_layer

INITS = ("torch", "lecun", "xavier", "kaiming", "orthogonal")


def initialise(model: nn.Module, *, init: str = "torch", zero_head: bool = False) -> None:
    """Draw the initial weights of all linear layers from torch's generator; "torch" leaves what construction drew."""
    _, head = output_layer(model)
    for layer in linear_layers(model).values():
        if init != "torch":
            _draw(layer, init, is_head=layer is head)
    if zero_head:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)


@torch.no_grad()
def make_units_identical(model: nn.Module) -> None:
    """Give all units of each hidden layer the first one's weights, and equal shares of what goes out of the layer.

    What the model computes is as large as before: the shares are means. Mini-batches, which treat equal units equally,
    never part them again; noise in the gradient does.
    """
    layers = list(linear_layers(model).values())
    for layer, following in itertools.pairwise(layers):
        layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
        layer.bias.copy_(layer.bias[:1].expand_as(layer.bias))
        following.weight.copy_(following.weight.mean(dim=1, keepdim=True).expand_as(following.weight))


def initial_std(init: str, *, fan_in: float, fan_out: float, is_head: bool = False) -> float:
    """Return the standard deviation of a matrix's initial weights."""
    match init:
        case "torch":
            return 1 / math.sqrt(3 * fan_in)
        case "lecun":
            return 1 / math.sqrt(fan_in)
        case "xavier":
            return math.sqrt(2 / (fan_in + fan_out))
        case "kaiming":
            return math.sqrt((1 if is_head else 2) / fan_in)
        case "orthogonal":
            return 1 / math.sqrt(max(fan_in, fan_out))
    raise ValueError(f"init={init}: one of {', '.join(INITS)} wanted")


@torch.no_grad()
def _draw(layer: nn.Linear, init: str, *, is_head: bool) -> None:
    std = initial_std(init, fan_in=layer.in_features, fan_out=layer.out_features, is_head=is_head)
    match init:
        case "orthogonal":
            nn.init.orthogonal_(layer.weight)
        case "xavier":
            nn.init.uniform_(layer.weight, -math.sqrt(3) * std, math.sqrt(3) * std)
        case _:
            nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
