"""What the study of batch sizes draws, from plain numbers by size.

accuracy_panel({"2 epochs": {1: [41.5, ...], 8: [...]}, "128 updates": {...}})
cost_panel({1: [Cost(...), ...], ...})
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from pipeline.studies.measures.batch_costs import Cost
from pipeline.studies.panels.spread import spread_series
from pipeline.track.plots import Axis, Panel, Series

REFERENCE = 64


def accuracy_panel(accuracy: Mapping[str, Mapping[int, Sequence[float]]]) -> Panel:
    """Draw the accuracy against the batch size, one line a way to compare."""
    return Panel(
        x=_batch_axis(next(iter(accuracy.values()))),
        y=Axis(label="validation accuracy", unit="%"),
        series=[_with_spread(by_size, label=f"after {way}") for way, by_size in accuracy.items()],
        title="Accuracy, rate tuned for each size",
    )


def cost_panel(costs: Mapping[int, Sequence[Cost]]) -> Panel:
    """Draw updates, samples and seconds to the target, relative to the mean of the reference size.

    Sizes that did not come there, whose costs are empty, are left out.
    """
    known = {size: found for size, found in costs.items() if found}
    series = []
    for name in ("updates", "samples", "seconds"):
        of_size = {size: [float(getattr(cost, name)) for cost in found] for size, found in known.items()}
        unit = statistics.fmean(of_size.get(REFERENCE, [math.nan]))
        relative = {size: [value / unit for value in found] for size, found in of_size.items()}
        series.append(_with_spread(relative, label=name))
    return Panel(
        x=_batch_axis(costs),
        y=Axis(label=f"cost relative to batch {REFERENCE}", log=True),
        series=series,
        title="Cost of the same training loss",
    )


def tuning_panel(tuning: Mapping[int, Mapping[float, float]]) -> Panel:
    """Draw the accuracy of the tuning seed against the rate, a line a size."""
    return Panel(
        x=Axis(label="learning rate", log=True),
        y=Axis(label="validation accuracy", unit="%"),
        series=[
            Series(x=sorted(found), y=[found[rate] for rate in sorted(found)], label=f"batch {size}")
            for size, found in tuning.items()
        ],
        title="Tuning of the rate, one seed",
        ordered=True,
    )


def lion_panel(
    accuracy: Mapping[int, Mapping[float, Sequence[float]]],
    long: Mapping[int, Sequence[float]],
    *,
    epochs: tuple[int, int],
) -> Panel:
    """Draw the accuracy against the batch size, a line a rate that is held, and one after more epochs, rates tuned.

    Args:
        epochs: of the first ones and of the last.
    """
    rates = sorted(next(iter(accuracy.values())))
    by_rate = {rate: {size: found[rate] for size, found in accuracy.items()} for rate in rates}
    return Panel(
        x=_batch_axis(accuracy),
        y=Axis(label="validation accuracy", unit="%"),
        series=[
            *(_with_spread(by_size, label=f"{epochs[0]} epochs, rate {rate:g}") for rate, by_size in by_rate.items()),
            _with_spread(long, label=f"{epochs[1]} epochs, rate tuned"),
        ],
        title="Lion at a bottleneck MLP",
    )


def _with_spread(by_size: Mapping[int, Sequence[float]], *, label: str) -> Series:
    sizes = sorted(by_size)
    return spread_series(sizes, [by_size[size] for size in sizes], label=label)


def _batch_axis(sizes: Mapping[int, object]) -> Axis:
    """Return the axis of batches; its last tick says "all" where the one before is too near for a long number."""
    ticks: dict[float, str] = {size: str(size) for size in sorted(sizes)}
    before, last = sorted(sizes)[-2:]
    if last < 4 * before:
        ticks[last] = "all"
    return Axis(label="samples in a batch", log=True, ticks=ticks)
