"""What a learning-rate range test shows: the loss while the rate rises, and the rates that follow from it.

    curve = read_curve(rates, losses, smooth_steps=5)
    curve.suggestion.steepest       # where the loss falls fastest
    curve.suggestion.lowest         # where it is lowest: beyond that it stops to fall
    curve.suggestion.diverges       # where it is back above its start, or no number at all; None: nowhere

Smith ("Cyclical learning rates for training neural networks", arXiv 1506.01186, section 3.3) lets the rate rise within
one run and reads two numbers off the curve: where learning sets in and where it becomes ragged. Here the rate rises by
a constant factor a step instead of a constant amount, so that each decade is seen for as long. What is suggested is the
rate with the lowest averaged loss; where the loss falls fastest, which others suggest, was over 20 times below the best
rate of a sweep (docs/SWEEPS.md), and is where learning sets in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# The loss has left when it is above its start by this share of what it had fallen by.
DIVERGED_FRAC = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Rates read off a curve; None where the curve does not show one."""

    steepest: float | None
    lowest: float | None
    diverges: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Rates, the loss right after an update at each, and the same averaged, up to twice the fall above its lowest."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    suggestion: Suggestion


def read_curve(rates: Sequence[float], losses: Sequence[float], *, smooth_steps: float, ended: bool = False) -> Curve:
    """Return the curve of a test.

    Args:
        rates, losses: of each step, in order; the loss of a step is of the weights that the rates before it made, so
            each rate goes with the loss of the next step.
        smooth_steps: over which the loss is averaged, to either side.
        ended: the run ended before its last step, as the loss was no number any more.

    Raises:
        ValueError: fewer than three steps.
    """
    if len(rates) != len(losses) or len(rates) < 4:
        raise ValueError(f"{len(rates)} rates and {len(losses)} losses: as many of both, at least 4, wanted")
    kept_rates, kept_losses = tuple(rates[:-1]), tuple(losses[1:])
    # What the loss explodes to would reach back through the average, so it counts as this much at most.
    least = min((loss for loss in losses if math.isfinite(loss)), default=losses[0])
    ceiling = losses[0] + max(losses[0] - least, 0.0)
    smooth = smoothed([min(loss, ceiling) for loss in kept_losses], steps=smooth_steps)
    return Curve(
        rates=kept_rates,
        losses=kept_losses,
        smooth=smooth,
        suggestion=suggest(kept_rates, smooth, first_loss=losses[0], ended=ended),
    )


def smoothed(values: Sequence[float], *, steps: float) -> tuple[float, ...]:
    """Return values averaged with weights exp(-distance / steps) to both sides, which shifts nothing; 0: as they are.

    One that is not finite stays so by itself and counts in no other.
    """
    if steps <= 0:
        return tuple(values)
    decay = math.exp(-1 / steps)

    def one_way(items: Sequence[float]) -> list[tuple[float, float]]:
        sums, total, weight = [], 0.0, 0.0
        for item in items:
            is_finite = math.isfinite(item)
            total, weight = decay * total + (item if is_finite else 0.0), decay * weight + is_finite
            sums.append((total, weight))
        return sums

    before, after = one_way(values), one_way(values[::-1])[::-1]
    found = []
    for value, (left, left_weight), (right, right_weight) in zip(values, before, after, strict=True):
        # The value itself is in both sums.
        if math.isfinite(value):
            found.append((left + right - value) / (left_weight + right_weight - 1))
        else:
            found.append(value)
    return tuple(found)


def suggest(rates: Sequence[float], losses: Sequence[float], *, first_loss: float, ended: bool) -> Suggestion:
    """Read the rates off an averaged loss.

    Args:
        first_loss: before any update.
        ended: the curve ends where the loss was no number any more.
    """
    finite = [index for index, loss in enumerate(losses) if math.isfinite(loss)]
    if not finite:
        return Suggestion(steepest=None, lowest=None, diverges=rates[0] if rates else None)
    lowest = min(finite, key=lambda index: losses[index])
    fallen = first_loss - losses[lowest]
    beyond = range(lowest + 1, len(losses))
    limit = first_loss + DIVERGED_FRAC * max(0.0, fallen)
    left = next((index for index in beyond if not losses[index] <= limit), None)
    if left is None and ended:
        left = len(losses) - 1
    slopes = {
        index: (losses[index + 1] - losses[index - 1]) / math.log(rates[index + 1] / rates[index - 1])
        for index in range(1, lowest)
        if math.isfinite(losses[index + 1]) and math.isfinite(losses[index - 1])
    }
    steepest = min(slopes, key=lambda index: slopes[index], default=None)
    falls = fallen > 0 and steepest is not None and slopes[steepest] < 0
    return Suggestion(
        steepest=rates[steepest] if falls and steepest is not None else None,
        lowest=rates[lowest] if fallen > 0 else None,
        diverges=rates[left] if left is not None else None,
    )


def round_rate(rate: float) -> float:
    """Return a rate to two digits, as one would type it."""
    return float(f"{rate:.2g}")
