"""How gradients pass through a net at its first step: their norms layer by layer, and what share passes one layer.

norms = gradient_norms(run)         # of each hidden layer's weights, input to output, as the run logged them
share_passed(norms)                 # 0.24: what reaches a layer of what the layer behind it has
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from pipeline.studies.study import StudyRun
from pipeline.track.plots import Axis, Panel, Series

# Below this a gradient is what is left of numbers too small for float32: no slope is read off it.
LEAST_GRADIENT = 1e-30


def gradient_norms(run: StudyRun) -> list[float]:
    """Return the norm of the gradient of each hidden layer's weights at the first step, input to output.

    Raises:
        UserError: the run did not log them, or they are not finite.
    """
    logged = [
        run.logged(f"layers/weight_grad_norm/{layer}.linear") for layer in range(run.record.config["model"]["depth"])
    ]
    return [next(iter(by_step.values())) for by_step in logged]


def share_passed(norms: Sequence[float]) -> float:
    """Return by what the gradient is multiplied from a layer to the one before it: exp(-slope) of log norm over layer.

    These are gradients of weights, so they are those of a layer's sums only where all layers are given inputs of one
    size: relu units that start by Xavier's rule shrink both alike, and have a share of 1 all the same.

    The first layer is left out, whose matrix has another shape; and layers with no gradient left. With fewer than two
    layers to compare the share is nan.
    """
    kept = {layer: norm for layer, norm in enumerate(norms) if layer and norm > LEAST_GRADIENT}
    if len(kept) < 2:
        return math.nan
    line = statistics.linear_regression(list(kept), [math.log(norm) for norm in kept.values()])
    return math.exp(-line.slope)


def first_over_last(norms: Sequence[float]) -> float:
    """Return the gradient of the first layer whose matrix is square over that of the last hidden layer."""
    return norms[1] / norms[-1] if norms[-1] else math.nan


def gradient_panel(gradients: Mapping[str, Sequence[Sequence[float]]], *, title: str) -> Panel:
    """Draw the gradient of each layer: of each kind of unit the geometric mean over seeds, and the spread."""
    series: list[Series] = []
    for kind, by_seed in gradients.items():
        columns = list(zip(*by_seed, strict=True))
        kept = [[norm if norm > LEAST_GRADIENT else math.nan for norm in column] for column in columns]
        series.append(
            Series(
                label=kind,
                x=list(range(1, len(columns) + 1)),
                y=[
                    statistics.geometric_mean(column) if all(map(math.isfinite, column)) else math.nan
                    for column in kept
                ],
                low=[min(column) for column in kept],
                high=[max(column) for column in kept],
            )
        )
    return Panel(
        x=Axis(label="hidden layer, 1 next to the input"),
        y=Axis(label="norm of the gradient at the first step", log=True),
        series=series,
        title=title,
    )
