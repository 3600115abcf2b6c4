"""Multi-layer perceptrons, from none to many hidden layers.

    model = mlp(in_features=3072, widths=[512], num_classes=10, activation="relu")
    logits_BK = model(pixels_BD)

Axes: B batch, D input features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


def mlp(
    *,
    in_features: int,
    widths: Sequence[int],
    num_classes: int,
    activation: str = "relu",
    norm: str = "none",
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return hidden layers of linear, norm, activation, dropout; then a linear layer to the logits.

    With no widths this is multinomial logistic regression. Weights start as torch's `nn.Linear` has them: uniform in
    +-1/sqrt(fan_in).

    Args:
        in_features: D, at least 1.
        widths: of the hidden layers, first to last; may be empty.
        num_classes: K.
        activation: a key of ACTIVATIONS.
        norm: "none" or a key of NORMS.
        dropout: share of hidden units dropped in training, 0 <= dropout < 1.
    """
    layers: list[nn.Module] = []
    for width in widths:
        layers.append(nn.Linear(in_features, width))
        if norm != "none":
            layers.append(NORMS[norm](width))
        layers.append(ACTIVATIONS[activation]())
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, num_classes))


class BottleneckBlock(nn.Module):
    """z + W_c gelu(W_e norm(z)), the residual inverted bottleneck of "Scaling MLPs" (arXiv 2306.13575, section 2)."""

    def __init__(self, *, width: int, expansion: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, z_BD: torch.Tensor) -> torch.Tensor:
        inner = nn.functional.gelu(self.expand(self.norm(z_BD)))
        return z_BD + self.dropout(self.contract(inner))  # type: ignore[no-any-return]


def bottleneck_mlp(
    *, in_features: int, depth: int, width: int, num_classes: int, expansion: int = 4, dropout: float = 0.0
) -> nn.Sequential:
    """Return a linear stem to `width`, `depth` bottleneck blocks, and a linear head; no final norm.

    At 64x64x3 inputs and 11,230 classes, depth 12, width 1024, expansion 4: 124.84 million parameters, as published.
    """
    blocks = [BottleneckBlock(width=width, expansion=expansion, dropout=dropout) for _ in range(depth)]
    return nn.Sequential(nn.Linear(in_features, width), *blocks, nn.Linear(width, num_classes))
