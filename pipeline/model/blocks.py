"""The units of a model: what to shard alone, and what to compute again in the backward pass.

    for block in wrappable_blocks(model):       # HiddenLayer or BottleneckBlock, input to output
        fully_shard(block)

A block's inner activations are several times its input and output, so forgetting them saves memory. A linear layer
alone keeps its input and nothing else: there is nothing to forget, so stem and head are no blocks. They are
large all the same (at 64x64 and 11,230 classes half of B-6/Wi-512), so `shardable_units` has them.
"""

from __future__ import annotations

from torch import nn

from pipeline.model.bottleneck import BottleneckBlock
from pipeline.model.hidden_layer import HiddenLayer


def wrappable_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks to shard and to checkpoint, input to output; none for a model without hidden layers."""
    return [module for module in model.modules() if isinstance(module, HiddenLayer | BottleneckBlock)]


def shardable_units(model: nn.Module) -> list[nn.Module]:
    """Return the blocks and, in their places, the linear layers outside blocks: together all parameters, each once."""
    units: list[nn.Module] = []
    seen: set[nn.Module] = set()
    for module in model.modules():
        if module not in seen and isinstance(module, HiddenLayer | BottleneckBlock | nn.Linear):
            units.append(module)
            seen.update(module.modules())
    return units
