"""What an evaluation says of each class, exact over all ranks: accuracy, the confusion matrix, average precision.

    sums = ClassSums(num_classes=10, device=device)
    sums.add(logits_BK, labels_B, weights_B)            # no synchronisation
    report = sums.read()                                # on all ranks together, one all-reduce
    report.accuracy[3], report.confusion[3, 5]          # 0.81; how many of class 3 were called class 5

Axes: B batch, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.training.average_precision import AveragePrecision
from pipeline.training.metrics import num_ahead, sum_over_ranks

# A confusion matrix of so many classes has 32 MB on the device; with more there is none.
MAX_CONFUSION_CLASSES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassReport:
    """What was found, on the CPU.

    Attributes:
        samples: int64 (K,), samples of each class.
        hits: int64 (K,), of those the ones that were called so, or None where samples have several labels.
        confusion: int64 (K, K), [label, highest logit], or None as for hits or of very many classes. A row's sum is
            its class's samples; the diagonal is `hits` but for equal or undefined logits, which are never hits.
        average_precision: float64 (K,), of several labels a sample; nan for a class that no sample has.
    """

    samples: torch.Tensor
    hits: torch.Tensor | None = None
    confusion: torch.Tensor | None = None
    average_precision: torch.Tensor | None = None

    @property
    def accuracy(self) -> torch.Tensor | None:
        """Share of hits in each class, float64 (K,), nan for a class that no sample has."""
        return None if self.hits is None else self.hits.double() / self.samples

    def rows(self, classes: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return a row for each class, for JSON: its name, samples, and what there is of the rest, None for nan."""
        columns: dict[str, torch.Tensor | None] = {
            "top1_frac": self.accuracy,
            "average_precision_frac": self.average_precision,
        }
        rows: list[dict[str, Any]] = [
            {"class": name, "samples": count} for name, count in zip(classes, self.samples.tolist(), strict=True)
        ]
        for key, values in columns.items():
            for row, value in zip(rows, [] if values is None else values.tolist(), strict=False):
                row[key] = value if value == value else None
        return rows


class ClassSums:
    """Counts on the device for samples of one label: of each class, its hits, and of pairs of label and answer."""

    def __init__(self, *, num_classes: int, device: torch.device | str) -> None:
        self.num_classes = num_classes
        self._has_confusion = num_classes <= MAX_CONFUSION_CLASSES
        num_counts = num_classes * (2 + num_classes if self._has_confusion else 2)
        self._counts = torch.zeros(num_counts, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, logits_BK: torch.Tensor, labels_B: torch.Tensor, weights_B: torch.Tensor) -> None:
        """Add a batch; samples of weight 0 add nothing."""
        kept_B = (weights_B > 0).long()
        samples, hits, confusion = self._counts.tensor_split([self.num_classes, 2 * self.num_classes])
        samples.index_add_(0, labels_B, kept_B)
        hits.index_add_(0, labels_B, kept_B * (num_ahead(logits_BK, labels_B) < 1))
        if self._has_confusion:
            confusion.index_add_(0, labels_B * self.num_classes + answers_of(logits_BK), kept_B)

    def read(self) -> ClassReport:
        """Return the counts over all ranks, which call this together."""
        counts = sum_over_ranks(self._counts).cpu()
        samples, hits, confusion = counts.tensor_split([self.num_classes, 2 * self.num_classes])
        shape = (self.num_classes, self.num_classes)
        return ClassReport(samples=samples, hits=hits, confusion=confusion.view(shape) if self._has_confusion else None)


def answers_of(logits_BK: torch.Tensor) -> torch.Tensor:
    """Return the class of each sample's highest logit, (B,), the lowest of several; what is no number is the lowest."""
    return torch.where(logits_BK.isnan(), -torch.inf, logits_BK).argmax(dim=1)


def report_of_labels(found: AveragePrecision) -> ClassReport:
    """Return the report of samples of several labels."""
    return ClassReport(samples=found.positives, average_precision=found.of_class)
