"""The perceptron: threshold units, learning by the perceptron's rule on the same path as every other model.

    model = perceptron(in_features=3072, num_classes=10)
    outputs_BK = model(pixels_BD)           # 1 for the class whose weighted sum is largest, 0 for the others

For several classes this is Kesler's construction (Duda, Hart, Stork, "Pattern Classification", section 5.12): a
sample x of class y that is taken for class k moves the weights of y by +x and those of k by -x; one that is
recognised moves nothing. With two classes it is Rosenblatt's rule (1958), w_1 - w_0 being his weights.

A step has no derivative, so the backward pass of the step is the rule itself. Which class was wanted is told by the
objective: it is the one whose output it wants to grow most. The size of that wish, times the learning rate, is the
size of the move; as the weights start at zero, it decides no prediction, as long as it stays the same.

Axes: B batch, D input features, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class _Step(torch.autograd.Function):
    """Forward: the winner takes 1. Backward: -1 at the wanted class and +1 at the winner, where they differ."""

    @staticmethod
    def forward(ctx: Any, sums_BK: torch.Tensor) -> torch.Tensor:
        outputs_BK = winner(sums_BK)
        ctx.save_for_backward(outputs_BK)
        return outputs_BK

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (outputs_BK,) = ctx.saved_tensors
        (gradient_BK,) = gradients
        wish_B1, wanted_B1 = gradient_BK.min(dim=1, keepdim=True)
        wanted_BK = torch.zeros_like(outputs_BK).scatter_(1, wanted_B1, 1)
        # A sample that weighs nothing has a gradient of zero; one that is recognised, a difference of zero.
        move_BK: torch.Tensor = wish_B1.clamp(max=0) * (wanted_BK - outputs_BK)
        return move_BK


def winner(sums_BK: torch.Tensor) -> torch.Tensor:
    """Return 1 at the largest sum of each sample, the first of equal ones, and 0 elsewhere."""
    return functional.one_hot(sums_BK.argmax(dim=1), sums_BK.shape[1]).to(sums_BK.dtype)


class ThresholdUnits(nn.Module):
    """K threshold units of which one fires; differentiated by the perceptron's rule."""

    def forward(self, sums_BK: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            return _Step.apply(sums_BK)  # type: ignore[no-any-return, no-untyped-call]
        return winner(sums_BK)


def perceptron(*, in_features: int, num_classes: int) -> nn.Sequential:
    """Return weighted sums, starting at zero, and threshold units."""
    sums = nn.Linear(in_features, num_classes)
    nn.init.zeros_(sums.weight)
    nn.init.zeros_(sums.bias)
    return nn.Sequential(sums, ThresholdUnits())
