"""Objectives: logits and labels in, one loss a sample out, so that padding can weigh nothing.

    losses_B = cross_entropy(logits_BK, labels_B, label_smoothing=0.1)

Axes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(logits_BK: torch.Tensor, labels_B: torch.Tensor, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """Return -sum_k t_k log softmax(logits)_k, in nats, with t the one-hot target smoothed over all K classes."""
    return functional.cross_entropy(logits_BK.float(), labels_B, reduction="none", label_smoothing=label_smoothing)


def mean_squared_error(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Return the lecture's J for each sample: the mean over classes of (output - one-hot target) squared."""
    targets_BK = functional.one_hot(labels_B, logits_BK.shape[1]).to(torch.float32)
    return (logits_BK.float() - targets_BK).square().mean(dim=1)
