"""Linear units in two classes, and what theory says of them: the solved logistic regression, the margin, the bound.

    unit = unit_of(model)                                   # w_1 - w_0 and b_1 - b_0, float64 (D + 1,)
    solved = solve_logistic(pixels_ND, labels_N, weight_decay=0.1)
    np.linalg.norm(unit - solved) / np.linalg.norm(solved)
    mistakes_bound(pixels_ND, labels_N)                     # (R / gamma)^2, None where no separating line was found

Of two outputs softmax is a sigmoid of their difference, so that difference of the rows is all there is: weights of one
unit. Weight decay holds both rows, which the gradient moves in opposite directions: at the solution they are w/2 and
-w/2, and decay/2 (|w/2|^2 + |w/2|^2) is decay/4 |w|^2. Biases are not decayed.

Axes: N samples, D input features; with a bias D + 1.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from torch import nn

from pipeline.model.roles import output_layer
from pipeline.studies.measures.models_along import models_along, training_samples
from pipeline.studies.study import StudyRun
from pipeline.trained import open_trained

Float64Array = npt.NDArray[np.float64]

MOST_STEPS = 100
# The least step of Newton's method, relative to the weights.
SOLVED = 1e-12
MARGIN_STEPS = 50_000
# The margin that was found is at most so much below the largest.
MARGIN_PRECISION = 1e-3
# Of the largest feature: a hull that is as near to the origin as that touches it.
TOUCHING = 1e-9


def unit_of(model: nn.Module) -> Float64Array:
    """Return the weights and the bias of the one unit that a linear model of two classes is: float64 (D + 1,)."""
    _, layer = output_layer(model)
    rows = np.c_[layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()]
    difference: Float64Array = rows[1] - rows[0]
    return difference


def with_bias(pixels_ND: npt.NDArray[np.floating]) -> Float64Array:
    """Return the inputs with a last feature of 1."""
    inputs_NE: Float64Array = np.c_[pixels_ND.astype(np.float64), np.ones(len(pixels_ND))]
    return inputs_NE


def solve_logistic(
    pixels_ND: npt.NDArray[np.floating], labels_N: npt.NDArray[np.int64], *, weight_decay: float
) -> Float64Array:
    """Return logistic regression's weights and bias, float64 (D + 1,), by Newton's method until nothing changes.

    Args:
        labels_N: 0 or 1.
        weight_decay: as the optimiser has it for both rows; over 0, or for data that no plane separates.

    Raises:
        ValueError: it does not converge.
    """
    inputs_NE = with_bias(pixels_ND)
    decay_E = np.append(np.full(pixels_ND.shape[1], weight_decay / 2), 0.0)
    unit_E = np.zeros(inputs_NE.shape[1])
    for _ in range(MOST_STEPS):
        shares_N = 1 / (1 + np.exp(-inputs_NE @ unit_E))
        gradient_E = inputs_NE.T @ (shares_N - labels_N) / len(labels_N) + decay_E * unit_E
        curvature_N1 = (shares_N * (1 - shares_N))[:, None]
        hessian_EE = inputs_NE.T @ (inputs_NE * curvature_N1) / len(labels_N) + np.diag(decay_E)
        step_E = np.linalg.solve(hessian_EE, gradient_E)
        unit_E = unit_E - step_E
        if np.linalg.norm(step_E) <= SOLVED * np.linalg.norm(unit_E):
            return unit_E
    raise ValueError(f"logistic regression does not converge in {MOST_STEPS} steps; more weight_decay wanted")


def find_margin(pixels_ND: npt.NDArray[np.floating], labels_N: npt.NDArray[np.int64]) -> float:
    """Return the distance to the nearest sample of the best separating plane found; 0 or less where none was.

    Distances are in the space with the bias's feature. By Gilbert's method (1966, "An iterative procedure for computing
    the minimum of a quadratic form on a convex set"): the largest margin is the distance from the origin of the convex
    hull of the samples, those of class 0 mirrored.
    """
    sides_NE = with_bias(pixels_ND) * np.where(labels_N == 1, 1.0, -1.0)[:, None]
    nearest_E = sides_NE.mean(axis=0)
    scale = float(np.abs(sides_NE).max())
    margin = -np.inf
    for _ in range(MARGIN_STEPS):
        heights_N = sides_NE @ nearest_E
        lowest = int(heights_N.argmin())
        length = float(np.linalg.norm(nearest_E))
        if length < TOUCHING * scale:
            break  # the origin is in the hull
        margin = max(margin, float(heights_N[lowest]) / length)
        if margin >= (1 - MARGIN_PRECISION) * length:
            break
        towards_E = sides_NE[lowest] - nearest_E
        share = min(1.0, max(0.0, -float(nearest_E @ towards_E) / float(towards_E @ towards_E)))
        nearest_E = nearest_E + share * towards_E
    return margin


def mistakes_bound(pixels_ND: npt.NDArray[np.floating], labels_N: npt.NDArray[np.int64]) -> float | None:
    """Return how many mistakes the perceptron's rule makes at most, in all epochs together; None: without end.

    (R / gamma)^2, R the length of the longest sample and gamma the margin (Novikoff 1962, "On convergence proofs for
    perceptrons"), both with the bias's feature.
    """
    margin = find_margin(pixels_ND, labels_N)
    longest = float(np.linalg.norm(with_bias(pixels_ND), axis=1).max())
    return (longest / margin) ** 2 if margin > 0 else None


def mistakes_by_epoch(run: StudyRun) -> list[int]:
    """Return how many samples of each epoch were taken for the other class when their turn came."""
    right = run.logged("train/top1_frac")
    counts = [end - start for start, end in itertools.pairwise([0, *right])]
    return [round((1 - frac) * count) for frac, count in zip(right.values(), counts, strict=True)]


def distance_by_epoch(run: StudyRun) -> list[float]:
    """Return how far a run's unit is from the solved regression, relative to it: at the start and each checkpoint."""
    trained = open_trained(run.record.folder)
    pixels_ND, labels_N = training_samples(trained)
    solved = solve_logistic(pixels_ND.numpy(), labels_N.numpy(), weight_decay=trained.config.optimizer.weight_decay)
    length = np.linalg.norm(solved)
    return [float(np.linalg.norm(unit_of(model) - solved) / length) for _, model in models_along(trained)]
