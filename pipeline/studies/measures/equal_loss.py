"""Runs compared at equal training loss rather than after equal work: each where it has first come down to it.

found = at_losses(run, (1.0, 0.5))          # [AtLoss(loss=0.98, accuracy=34.4, sharpness=5.6), AtLoss(loss=0.49, ...)]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.shards.errors import UserError
from pipeline.studies.measures.curvature import loss_of, sharpness
from pipeline.studies.measures.models_along import models_along, training_samples
from pipeline.studies.study import ACCURACY, StudyRun
from pipeline.trained import open_trained


@dataclass(frozen=True, slots=True, kw_only=True)
class AtLoss:
    """A run at some weights: loss and sharpness over its training set, accuracy on the validation set in %."""

    loss: float
    accuracy: float
    sharpness: float


def at_losses(run: StudyRun, losses: Sequence[float]) -> list[AtLoss]:
    """Return, for each loss, the first weights that the run evaluated and kept whose training loss is not above it.

    Args:
        losses: descending.

    Raises:
        UserError: the run does not come so far down.
    """
    trained = open_trained(run.record.folder)
    pixels_ND, labels_N = training_samples(trained)
    accuracies = run.logged(ACCURACY)
    found: list[AtLoss] = []
    for step, model in models_along(trained):
        if len(found) == len(losses):
            break
        if step not in accuracies or (loss := loss_of(model, pixels_ND, labels_N)) > losses[len(found)]:
            continue
        here = AtLoss(loss=loss, accuracy=100 * accuracies[step], sharpness=sharpness(model, pixels_ND, labels_N))
        found += [here] * sum(loss <= wanted for wanted in losses[len(found) :])
    if len(found) < len(losses):
        raise UserError(
            f"{run.record.folder}: its training loss never falls to {losses[len(found)]}; train for more epochs"
        )
    return found
