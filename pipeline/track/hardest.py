"""The samples of an evaluation that score highest, exact over all ranks, in bounded memory, with what is shown of them.

    top = TopSamples(count=24)
    top.add(scores_B, batch, answers_B=answers_B, confidences_B=confidences_B, losses_B=losses_B)   # no synchronisation
    top.read()                          # on all ranks together: the same list of 24 on each, highest first

Images are kept from the batches that they came in, so nothing is read twice, and streams are shown too. Of equal scores
the lower sample id comes first, whatever the number of ranks.

Axes: B batch, T the samples kept, H height, W width, C channels, L labels of a sample, F facts of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import distributed
from torch.nn.functional import pad

from pipeline.data.loader import Batch
from pipeline.shards.index import NO_LABEL
from pipeline.track.ceilings import over_ranks
from pipeline.track.contact_sheet import Pixels
from pipeline.training.metrics import sum_over_ranks

# Columns of the facts before the labels. float64 holds ids and classes exactly.
SCORE, ID, ANSWER, CONFIDENCE, LOSS, NUM_FACTS = range(6)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopSample:
    """A sample that is shown.

    Attributes:
        labels: class numbers; one, or any number where samples have several.
        answer: the class that the model gave.
        confidence: the model's score for it: a probability, or the output itself where that is no probability.
    """

    sample_id: int
    labels: tuple[int, ...]
    answer: int
    confidence: float
    loss: float
    image_HWC: Pixels


class TopSamples:
    """Keeps the `count` samples of the highest score."""

    def __init__(self, *, count: int) -> None:
        self.count = count
        self._facts_TF: torch.Tensor | None = None
        self._images_THWC: torch.Tensor | None = None

    @torch.no_grad()
    def add(
        self,
        scores_B: torch.Tensor,
        batch: Batch,
        *,
        answers_B: torch.Tensor,
        confidences_B: torch.Tensor,
        losses_B: torch.Tensor,
    ) -> None:
        """Add a batch; samples of weight 0, and those of score -inf, are never kept. A score of NaN is the highest."""
        scores_B = torch.where(scores_B.isnan(), torch.inf, scores_B.double())
        scores_B = torch.where(batch.weights_B > 0, scores_B, -torch.inf)
        # From pageable memory the driver takes its own copy first; a blocking one would wait for the device too.
        ids_B = torch.from_numpy(batch.sample_ids).to(scores_B.device, non_blocking=True)
        labels_BL = batch.labels_B.view(len(batch), -1)
        facts = [scores_B, ids_B, answers_B, confidences_B, losses_B]
        facts_BF = torch.cat([torch.stack([fact.double() for fact in facts], dim=1), labels_BL.double()], dim=1)
        first = _first(facts_BF, count=self.count)
        facts_TF, images_THWC = facts_BF[first], batch.images_BHWC[first]
        if self._facts_TF is not None and self._images_THWC is not None:
            # Batches are as wide as the most labels of a sample in their shards.
            num_facts = max(self._facts_TF.shape[1], facts_TF.shape[1])
            facts_TF = torch.cat([_widened(self._facts_TF, num_facts), _widened(facts_TF, num_facts)])
            first = _first(facts_TF, count=self.count)
            facts_TF = facts_TF[first]
            images_THWC = torch.cat([self._images_THWC, images_THWC])[first]
        self._facts_TF, self._images_THWC = facts_TF, images_THWC

    def read(self) -> list[TopSample]:
        """Return the samples over all ranks, which call this together after each has added a batch."""
        assert self._facts_TF is not None
        assert self._images_THWC is not None
        facts_TF, images_THWC = _over_ranks(self._facts_TF, self._images_THWC, count=self.count)
        facts, images = facts_TF.cpu(), images_THWC.cpu().numpy()  # the host waits for the device here
        return [
            TopSample(
                sample_id=int(row[ID]),
                labels=tuple(int(label) for label in row[NUM_FACTS:] if label != NO_LABEL),
                answer=int(row[ANSWER]),
                confidence=row[CONFIDENCE],
                loss=row[LOSS],
                image_HWC=image_HWC,
            )
            for row, image_HWC in zip(facts.tolist(), images, strict=True)
            if row[SCORE] > -float("inf")
        ]


def _first(facts_TF: torch.Tensor, *, count: int) -> torch.Tensor:
    """Return the rows of the highest scores, of equal ones of the lowest ids, in that order."""
    by_id = facts_TF[:, ID].argsort(stable=True)
    return by_id[facts_TF[by_id, SCORE].argsort(descending=True, stable=True)][:count]


def _widened(facts_TF: torch.Tensor, num_facts: int) -> torch.Tensor:
    """Return facts with room for more labels."""
    return pad(facts_TF, (0, num_facts - facts_TF.shape[1]), value=NO_LABEL)


def _over_ranks(facts_TF: torch.Tensor, images_THWC: torch.Tensor, *, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first of all ranks' samples; three all-reduces, the last as large as the images of `count` samples."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return facts_TF, images_THWC
    rank, num_ranks = distributed.get_rank(), distributed.get_world_size()
    facts_TF = _widened(facts_TF, int(over_ranks(facts_TF.shape[1], "max", device=facts_TF.device)))
    facts_RTF = facts_TF.new_zeros((num_ranks, count, facts_TF.shape[1]))
    facts_RTF[rank, :, SCORE] = -torch.inf  # also where this rank has fewer
    facts_RTF[rank, : len(facts_TF)] = facts_TF
    facts_XF = sum_over_ranks(facts_RTF).flatten(0, 1)
    first = _first(facts_XF, count=count)
    images_THWC, mine_THWC = images_THWC.new_zeros((len(first), *images_THWC.shape[1:])), images_THWC
    rows = first - rank * count
    is_mine = (rows >= 0) & (rows < len(mine_THWC))
    # Each image is on one rank alone, so that the sum is the image.
    images_THWC[is_mine] = mine_THWC[rows[is_mine]]
    return facts_XF[first], sum_over_ranks(images_THWC)
