"""What an evaluation's pictures are made of, gathered while it goes on, on the device: 48 images, 8 bytes a sample.

    watch = EvalWatch(scores=Scores.softmax, num_classes=10)
    watch.add(logits_BK, losses_B, batch)                       # no synchronisation
    found = watch.read()                                        # on all ranks together
    found.worst[0], found.confident_wrong[0], found.pairs[0]

For samples of one label the answer is the class of the highest score, and wrong where it is not the label. For samples
of several labels every class may be right, and the answer that can be wrong is the highest of the classes that a sample
does not have.

Axes: B batch, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed

from pipeline.data.loader import Batch
from pipeline.track.confusion import Pair, most_frequent
from pipeline.track.hardest import TopSample, TopSamples
from pipeline.training.class_report import answers_of
from pipeline.training.objective import targets_of
from pipeline.training.scores import Scores, scores_of

NUM_SHOWN = 24
NUM_PAIRS = 50
RIGHT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What was found; the same on every rank but for `pairs`.

    Attributes:
        worst: samples of the highest loss, which may have been answered rightly.
        confident_wrong: wrong answers of the highest score.
        pairs: the most frequent confusions, on rank 0; empty where samples have several labels, and on other ranks.
    """

    worst: list[TopSample]
    confident_wrong: list[TopSample]
    pairs: list[Pair]


class EvalWatch:
    """Looks on while a split is evaluated."""

    def __init__(self, *, scores: Scores, num_classes: int) -> None:
        self.scores, self.num_classes = scores, num_classes
        self._worst, self._confident_wrong = TopSamples(count=NUM_SHOWN), TopSamples(count=NUM_SHOWN)
        # Of each sample label * K + answer, or RIGHT: 8 bytes, where a matrix of 21,841 classes would have 3.8 GB.
        self._codes: list[torch.Tensor] = []

    @torch.no_grad()
    def add(self, logits_BK: torch.Tensor, losses_B: torch.Tensor, batch: Batch) -> None:
        """Add what a model said of a batch; samples of weight 0 are left out."""
        scores_BK = scores_of(logits_BK, self.scores)
        scores_BK = torch.where(scores_BK.isnan(), -torch.inf, scores_BK)
        answers_B = answers_of(logits_BK)  # not of scores: high ones may be equal where logits are not
        confidences_B = scores_BK.gather(1, answers_B[:, None])[:, 0]
        said = {"answers_B": answers_B, "confidences_B": confidences_B}
        self._worst.add(losses_B, batch, losses_B=losses_B, **said)
        if batch.labels_B.ndim == 2:
            has_BK = targets_of(batch.labels_B, num_classes=self.num_classes).bool()
            confidences_B, answers_B = torch.where(has_BK, -torch.inf, scores_BK).max(dim=1)
            wrong_B = confidences_B
        else:
            is_wrong_B = answers_B != batch.labels_B
            wrong_B = torch.where(is_wrong_B, confidences_B, -torch.inf)
            codes_B = batch.labels_B * self.num_classes + answers_B
            self._codes.append(torch.where(is_wrong_B & (batch.weights_B > 0), codes_B, RIGHT))
        said = {"answers_B": answers_B, "confidences_B": confidences_B}
        self._confident_wrong.add(wrong_B, batch, losses_B=losses_B, **said)

    def read(self) -> Watched:
        """Return what was found over all ranks, which call this together."""
        return Watched(worst=self._worst.read(), confident_wrong=self._confident_wrong.read(), pairs=self._read_pairs())

    def _read_pairs(self) -> list[Pair]:
        if not self._codes:
            return []
        codes = torch.cat(self._codes).cpu().numpy()
        counted = np.stack(np.unique(codes[codes != RIGHT], return_counts=True))
        if distributed.is_available() and distributed.is_initialized():
            is_first = distributed.get_rank() == 0
            parts: list[np.ndarray] | None = [counted] * distributed.get_world_size() if is_first else None
            distributed.gather_object(counted, parts)
            if parts is None:
                return []
            counted = np.concatenate(parts, axis=1)
        codes, inverse = np.unique(counted[0], return_inverse=True)
        samples = np.zeros(len(codes), dtype=np.int64)
        np.add.at(samples, inverse, counted[1])
        labels, answers = np.divmod(codes, self.num_classes)
        return most_frequent(labels, answers, samples, count=NUM_PAIRS)
