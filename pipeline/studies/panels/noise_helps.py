"""Panels of the study of noise: ways down, neurons, ways on, and minima of small and of large batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.model.roles import linear_layers
from pipeline.studies.measures.equal_loss import AtLoss
from pipeline.studies.panels.spread import spread_series
from pipeline.studies.study import StudyRun
from pipeline.track.plots import Axis, Mark, Panel, Series
from pipeline.trained import build_trained, open_trained


def ways_down(runs: Mapping[str, Sequence[StudyRun]], *, title: str) -> Panel:
    """Draw the training loss over the updates, of each kind the mean and, as a band, lowest and highest run."""
    return Panel(
        x=Axis(label="updates"),
        y=Axis(label="training loss", unit="nats", limits=(0, None)),
        series=[loss_series(found, label=name) for name, found in runs.items()],
        title=title,
    )


def ways_on(before: Sequence[StudyRun], after: Mapping[str, Sequence[StudyRun]], *, title: str) -> Panel:
    """Draw the training loss of runs that come to rest, and of those that go on from there."""
    end = round(before[0].metric("steps"))
    return Panel(
        x=Axis(label="updates"),
        # Bands of noise reach higher for a few updates.
        y=Axis(label="training loss", unit="nats", limits=(0, 1)),
        series=[
            loss_series(before, label="full batch, coming to rest", colour=6),
            *(
                loss_series(found, label=name, first_step=end, colour=i)
                for i, (name, found) in enumerate(after.items())
            ),
        ],
        marks=[Mark(x=end, label="the minimum")],
        title=title,
    )


def loss_series(runs: Sequence[StudyRun], *, label: str, first_step: int = 0, colour: int | None = None) -> Series:
    """Return the mean of runs' training losses at the steps that all of them logged, with the lowest and highest."""
    curves = [run.logged("train/loss") for run in runs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[step] for curve in curves] for step in steps]
    return spread_series([first_step + step for step in steps], values, label=label, markers=False, colour=colour)


def neurons(runs: Mapping[str, StudyRun], *, title: str) -> Panel:
    """Draw the two incoming weights of each neuron of the hidden layer, as the runs ended."""
    series = []
    for name, run in runs.items():
        weights = next(iter(linear_layers(build_trained(open_trained(run.record.folder))).values())).weight
        x, y = weights.detach().T.tolist()
        series.append(Series(label=name, x=x, y=y, line=False))
    return Panel(x=Axis(label="weight of x"), y=Axis(label="weight of y"), series=series, title=title)


def at_equal_loss(
    found: Mapping[str, Sequence[Sequence[AtLoss]]], *, losses: Sequence[float], name: str, label: str, unit: str = ""
) -> Panel:
    """Draw a number of each kind of run over the training loss, mean, lowest and highest run."""
    series = []
    for kind, along in found.items():
        values = [[getattr(run[place], name) for run in along] for place in range(len(losses))]
        series.append(spread_series(losses, values, label=kind))
    ticks = {loss: f"{loss:g}" for loss in losses}
    return Panel(
        x=Axis(label="training loss (falls to the left)", log=True, ticks=ticks),
        y=Axis(label=label, unit=unit),
        series=series,
        title="CIFAR-10, at equal training loss",
    )
