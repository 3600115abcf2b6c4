"""Floating-point operations of a model for one sample: 2 a multiply-add, matrix products alone.

    forward_flop(model)         # 2 for each weight of a matrix
    training_flop(model)        # about 6: as many again for the gradient of the weights, and of the layer's input

An MLP shares no weights: a sample meets each matrix once, so the module tree tells all. What is left out (biases,
norms, activations, the optimiser) is a few in a thousand of the products of wide layers. Some papers count 1 a
multiply-add, "Scaling MLPs" (arXiv 2306.13575) among them: halve these numbers to compare.
"""

from __future__ import annotations

from torch import nn


def forward_flop(model: nn.Module) -> int:
    """Return the FLOP of a forward pass."""
    return sum(2 * parameter.numel() for parameter in model.parameters() if parameter.ndim >= 2)


def training_flop(model: nn.Module) -> int:
    """Return the FLOP of a forward and a backward pass.

    The gradient of a layer's input is computed only where something before it is trained: not for the first layer, and
    not for the layers of a frozen body.
    """
    flop, trained_before = forward_flop(model), False
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            flop += 2 * parameter.numel() * (parameter.requires_grad + trained_before)
        trained_before = trained_before or parameter.requires_grad
    return flop
