"""The residual inverted-bottleneck MLP of "Scaling MLPs: a tale of inductive bias" (arXiv 2306.13575, section 2).

    model = bottleneck_mlp(in_features=12288, depth=12, width=1024, num_classes=11230)     # B-12/Wi-1024
    sum(p.numel() for p in model.parameters())                                             # 124.84 million

Axes: B batch, D width of the residual stream, K classes.
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline.model.initialise import initialise
from pipeline.model.width import WidthMultiplier, scale_initial_weights


class BottleneckBlock(nn.Module):
    """z + W_c gelu(W_e norm(z)), with dropout on what is added."""

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
    *,
    in_features: int,
    depth: int,
    width: int,
    num_classes: int,
    expansion: int = 4,
    dropout: float = 0.0,
    init: str = "torch",
    zero_head: bool = False,
    zero_residual: bool = False,
    base_width: int | None = None,
) -> nn.Sequential:
    """Return a linear stem to `width`, `depth` bottleneck blocks, and a linear head; no final norm.

    Args:
        in_features: pixels of an image, all channels.
        expansion: a block's inner width over `width`.
        dropout: share of what a block adds that is dropped in training, 0 <= dropout < 1.
        init: a name of initialise.INITS.
        zero_head: the head starts at zero, so that every class is equally likely.
        zero_residual: every block starts as the identity (its contraction is zero), as in Fixup (arXiv 1901.09321).
        base_width: `width` of the small model whose rates are to hold here too; see width.py. None: off.
    """
    stem = nn.Linear(in_features, width)
    blocks = [BottleneckBlock(width=width, expansion=expansion, dropout=dropout) for _ in range(depth)]
    multiplier = [] if base_width is None else [WidthMultiplier(width / base_width)]
    model = nn.Sequential(stem, *blocks, *multiplier, nn.Linear(width, num_classes))
    initialise(model, init=init, zero_head=zero_head)
    scale_initial_weights(model, init=init)
    for block in blocks if zero_residual else []:
        nn.init.zeros_(block.contract.weight)
        nn.init.zeros_(block.contract.bias)
    return model
