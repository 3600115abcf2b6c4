"""bfloat16 autocast for the meta device, which torch's own leaves out.

    copies = cast_products(model, on_cpu=False)     # linear layers in bfloat16, norms in float32
    logits_BK = model(pixels_BD)
    copies.clear()                                  # the end of a forward pass

As `torch.autocast` does: weights are cast once in a forward pass and the copies are kept for the backward pass; what
follows a product goes on in bfloat16; on a GPU layer norm, RMS norm and softmax give float32. (torch/amp documentation,
"Autocast Op Reference", and torch's ATen/autocast_mode.h.) It is done to layers, so that it holds as well where a block
is computed again.
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
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.Softmax) and not on_cpu:
            module.forward = functools.partial(_in_float, module)  # type: ignore[method-assign]
    return copies


def _product(layer: nn.Linear, copies: Copies, inputs: torch.Tensor) -> torch.Tensor:
    parts = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    if torch._C._current_graph_task_id() != -1:  # what the backward pass computes again is let go block by block
        return functional.linear(inputs.bfloat16(), *(part.bfloat16() for part in parts))
    for part in parts:
        if id(part) not in copies:
            copies[id(part)] = part.bfloat16()
    return functional.linear(inputs.bfloat16(), *(copies[id(part)] for part in parts))


def _in_float(module: nn.LayerNorm | nn.RMSNorm | nn.Softmax, inputs: torch.Tensor) -> torch.Tensor:
    if isinstance(module, nn.Softmax):
        return functional.softmax(inputs, dim=module.dim, dtype=torch.float32)
    weight = None if module.weight is None else module.weight.float()
    if isinstance(module, nn.RMSNorm):
        return functional.rms_norm(inputs.float(), module.normalized_shape, weight, module.eps)
    bias = None if module.bias is None else module.bias.float()
    return functional.layer_norm(inputs.float(), module.normalized_shape, weight, bias, module.eps)
