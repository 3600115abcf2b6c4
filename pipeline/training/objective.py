"""Objectives: logits and labels in, one loss a sample out, so that padding can weigh nothing.

    losses_B = cross_entropy(logits_BK, labels_B, label_smoothing=0.1)
    losses_B = cross_entropy(logits_BK, labels_B, own_B=own_B)  # under mixup: own * loss + (1 - own) * its neighbour's
    losses_B = binary_cross_entropy(logits_BK, labels_BL)       # any number of labels a sample, padded with -1
    losses_B = mean_squared_error(outputs_BK, targets_BK)       # the targets of a regression, float32

Under mixup (pipeline/data/mixup.py) a sample's target is blended as its image is; the neighbour's label is in the same
batch, so a share a sample is all that is told.

Axes: B batch, K classes, L labels of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

from pipeline.data.mixup import mix_neighbours, of_neighbours
from pipeline.training.scores import Scores


class Objective(Protocol):
    """What is made small."""

    def __call__(
        self, logits_BK: torch.Tensor, labels: torch.Tensor, /, *, own_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return a loss for each sample, float32 (B,).

        Args:
            labels: class numbers, int64 (B,), or (B, L) padded with -1; targets, float32 (B, K).
            own_B: share of each sample in its own blend, the rest is its neighbour's; None without mixup.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What belongs together.

    Attributes:
        training: what training makes small.
        evaluation: the same without smoothing.
        scores: how they read logits.
        has_classes: whether outputs stand for classes; False: they are to equal the targets of a regression.
    """

    training: Objective
    evaluation: Objective
    scores: Scores
    has_classes: bool = True


def cross_entropy(
    logits_BK: torch.Tensor,
    labels_B: torch.Tensor,
    *,
    own_B: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return -sum_k t_k log softmax(logits)_k, in nats, with t the one-hot target smoothed over all K classes."""
    logits_BK = logits_BK.float()
    if own_B is None:
        return functional.cross_entropy(logits_BK, labels_B, reduction="none", label_smoothing=label_smoothing)
    # It is linear in the target, so (B, K) of targets need not be made.
    log_shares_BK = logits_BK.log_softmax(dim=1)
    of_own_B, of_other_B = (
        log_shares_BK.gather(1, labels[:, None])[:, 0] for labels in (labels_B, of_neighbours(labels_B))
    )
    losses_B = -torch.lerp(of_other_B, of_own_B, own_B)
    if label_smoothing == 0:
        return losses_B
    return torch.lerp(losses_B, -log_shares_BK.mean(dim=1), label_smoothing)


def mean_squared_error(
    logits_BK: torch.Tensor, labels: torch.Tensor, *, own_B: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the lecture's J for each sample: the mean over outputs of (output - target) squared.

    Of class numbers the targets are 0 or 1.
    """
    targets_BK = targets_of(labels, own_B, num_classes=logits_BK.shape[1])
    return (logits_BK.float() - targets_BK).square().mean(dim=1)


def binary_cross_entropy(
    logits_BK: torch.Tensor, labels: torch.Tensor, *, own_B: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean over classes of -t log p - (1-t) log(1-p), in nats, with p = sigmoid(logit)."""
    targets_BK = targets_of(labels, own_B, num_classes=logits_BK.shape[1])
    return functional.binary_cross_entropy_with_logits(logits_BK.float(), targets_BK, reduction="none").mean(dim=1)


def targets_of(labels: torch.Tensor, own_B: torch.Tensor | None = None, *, num_classes: int) -> torch.Tensor:
    """Return float32 (B, K), 1 for each class of a sample, blended with its neighbour's where shares are given.

    Targets of a regression are what they are.
    """
    if labels.is_floating_point():
        return labels if own_B is None else mix_neighbours(labels, own_B)
    labels_BL = labels[:, None] if labels.ndim == 1 else labels
    # Unused places of the labels go to a column that is cut off.
    columns_BL = torch.where(labels_BL < 0, num_classes, labels_BL)
    targets_BK = torch.zeros((len(labels), num_classes + 1), device=labels.device).scatter_(1, columns_BL, 1.0)
    targets_BK = targets_BK[:, :num_classes].contiguous()
    return targets_BK if own_B is None else mix_neighbours(targets_BK, own_B)
