"""What a model's outputs say of each class, and back: outputs that say such a thing.

    scores_BK = scores_of(logits_BK, Scores.softmax)        # probabilities, which can be averaged over several looks
    logits_BK = outputs_of(scores_BK, Scores.softmax)       # softmax(logits_BK) == scores_BK

Axes: B batch, K classes.
"""

from __future__ import annotations

from enum import Enum

import torch


class Scores(Enum):
    """How an objective reads a model's outputs."""

    softmax = "softmax"  # one class of all: probabilities that add up to 1
    sigmoid = "sigmoid"  # any number of classes: a probability each
    plain = "plain"  # the outputs themselves


def scores_of(logits_BK: torch.Tensor, scores: Scores) -> torch.Tensor:
    """Return what outputs say of each class, float32."""
    logits_BK = logits_BK.float()
    if scores is Scores.softmax:
        return logits_BK.softmax(dim=1)
    return logits_BK.sigmoid() if scores is Scores.sigmoid else logits_BK


def outputs_of(scores_BK: torch.Tensor, scores: Scores) -> torch.Tensor:
    """Return outputs that have these scores; a probability of 0 is taken for the smallest that float32 has."""
    if scores is Scores.plain:
        return scores_BK
    least = torch.finfo(torch.float32).tiny
    if scores is Scores.softmax:
        return scores_BK.clamp_min(least).log()
    return scores_BK.clamp_min(least).log() - (1 - scores_BK).clamp_min(least).log()
