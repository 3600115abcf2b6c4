"""ImageNet-ReaL: every right answer of an image, where the original label is one (Beyer et al. 2020, arXiv 2006.07159).

    answers = read_answers(Path("real.json"))               # answers[0]: class numbers of ILSVRC2012_val_00000001
    table = answer_table(answers, source_keys, class_ids=data_set.class_ids)
    sums = AnswerSums(table, device)
    sums.add(logits_BK, sample_ids, weights_B)
    sums.read()                                             # {"real_top1_frac": 0.83, "real_samples": 46837}

A prediction is right if it is one of the image's answers. Images without an answer (3,163 of the 50,000) are left out,
as in the paper. Class numbers in real.json count the 1,000 WordNet ids in ascending order, whatever the order of the
data set's own classes is.

Axes: B batch, K classes, N samples, A answers of an image, padded with -1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.shards.errors import UserError
from pipeline.training.metrics import sum_over_ranks

NUM_CLASSES = 1000
NO_ANSWER = -1
_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})")


def read_answers(path: Path) -> list[list[int]]:
    """Return the class numbers of each validation image, from 1 on.

    Raises:
        UserError: there is no such file, or it is of another form.
    """
    try:
        answers = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"labels={path}: cannot be read ({error}); real.json of ImageNet-ReaL is wanted") from None
    fits = isinstance(answers, list) and all(
        isinstance(found, list) and all(type(number) is int and 0 <= number < NUM_CLASSES for number in found)
        for found in answers
    )
    if not fits:
        raise UserError(f"labels={path}: a list of lists of class numbers, 0 to {NUM_CLASSES - 1}, wanted")
    return answers  # type: ignore[no-any-return]


def answer_table(
    answers: Sequence[Sequence[int]], source_keys: Sequence[str], *, class_ids: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Return the labels that are right for each sample, (N, A).

    Args:
        source_keys: of the samples, with the names that ImageNet's validation images have.
        class_ids: WordNet ids of the data set's labels.

    Raises:
        UserError: these are not ImageNet's validation images, or not its 1,000 classes.
    """
    if len(class_ids) != NUM_CLASSES or not all(re.fullmatch(r"n\d{8}", name) for name in class_ids):
        raise UserError("labels: are of ImageNet's 1,000 classes, with their WordNet ids; the data set has others")
    label_of = {name: label for label, name in enumerate(class_ids)}
    label_of_number = [label_of[name] for name in sorted(class_ids)]
    found: list[Sequence[int]] = []
    for key in source_keys:
        match = _IMAGE.search(key)
        if match is None or not 1 <= int(match[1]) <= len(answers):
            raise UserError(f"labels: has no image {key}; ILSVRC2012_val_00000001 to {len(answers)} are there")
        found.append(answers[int(match[1]) - 1])
    table = np.full((len(found), max(1, *map(len, found))), NO_ANSWER, dtype=np.int64)
    for row, numbers in zip(table, found, strict=True):
        row[: len(numbers)] = [label_of_number[number] for number in numbers]
    return table


class AnswerSums:
    """Counts of images that have answers, and of those whose best class is one; exact on any number of ranks."""

    def __init__(self, table: npt.NDArray[np.int64], device: torch.device) -> None:
        self._table_NA = torch.from_numpy(table).to(device)
        self._sums = torch.zeros(2, dtype=torch.int64, device=device)

    def add(self, logits_BK: torch.Tensor, sample_ids: npt.NDArray[np.int64], weights_B: torch.Tensor) -> None:
        """Add what was said of samples; those of weight 0 add nothing."""
        answers_BA = self._table_NA[torch.from_numpy(sample_ids).to(self._table_NA.device)]
        # The lowest class of several that are best, as in the other metrics.
        counted_B = (weights_B > 0) & (answers_BA[:, 0] != NO_ANSWER)
        hits_B = (answers_BA == logits_BK.argmax(dim=1, keepdim=True)).any(dim=1) & counted_B
        self._sums += torch.stack([counted_B.sum(), hits_B.sum()])

    def read(self) -> dict[str, float]:
        """Return the share of right predictions and the number of images, over all ranks."""
        counted, hits = sum_over_ranks(self._sums).tolist()
        return {"real_top1_frac": hits / max(1, counted), "real_samples": counted}
