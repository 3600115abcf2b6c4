"""Mean average precision of several labels a sample, exact over all ranks.

    scores = LabelScores(num_classes=80)
    scores.add(logits_BK, labels_BL, weights_B)         # every sample once
    result = scores.read()                              # on all ranks together
    result.mean, result.of_class[17]                    # 0.314, nan for a class that no sample has

Average precision of a class is sum_n (R_n - R_(n-1)) P_n over the distinct scores in descending order, with P_n and R_n
the precision and recall of taking all samples of that score or a higher one: scikit-learn's `average_precision_score`,
with no interpolation, so that samples of equal scores count alike whatever their order. The mean is over classes that a
sample has. Every term is of whole numbers, so the result is the same to the last bit for any number of ranks.

Memory of a rank: 5 bytes a sample of its share and class, and about 60 bytes a score of all ranks,
of some classes at a time.

Axes: N samples, B batch, K classes, L labels of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import distributed

from pipeline.training.objective import targets_of

# Scores of all ranks that are sorted at a time.
SORTED_SCORES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragePrecision:
    """What was found, on the CPU.

    Attributes:
        of_class: float64 (K,), nan where no sample has the class.
        positives: int64 (K,), samples that have the class.
    """

    of_class: torch.Tensor
    positives: torch.Tensor

    @property
    def mean(self) -> float:
        """Over the classes that a sample has; nan where there is none."""
        return float(self.of_class[self.positives > 0].mean())


class LabelScores:
    """Keeps the scores of a pass over an evaluation split."""

    def __init__(self, *, num_classes: int) -> None:
        self.num_classes = num_classes
        self._scores: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []

    @torch.no_grad()
    def add(self, logits_BK: torch.Tensor, labels_BL: torch.Tensor, weights_B: torch.Tensor) -> None:
        """Add a batch; samples of weight 0 are left out, and a score that is not a number is the lowest."""
        kept_B = weights_B > 0  # the host waits for the device here
        self._scores.append(torch.where(logits_BK.isnan(), -torch.inf, logits_BK.float())[kept_B])
        self._targets.append(targets_of(labels_BL, num_classes=self.num_classes).to(torch.uint8)[kept_B])

    def read(self) -> AveragePrecision:
        """Return the average precision over all ranks, which call this together."""
        scores_NK, targets_NK = torch.cat(self._scores), torch.cat(self._targets)
        counts = _gathered_counts(scores_NK)
        step = max(1, SORTED_SCORES // max(1, sum(counts)))
        found = [
            average_precision(
                _gathered(scores_NK[:, first : first + step], counts),
                _gathered(targets_NK[:, first : first + step], counts),
            )
            for first in range(0, self.num_classes, step)
        ]
        of_class, positives = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        return AveragePrecision(of_class=of_class, positives=positives)


def average_precision(scores_NK: torch.Tensor, targets_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the average precision of each column, float64 (K,), nan where it has no target, and how many it has."""
    positives_K = targets_NK.sum(dim=0)
    num_samples = len(scores_NK)
    if num_samples == 0:
        return torch.full_like(positives_K, torch.nan, dtype=torch.float64), positives_K
    # Classes as rows: a row is summed in the same order however many there are.
    sorted_KN, order_KN = scores_NK.T.contiguous().sort(dim=1, descending=True)
    hits_KN = targets_NK.T.gather(1, order_KN).cumsum(dim=1)
    # At the last of equal scores alone there is a threshold; hits of one threshold are those since the one before.
    is_last_KN = torch.ones_like(hits_KN, dtype=torch.bool)
    is_last_KN[:, :-1] = sorted_KN[:, :-1] != sorted_KN[:, 1:]
    hits_before_KN = torch.zeros_like(hits_KN)
    hits_before_KN[:, 1:] = torch.where(is_last_KN, hits_KN, 0).cummax(dim=1).values[:, :-1]
    taken_N = torch.arange(1, num_samples + 1, device=scores_NK.device)
    terms_KN = (hits_KN - hits_before_KN).double() * (hits_KN.double() / taken_N)
    sums_K = torch.where(is_last_KN, terms_KN, 0.0).sum(dim=1)
    return torch.where(positives_K > 0, sums_K / positives_K, torch.nan), positives_K


def _gathered_counts(values_NX: torch.Tensor) -> list[int]:
    """Return how many rows each rank has."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [len(values_NX)]
    counts = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=values_NX.device)
    counts[distributed.get_rank()] = len(values_NX)
    distributed.all_reduce(counts)
    return [int(count) for count in counts.tolist()]


def _gathered(values_NX: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return the rows of all ranks."""
    if len(counts) == 1:
        return values_NX
    padded = values_NX.new_zeros((max(counts), *values_NX.shape[1:]))
    padded[: len(values_NX)] = values_NX
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
