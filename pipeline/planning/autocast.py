"""bfloat16 autocast for the meta device, which torch's own leaves out.

    copies = cast_products(model, on_cpu=False)     # linear layers in bfloat16, norms in float32
    logits_BK = model(pixels_BD)
    copies.clear()                                  # the end of a forward pass

As `torch.autocast` does: weights are cast once in a forward pass and the copies are kept for the backward pass; what
follows a product goes on in bfloat16; on a GPU layer norms take and give float32. (torch/amp documentation,
"Autocast Op Reference".) It is done to layers, so that it holds as well where a block is computed again.
"""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.nn import functional

Copies = dict[int, torch.Tensor]


def cast_products(model: nn.Module, *, on_cpu: bool) -> Copies:
    """Let a model's layers cast as autocast does, and return the cast weights, to be cleared after each pass."""
    copies: Copies = {}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.forward = functools.partial(_product, module, copies)  # type: ignore[method-assign]
        elif isinstance(module, nn.LayerNorm) and not on_cpu:
            module.forward = functools.partial(_norm_in_float, module)  # type: ignore[method-assign]
    return copies


def _product(layer: nn.Linear, copies: Copies, inputs: torch.Tensor) -> torch.Tensor:
    parts = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    for part in parts:
        if id(part) not in copies:
            copies[id(part)] = part.bfloat16()
    return functional.linear(inputs.bfloat16(), *(copies[id(part)] for part in parts))


def _norm_in_float(layer: nn.LayerNorm, inputs: torch.Tensor) -> torch.Tensor:
    weight, bias = (None if part is None else part.float() for part in (layer.weight, layer.bias))
    return functional.layer_norm(inputs.float(), layer.normalized_shape, weight, bias, layer.eps)
