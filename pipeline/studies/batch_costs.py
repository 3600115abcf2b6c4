"""What it costs a run to come to a training loss: updates, samples and seconds.

    cost_to(record, loss=1.75)          # Cost(updates=61.0, samples=3904.0, seconds=0.06), or None: it never came there

Rows of a run hold the mean loss of the steps since the row before, so a row stands for the middle of these. Seconds are
those of the training itself, without evaluations. Updates against samples at different batch sizes: McCandlish et al.
2018, "An empirical model of large-batch training" (arXiv 1812.06162); Shallue et al. 2018, "Measuring the effects of
data parallelism on neural network training" (arXiv 1811.03600).
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.track.run_reading import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What was spent; seconds are those of this machine."""

    updates: float
    samples: float
    seconds: float


def cost_to(record: RunRecord, *, loss: float, batch: int) -> Cost | None:
    """Return the cost of the first time that the training loss was so low, between two rows along a line.

    Args:
        batch: samples in an update.
    """
    losses, speeds = record.series["train/loss"], record.series["rate/images_per_s"]
    speed_at = dict(zip(speeds.steps, speeds.values, strict=True))
    step, place, before = 0, 0.0, None
    seconds = 0.0
    for row_step, value in zip(losses.steps, losses.values, strict=True):
        middle = (step + row_step) / 2
        if value is not None and value <= loss:
            share = 0.0 if before is None or value == before else (before - loss) / (before - value)
            updates = middle if before is None else place + share * (middle - place)
            speed = speed_at.get(row_step)
            per_update = batch / speed if speed else 0.0
            return Cost(updates=updates, samples=updates * batch, seconds=seconds + (updates - step) * per_update)
        speed = speed_at.get(row_step)
        seconds += (row_step - step) * batch / speed if speed else 0.0
        step, place, before = row_step, middle, value
    return None
