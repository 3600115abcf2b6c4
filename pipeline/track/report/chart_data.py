"""The numbers of charts as the page's script reads them, thinned to what a page may hold.

data = chart_data(charts_of(run), entries=[Entry(name="0001", factors={"epoch": 1 / 390})])
data.content["charts"][0]["curves"][0]["values"]        # JSON, drawn by assets/charts.js
data.notes                                              # what was thinned or left out, for people
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.track.report.curves import Chart, Curve, is_split_chart
from pipeline.track.report.thinning import bucket_means, evenly, picked

# Of steps and values; the means of thinned curves are half as many again. Such a page is below 3 MB.
MAX_NUMBERS = 160_000
LEAST_POINTS, MOST_POINTS = 40, 1_200
MOST_CURVES_A_CHART = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What curves belong to: a run, or runs of one configuration.

    Attributes:
        colour: number of its colour; None: its curves differ by their own.
        factors: by name of another axis than the step, such as the epoch, what its steps are multiplied by.
    """

    name: str
    colour: int | None = None
    factors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartData:
    charts: tuple[Chart, ...]
    content: dict[str, Any]
    notes: tuple[str, ...]


def chart_data(charts: Sequence[Chart], *, entries: Sequence[Entry]) -> ChartData:
    """Return the charts that a page has room for, with their numbers."""
    kept, notes = _fitting(charts)
    num_lines = sum(_num_lines(chart) for chart in kept)
    most = max(LEAST_POINTS, min(MOST_POINTS, MAX_NUMBERS // (2 * max(1, num_lines))))
    if any(len(curve.series.steps) > most for chart in kept for curve in chart.curves):
        notes.append(
            f"Curves of more than {most:,} points are thinned: of each stretch the lowest and the highest are drawn."
        )
    grids = _Grids()
    axes = list(dict.fromkeys(name for entry in entries for name in entry.factors))
    content = {
        "entries": [{"name": entry.name, "colour": entry.colour} for entry in entries],
        "axes": [
            {"name": name, "factors": [entry.factors[name] for entry in entries]}
            for name in axes
            if all(name in entry.factors for entry in entries)
        ],
        "charts": [
            {
                "unit": chart.unit,
                "has_splits": is_split_chart(chart.key),
                "curves": [_curve_data(curve, grids, most=most) for curve in chart.curves],
            }
            for chart in kept
        ],
        "grids": grids.steps,
    }
    return ChartData(charts=tuple(kept), content=content, notes=tuple(notes))


def _fitting(charts: Sequence[Chart]) -> tuple[list[Chart], list[str]]:
    """Return the charts that there is room for, those of many layers with fewer curves, and what to say of that."""
    kept: list[Chart] = []
    notes, num_lines, most = [], 0, MOST_CURVES_A_CHART
    for chart in charts:
        fitting = chart
        if chart.curves[0].ramp is not None and len(chart.curves) > most:
            chosen = tuple(chart.curves[place] for place in evenly(len(chart.curves), most=most))
            fitting = dataclasses.replace(chart, curves=chosen)
            notes.append(f"{chart.title}: {most} of {len(chart.curves):,} curves are drawn, evenly chosen.")
        if (num_lines + _num_lines(fitting)) * LEAST_POINTS <= MAX_NUMBERS:
            kept.append(fitting)
            num_lines += _num_lines(fitting)
    if len(kept) < len(charts):
        notes.append(f"{len(charts) - len(kept):,} of {len(charts):,} charts are left out: they have too many curves.")
    return kept, notes


def _num_lines(chart: Chart) -> int:
    return sum(1 if curve.low is None else 3 for curve in chart.curves)


class _Grids:
    """Lists of steps, each once: most metrics are logged together."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []
        self._places: dict[tuple[int, ...], int] = {}

    def place_of(self, steps: Sequence[int]) -> int:
        key = tuple(steps)
        if key not in self._places:
            self._places[key] = len(self.steps)
            self.steps.append(list(steps))
        return self._places[key]


def _curve_data(curve: Curve, grids: _Grids, *, most: int) -> dict[str, Any]:
    steps, values = curve.series.steps, curve.series.values
    chosen = picked(values, most=most)
    data: dict[str, Any] = {
        "name": curve.name,
        "entry": curve.entry,
        "split": curve.split,
        "grid": grids.place_of([steps[place] for place in chosen]),
        "values": [_rounded(values[place]) for place in chosen],
    }
    if curve.view is not None:
        data["view"] = curve.view
    if curve.ramp is not None:
        data["ramp"] = round(curve.ramp, 3)
    if curve.low is not None and curve.high is not None:
        data["low"] = [_rounded(curve.low[place]) for place in chosen]
        data["high"] = [_rounded(curve.high[place]) for place in chosen]
    if len(chosen) < len(steps):
        # A smoothed curve is made of these: of lowest and highest values alone it would be biased.
        mean_steps, means = bucket_means(steps, values, buckets=most // 2)
        data["means"] = {"grid": grids.place_of(mean_steps), "values": [_rounded(value) for value in means]}
    return data


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
