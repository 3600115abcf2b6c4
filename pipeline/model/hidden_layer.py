"""One hidden layer of a multi-layer perceptron: linear, norm, activation, dropout, and perhaps a skip round them all.

    layer = HiddenLayer(in_features=512, width=512, activation="gelu", norm="layer", dropout=0.1, skip=True)
    z_BD = z_BD + dropout(gelu(norm(linear(z_BD))))          # what layer(z_BD) returns

A module of its own, so that it can be sharded, and computed again in the backward pass, as one unit.

Axes: B batch, D features.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

# Softmax is over a layer's units: they share an output of 1.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softmax": functools.partial(nn.Softmax, dim=-1),
}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    # LayerNorm's epsilon, not torch's for RMSNorm, which is that of the type and vanishes beside bf16's rounding.
    "rms": functools.partial(nn.RMSNorm, eps=1e-5),
}


class HiddenLayer(nn.Module):
    """dropout(activation(norm(linear(z)))), to which z is added where `skip` is wanted and the widths are equal."""

    def __init__(
        self,
        *,
        in_features: int,
        width: int,
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, width)
        self.norm = nn.Identity() if norm == "none" else NORMS[norm](width)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.skip = skip and in_features == width

    def forward(self, z_BD: torch.Tensor) -> torch.Tensor:
        inner_BD: torch.Tensor = self.dropout(self.activation(self.norm(self.linear(z_BD))))
        return z_BD + inner_BD if self.skip else inner_BD
