"""What it costs a run to come to a training loss: updates, samples and seconds.

    speed = best_speed([record, ...])                       # images/s, of runs with this batch size
    cost_to(record, loss=1.75, batch=64, images_per_s=speed)
    # Cost(updates=61.0, samples=3904.0, seconds=0.06), or None: it never came there

Rows of a run hold the mean loss of the steps since the row before, so a row stands for the middle of these. Seconds are
those of the training itself at the best usual speed of several runs, since what else a machine does only slows it:
without evaluations, and without the start, which for a large batch would be most of them. Updates against samples at
different batch sizes: McCandlish et al. 2018, "An empirical model of large-batch training" (arXiv 1812.06162); Shallue
et al. 2018, "Measuring the effects of data parallelism on neural network training" (arXiv 1811.03600).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.track.run_reading import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What was spent; seconds are those of this machine."""

    updates: float
    samples: float
    seconds: float


def cost_to(record: RunRecord, *, loss: float, batch: int, images_per_s: float) -> Cost | None:
    """Return the cost of the first time that the training loss was so low, between two rows along a line.

    Args:
        batch: samples in an update.
    """
    losses = record.series["train/loss"]
    step, place, before = 0, 0.0, None
    for row_step, value in zip(losses.steps, losses.values, strict=True):
        middle = (step + row_step) / 2
        if value is not None and value <= loss:
            if before is not None:
                middle = place + (before - loss) / (before - value) * (middle - place)
            samples = batch * middle
            return Cost(updates=middle, samples=samples, seconds=samples / images_per_s)
        step, place, before = row_step, middle, value
    return None


def best_speed(records: Sequence[RunRecord]) -> float:
    """Return the highest of the runs' median images a second.

    The first row of a run, in which it starts, counts only where there are no others.
    """
    rows = [[value for value in one.series["rate/images_per_s"].values if value is not None] for one in records]
    return max(statistics.median(speeds[1:] or speeds) for speeds in rows)
