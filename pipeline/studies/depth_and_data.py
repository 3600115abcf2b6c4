"""Depth and data: a deeper net has more parameters, and needs more samples before they pay.

Nets of 1 to 8 hidden layers of one width are trained on parts of one set: each seed has a part of its own, and of one
seed each is part of all larger ones. A net's error is that of its best evaluation (early stopping, for all alike), so
that small parts may be trained for long. Errors fall about as a power of the number of samples (Hestness et al. 2017,
arXiv 1712.00409): a straight line in logarithms, whose slope is the exponent. A deeper net that starts worse and ends
better has the steeper line.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.studies.estimate import Estimate, difference_of, slope_of
from pipeline.studies.measures.least_error import least_error
from pipeline.studies.panels.spread import spread_series
from pipeline.studies.study import Group, Outcome, Picture, Scale, Study, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import Axis, Mark, Panel, Series, seeds_text

DEPTHS = (1, 2, 4, 8)
SHALLOW, MIDDLE, DEEP = DEPTHS[0], DEPTHS[2], DEPTHS[-1]
# Samples to train on: epochs, and epochs between two evaluations.
LENGTHS: Mapping[Scale, Mapping[int, tuple[int, int]]] = {
    Scale.laptop: {500: (40, 4), 2000: (30, 3), 8000: (16, 2), 32000: (8, 1)},
    Scale.gpu: {500: (80, 4), 2000: (60, 3), 8000: (40, 2), 50000: (30, 1)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Errors in %: by depth, then by number of samples, one of each seed."""

    sizes: Sequence[int]
    errors: dict[int, dict[int, list[float]]]
    parameters: dict[int, float]

    def by_seed(self, depth: int) -> list[list[float]]:
        """Return a depth's errors: of each seed one at each size."""
        return [list(row) for row in zip(*(self.errors[depth][size] for size in self.sizes), strict=True)]

    def slope(self, depth: int) -> Estimate:
        """Return the exponent of a depth's error over the number of samples."""
        return slope_of(self.sizes, self.by_seed(depth), log=True)

    def slopes(self, depth: int) -> list[float]:
        """Return the same of each seed alone."""
        return [slope_of(self.sizes, [row], log=True).value for row in self.by_seed(depth)]

    def gain(self, depth: int, size: int) -> list[float]:
        """Return the error of the shallowest net minus a depth's, points, by seed."""
        pairs = zip(self.errors[SHALLOW][size], self.errors[depth][size], strict=True)
        return [shallow - deep for shallow, deep in pairs]


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    laptop = scale is Scale.laptop
    plain = (
        *("model=mlp", f"model.width={128 if laptop else 1024}", f"model.depth={','.join(map(str, DEPTHS))}"),
        *("model.init=kaiming", "optimizer=adamw", "optimizer.rate=0.001", "schedule=cosine"),
        *("augment=none", "batch.size=64", "trainer.log_every_steps=100", "checkpoint.keep=1", "data.check=sizes"),
        *("track.layers_every_steps=null", "track.noise_scale_every_steps=null", "track.gap=false"),
    )
    return [
        Group(
            name=f"{size} samples",
            data="cifar10-8" if laptop else "cifar10",
            options=(
                *plain,
                *(f"seed={seed}", f"data.subset_seed={seed}", f"data.train_samples={size}"),
                *(f"trainer.max_epochs={epochs}", f"evaluation.every_epochs={every}"),
            ),
        )
        for seed in seeds.split(",")
        for size, (epochs, every) in LENGTHS[scale].items()
    ]


def measure(runs: StudyRuns) -> Outcome:
    grid = grid_of(runs)
    smallest, largest = grid.sizes[0], grid.sizes[-1]
    seeds = [run.seed for run in runs.runs]
    checks = [
        Check(
            claim=f"The error of {DEEP} layers falls faster with more data than that of one.",
            statistic=f"exponent of error over samples, {DEEP} layers minus {SHALLOW}",
            estimate=difference_of(grid.slopes(DEEP), grid.slopes(SHALLOW)),
            below=0.0,
        ),
        Check(
            claim=f"With {smallest:,} samples {MIDDLE} layers are worse than one.",
            statistic=f"error of {MIDDLE} layers minus that of {SHALLOW}, {smallest:,} samples, points",
            estimate=difference_of(grid.errors[MIDDLE][smallest], grid.errors[SHALLOW][smallest]),
            above=0.0,
        ),
        Check(
            claim=f"With {largest:,} samples they are better.",
            statistic=f"error of {MIDDLE} layers minus that of {SHALLOW}, {largest:,} samples, points",
            estimate=difference_of(grid.errors[MIDDLE][largest], grid.errors[SHALLOW][largest]),
            below=0.0,
        ),
    ]
    return Outcome(
        checks=checks,
        picture=Picture(
            title="Deeper nets need more data before they win",
            caption=(
                f"MLPs of 1 to {DEEP} hidden layers of equal width, trained on parts of CIFAR-10, {seeds_text(seeds)};"
                " error on the test images at the best evaluation of each run. Left, middle: bars from the lowest to"
                " the highest seed. Right: slope of each depth's line at the left, bars: its 95 % interval."
            ),
            panels=[_error_panel(grid), _gain_panel(grid), _slope_panel(grid)],
        ),
        columns=["hidden layers", "parameters", *(f"error, {size:,} samples, %" for size in grid.sizes), "exponent"],
        rows=[_row(grid, depth) for depth in grid.errors],
        notes=_notes(grid),
    )


def grid_of(runs: StudyRuns) -> Grid:
    """Return the errors of all runs.

    Raises:
        ValueError: a seed lacks a depth or a number of samples.
    """
    found: dict[int, dict[int, dict[int, float]]] = {}
    parameters: dict[int, float] = {}
    for run in runs.runs:
        depth, size = int(run.record.config["model"]["depth"]), int(run.record.config["data"]["train_samples"])
        found.setdefault(depth, {}).setdefault(size, {})[run.seed] = least_error(run)
        parameters[depth] = run.metric("parameters")
    sizes = sorted(next(iter(found.values())))
    seeds = {tuple(sorted(by_seed)) for by_size in found.values() for by_seed in by_size.values()}
    if len(seeds) != 1 or any(sorted(by_size) != sizes for by_size in found.values()):
        raise ValueError("runs: every depth with every number of samples and every seed wanted")
    errors = {
        depth: {size: [error for _, error in sorted(found[depth][size].items())] for size in sizes}
        for depth in sorted(found)
    }
    return Grid(sizes=sizes, errors=errors, parameters=parameters)


def wins_from(grid: Grid, depth: int) -> int | None:
    """Return the smallest number of samples from which on, in the mean over seeds, a depth beats the shallowest net."""
    wins = [size for size in grid.sizes if statistics.fmean(grid.gain(depth, size)) > 0]
    lasting = [size for size in wins if all(larger in wins for larger in grid.sizes if larger > size)]
    return min(lasting, default=None)


def _samples_axis(grid: Grid) -> Axis:
    return Axis(label="training samples", log=True, ticks={float(size): f"{size:,}" for size in grid.sizes})


def _layers_text(depth: int) -> str:
    return f"{depth} hidden layer{'s' if depth > 1 else ''}"


def _error_panel(grid: Grid) -> Panel:
    series = [
        spread_series(grid.sizes, [errors[size] for size in grid.sizes], label=_layers_text(depth), colour=place)
        for place, (depth, errors) in enumerate(grid.errors.items())
    ]
    every = [error for errors in grid.errors.values() for values in errors.values() for error in values]
    ticks = {float(tick): str(tick) for tick in range(0, 101, 5) if min(every) - 5 < tick < max(every) + 5}
    return Panel(
        x=_samples_axis(grid),
        y=Axis(label="test error", unit="%", log=True, ticks=ticks),
        series=series,
        title="Error",
        ordered=True,
    )


def _gain_panel(grid: Grid) -> Panel:
    series = [
        spread_series(
            grid.sizes, [grid.gain(depth, size) for size in grid.sizes], label=_layers_text(depth), colour=place
        )
        for place, depth in enumerate(grid.errors)
        if depth != SHALLOW
    ]
    return Panel(
        x=_samples_axis(grid),
        y=Axis(label="accuracy gained over 1 hidden layer", unit="points"),
        series=series,
        marks=[Mark(y=0.0, label="as good as 1 hidden layer")],
        title="What depth adds",
        ordered=True,
    )


def _slope_panel(grid: Grid) -> Panel:
    slopes = [grid.slope(depth) for depth in grid.errors]
    places = [float(place) for place in range(len(slopes))]
    return Panel(
        x=Axis(label="hidden layers", ticks=dict(zip(places, map(str, grid.errors), strict=True))),
        y=Axis(label="exponent of error over samples"),
        series=[
            Series(
                x=places,
                y=[slope.value for slope in slopes],
                low=[slope.low for slope in slopes],
                high=[slope.high for slope in slopes],
                line=False,
            )
        ],
        title="Slope of the error against data",
    )


def _row(grid: Grid, depth: int) -> list[str]:
    slope = grid.slope(depth)
    interval = "" if math.isnan(slope.low) else f" ({slope.low:.3f} to {slope.high:.3f})"
    errors = [spread_text(grid.errors[depth][size]) for size in grid.sizes]
    return [str(depth), f"{grid.parameters[depth]:,.0f}", *errors, f"{slope.value:.3f}{interval}"]


def _notes(grid: Grid) -> list[str]:
    notes, largest = [], grid.sizes[-1]
    for depth in grid.errors:
        if depth != SHALLOW:
            start = wins_from(grid, depth)
            since = "with none of these sets" if start is None else f"from {start:,} samples on"
            gain = statistics.fmean(grid.gain(depth, largest))
            notes.append(
                f"{_layers_text(depth)} beat one {since}, in the mean of seeds; with {largest:,} by {gain:.1f} points."
            )
    factor = grid.parameters[DEEP] / grid.parameters[SHALLOW]
    notes.append(f"{DEEP} hidden layers have {factor:.1f} times the parameters of one.")
    return notes


STUDY = Study(
    name="depth-and-data",
    title="Deeper means more parameters and more data",
    claim="A deeper net has more parameters and needs more data before it wins.",
    question="How does the error fall with the number of samples, at each depth?",
    groups=groups,
    measure=measure,
    seeds={Scale.laptop: 3, Scale.gpu: 5},
)
