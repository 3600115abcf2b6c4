"""Numbers of a run's updates: how many, in how many passes each, at which learning rate.

plan = plan_steps(config, steps_per_epoch=390, micro_batches=1)     # build_optimizer.py
plan.rate_at(0)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """Numbers of a run that follow from config and data.

    Attributes:
        steps_per_epoch, total_steps: in updates.
        epochs_per_evaluation: the last epoch is always evaluated.
        micro_batches: forward passes of each rank in an update.
        rate_at: learning rate of update `step`.
        clip_norm: largest gradient norm, or None.
        noise_std_at: standard deviation of the noise that is added to the gradient of update `step`; None: no noise.
    """

    steps_per_epoch: int
    total_steps: int
    micro_batches: int
    rate_at: Callable[[int], float]
    epochs_per_evaluation: int = 1
    clip_norm: float | None = None
    noise_std_at: Callable[[int], float] | None = None

    @property
    def steps_per_evaluation(self) -> int:
        """Updates from one evaluation to the next."""
        return self.steps_per_epoch * self.epochs_per_evaluation
