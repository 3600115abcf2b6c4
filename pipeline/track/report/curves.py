"""Which charts a run makes, by the keys of its metrics alone: none is known before.

    charts = charts_of(run)
    charts[0].title, [curve.name for curve in charts[0].curves]         # "Loss", ["train", "val"]

`train/x` and `val/x` share a chart; `a/b/c` is a curve of the chart `a/b`; beside `x_low_unit` and `x_high_unit` the
curve of `x_unit` gets a band; everything else has a chart of its own. What was logged at one step only is no curve and
stands among the numbers (`single_numbers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.track.report.text import title_of, unit_of
from pipeline.track.run_reading import RunRecord, Series

SPLITS = ("train", "val")
QUALITY, LAYERS = "quality", "layers"
# The axis of others, and no curve itself.
EPOCH = "epoch"
# In the order in which they are shown; others stand before the last one.
GROUP_TITLES = {
    QUALITY: "Loss and accuracy",
    "gap": "Generalisation gap",
    "grad": "Gradients",
    "rate": "Rates",
    "gpu": "GPU",
    "mem": "Memory",
    LAYERS: "Layers",
}
QUALITY_ORDER = ("loss", "top1_frac", "map_frac", "r2_frac", "top5_frac")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: what it is called in the chart's legend.
        entry: the run or the group of runs that it belongs to, by its place in the page's list of them.
        split: 0 for what is measured in training, 1 for evaluation: another dash where colours stand for runs.
        view: "each" or "mean" where runs are shown one by one or by groups; None: in both.
        ramp: place among ordered curves, such as layers, 0 to 1; None: they have no order.
    """

    name: str
    series: Series
    low: list[float | None] | None = None
    high: list[float | None] | None = None
    entry: int = 0
    split: int = 0
    view: str | None = None
    ramp: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Curves that share their axes; `key` tells what they are in metrics.jsonl."""

    group: str
    key: str
    title: str
    unit: str
    curves: tuple[Curve, ...]


def charts_of(run: RunRecord) -> list[Chart]:
    """Return the charts of one run."""
    charts = []
    for key, parts in _chart_keys(run.series).items():
        curves = curves_of(run.series, key, parts)
        if any(len(curve.series.steps) > 1 for curve in curves):
            charts.append(chart_of(key, curves))
    return in_order(charts)


def chart_of(key: str, curves: Iterable[Curve], *, title: str | None = None) -> Chart:
    """Return the chart of a key, which names what its curves share."""
    return Chart(group=group_of(key), key=key, title=title or title_of(key), unit=unit_of(key), curves=tuple(curves))


def single_numbers(run: RunRecord) -> dict[str, tuple[int, float | None]]:
    """Return what is in no chart: the step and the value of each metric that was logged once."""
    drawn = {name for key, parts in _chart_keys(run.series).items() if _is_drawn(run, parts) for name in parts}
    return {
        key: (series.steps[0], series.values[0])
        for key, series in run.series.items()
        if key not in drawn and key != EPOCH and len(series.steps) == 1
    }


def _is_drawn(run: RunRecord, parts: Sequence[str]) -> bool:
    return any(len(run.series[part].steps) > 1 for part in parts)


def chart_keys(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Return the charts that runs make together, each with the metrics in it, as they first appear."""
    merged: dict[str, Series] = {}
    for run in runs:
        for key, series in run.series.items():
            if len(series.steps) > len(merged.get(key, Series(steps=[], values=[])).steps):
                merged[key] = series
    return {key: parts for key, parts in _chart_keys(merged).items() if any(len(merged[p].steps) > 1 for p in parts)}


def _chart_keys(series: Iterable[str]) -> dict[str, list[str]]:
    """Return the key of each chart with the metrics in it; the ends of bands come with the metric they belong to."""
    keys = [key for key in series if key != EPOCH]
    ends = _ends_among(keys)
    charts: dict[str, list[str]] = {}
    for key in keys:
        if key in ends:
            continue
        first, *rest = key.split("/")
        is_split = first in SPLITS and len(rest) == 1
        chart = "/".join([QUALITY if is_split else first, *rest[:1]])
        charts.setdefault(chart, []).extend([key, *(end for end in band_of(key) if end in ends)])
    return charts


def _ends_among(keys: Iterable[str]) -> set[str]:
    """Return the metrics that are an end of another one's band."""
    there = set(keys)
    bands = [set(band_of(key)) for key in there]
    return {end for band in bands if band <= there for end in band}


def band_of(key: str) -> tuple[str, str]:
    """Return the keys of the lower and the upper end of a metric's band: of a/x_images a/x_low_images and so on."""
    unit = unit_of(key)
    stem = key.removesuffix(f"_{unit}") if unit else key
    end = key.removeprefix(stem)
    return f"{stem}_low{end}", f"{stem}_high{end}"


def curves_of(series: dict[str, Series], chart: str, parts: Sequence[str]) -> list[Curve]:
    """Return a run's curves of a chart, training before evaluation and layers as they were logged."""
    ends = _ends_among(parts)
    keys = [key for key in parts if key not in ends and key in series]
    if is_split_chart(chart):
        keys.sort(key=lambda key: SPLITS.index(key.split("/")[0]))
    curves = []
    for place, key in enumerate(keys):
        low, high = (_at(series.get(end), series[key].steps) for end in band_of(key))
        first, *rest = key.split("/", 2)
        name = rest[1] if len(rest) > 1 else first if is_split_chart(chart) else title_of(key)
        curves.append(
            Curve(
                name=name,
                series=series[key],
                low=low if high is not None else None,
                high=high if low is not None else None,
                split=int(key.startswith("val/")),
                ramp=place / max(1, len(keys) - 1) if len(rest) > 1 and first == LAYERS else None,
            )
        )
    return curves


def is_split_chart(chart: str) -> bool:
    """Return whether a chart's curves are splits of the data."""
    return chart.startswith(f"{QUALITY}/")


def _at(series: Series | None, steps: Sequence[int]) -> list[float | None] | None:
    """Return a series' values at other steps, None where it has none."""
    if series is None:
        return None
    values = dict(zip(series.steps, series.values, strict=True))
    return [values.get(step) for step in steps]


def group_of(key: str) -> str:
    return key.split("/")[0] if "/" in key else "other"


def group_title(group: str) -> str:
    return GROUP_TITLES.get(group, group.replace("_", " ").capitalize())


def in_order(charts: Iterable[Chart]) -> list[Chart]:
    """Return charts by group: what matters most first, layers last, what is not known between."""

    order = [group for group in GROUP_TITLES if group != LAYERS]

    def place(chart: Chart) -> tuple[int, str, int]:
        group = order.index(chart.group) if chart.group in order else len(order) + (chart.group == LAYERS)
        name = chart.key.partition("/")[2]
        known = chart.group == QUALITY and name in QUALITY_ORDER
        return group, chart.group, QUALITY_ORDER.index(name) if known else len(QUALITY_ORDER)

    return sorted(charts, key=place)
