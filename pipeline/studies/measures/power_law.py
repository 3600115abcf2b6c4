"""Laws of scaling: loss against compute, and the size that is best for a given compute.

    curves = [Curve(parameters=15_000, compute=[1e9, 2e9, 4e9], loss=[1.9, 1.8, 1.7]), ...]
    table = Losses.of(curves, compute=common_grid(curves, num=24))
    table.best_sizes()                  # parameters at each compute, nan where the best may lie outside of what was run
    table.law()                         # loss of the best = floor + scale * compute^-exponent

A curve is one size of model while it trains: at each point it has spent so much compute and has such a loss. The best
size at equal compute is the lowest point of a parabola in log(parameters): approach 2 of Hoffmann et al. 2022,
"Training compute-optimal large language models" (arXiv 2203.15556). That the learning rate stays constant, so that each
point of a curve stands for a run that ends there, is after Hägele et al. 2024 (arXiv 2405.18392).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
EXPONENTS = np.geomspace(0.01, 3.0, 200)
# A law has three numbers, and a slope is told of no fewer points.
MIN_POINTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Loss of one size of model against compute spent; `compute` ascends, in FLOP."""

    parameters: float
    compute: Sequence[float]
    loss: Sequence[float]

    def at(self, compute: Floats) -> Floats:
        """Return the loss at each compute, between two points along the logarithm; nan where it was not trained so."""
        where, points = np.log(compute), np.log(np.asarray(self.compute))
        found: Floats = np.interp(where, points, np.asarray(self.loss), left=math.nan, right=math.nan)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """Loss L = floor + scale * compute^-exponent."""

    floor: float
    scale: float
    exponent: float

    def at(self, compute: float) -> float:
        return float(self.floor + self.scale * compute**-self.exponent)


def common_grid(curves: Sequence[Curve], *, num: int) -> Floats:
    """Return so many values of compute, evenly apart in their logarithm, from the least to the most that was spent."""
    low, high = min(curve.compute[0] for curve in curves), max(curve.compute[-1] for curve in curves)
    # The ends exactly: rounding must not put them outside of what was run.
    return np.geomspace(low, high, num).clip(low, high)


def fit_law(compute: Floats, loss: Floats) -> PowerLaw:
    """Return the law of least squares: over a grid of exponents, floor and scale by linear regression.

    Neither is below zero: a loss has no floor under 0, and it does not rise with compute.

    Raises:
        ValueError: fewer than three finite points.
    """
    finite = np.isfinite(loss)
    compute, loss = compute[finite], loss[finite]
    if len(loss) < MIN_POINTS:
        raise ValueError(f"{len(loss)} points: three wanted for a law of three numbers")
    middle = math.exp(np.log(compute).mean())  # of order one, or the regression would lose its digits
    powers = (compute / middle)[None] ** -EXPONENTS[:, None]
    means = powers.mean(axis=1, keepdims=True)
    slope = ((powers - means) * (loss - loss.mean())).sum(axis=1) / ((powers - means) ** 2).sum(axis=1)
    floor = loss.mean() - slope * means[:, 0]
    without = (powers * loss).sum(axis=1) / (powers**2).sum(axis=1)  # of a floor at zero
    floor, slope = np.where(floor < 0, 0.0, floor), np.where(floor < 0, without, slope)
    floor, slope = np.where(slope < 0, loss.mean(), floor), np.maximum(slope, 0.0)
    errors = ((floor[:, None] + slope[:, None] * powers - loss) ** 2).sum(axis=1)
    best = int(errors.argmin())
    exponent = float(EXPONENTS[best])
    return PowerLaw(floor=float(floor[best]), scale=float(slope[best]) * middle**exponent, exponent=exponent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Losses of several sizes at the same values of compute.

    Attributes:
        parameters_S: of each size, ascending.
        compute_C: in FLOP, ascending.
        losses_SC: nan where a size was not trained so.
    """

    parameters_S: Floats
    compute_C: Floats
    losses_SC: Floats

    @staticmethod
    def of(curves: Sequence[Curve], *, compute: Floats) -> Losses:
        """Return the losses at each compute; of curves of one size, which are seeds, the mean."""
        return Losses.of_rows([(curve.parameters, curve.at(compute)) for curve in curves], compute=compute)

    @staticmethod
    def of_rows(rows: Sequence[tuple[float, Floats]], *, compute: Floats) -> Losses:
        """Return the same from parameters and losses at each compute, already known."""
        by_size: dict[float, list[Floats]] = {}
        for parameters, losses in rows:
            by_size.setdefault(parameters, []).append(losses)
        sizes = sorted(by_size)
        means = [sum(by_size[size][1:], by_size[size][0]) / len(by_size[size]) for size in sizes]
        return Losses(parameters_S=np.array(sizes), compute_C=compute, losses_SC=np.stack(means))

    def best_sizes(self) -> Floats:
        """Return the number of parameters with the lowest loss at each compute.

        It is the vertex of the parabola through the best size and its two neighbours, in log(parameters); nan where one
        of these was not trained so, so that the true best may lie outside.
        """
        x = np.log(self.parameters_S)
        found = np.full(len(self.compute_C), math.nan)
        for place, losses in enumerate(self.losses_SC.T):
            best = int(np.where(np.isnan(losses), np.inf, losses).argmin())
            if not 0 < best < len(x) - 1:
                continue
            left, right = x[best] - x[best - 1], x[best] - x[best + 1]
            over_left, over_right = losses[best] - losses[best - 1], losses[best] - losses[best + 1]
            divisor = left * over_right - right * over_left
            if divisor != 0:  # zero: all three the same, no vertex
                found[place] = x[best] - (left**2 * over_right - right**2 * over_left) / divisor / 2
        sizes: Floats = np.exp(found)
        return sizes

    def size_exponent(self) -> float:
        """Return the exponent a of best parameters ~ compute^a, by least squares on logarithms; nan of under three."""
        sizes = self.best_sizes()
        known = np.isfinite(sizes)
        if known.sum() < MIN_POINTS:
            return math.nan
        return float(np.polyfit(np.log(self.compute_C[known]), np.log(sizes[known]), 1)[0])

    def best_losses(self) -> Floats:
        """Return the lowest loss at each compute; nan where the best size is not known."""
        lowest = np.where(np.isnan(self.losses_SC), np.inf, self.losses_SC).min(axis=0)
        known: Floats = np.where(np.isfinite(self.best_sizes()), lowest, math.nan)
        return known

    def law(self, *, most_compute: float = math.inf) -> PowerLaw:
        """Return the law of the lowest losses, fitted up to a compute.

        Where the best size is not known the lowest loss is that of a model which is too large or too small, so it is
        left out.

        Raises:
            ValueError: fewer than three such points.
        """
        return fit_law(self.compute_C, np.where(self.compute_C <= most_compute, self.best_losses(), math.nan))
