"""Plots of numbers: lines and points with their spread, as PNG. The only module that knows matplotlib.

    panel = Panel(
        x=Axis(label="learning rate", log=True),
        y=Axis(label="validation accuracy", unit="%"),
        series=[Series(label="SGD", x=[0.01, 0.1], y=[41.2, 46.9], low=[40.8, 46.1], high=[41.5, 47.4])],
        marks=[Mark(x=0.05, label="suggested 0.05")],
    )
    save_plot(Path("rates.png"), [panel], title="Rates of SGD", caption=f"MLP 512. {seeds_text([0, 1, 2])}, bars: ...")

No global state: figures are built as objects (no pyplot, so no window, no backend to choose), and drawn by Agg. The
same numbers give the same bytes with the same matplotlib. Series differ by marker as well as by colour. The colours are
those of Okabe and Ito, "Color universal design" (2008), told apart with every kind of colour vision; ordered series (of
widths, of steps) take theirs from cividis (Nuñez, Anderton, Renslow 2018, doi 10.1371/journal.pone.0199239).
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.shards.publish import publish_bytes

# Blue, vermilion, bluish green, reddish purple, orange, sky blue, black; Okabe and Ito's yellow is too pale for lines.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Of cividis the last, yellow part is left out.
ORDERED_FROM, ORDERED_TO = 0.0, 0.85
INK, FAINT, GRID = "#222222", "#666666", "#E4E4E4"
STYLE: Mapping[str, Any] = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.fontsize": 8,
    "legend.edgecolor": "white",
    "legend.framealpha": 0.6,
    "figure.facecolor": "white",
}
DPI = 150
SINGLE_INCHES, PANEL_INCHES = (7.0, 4.4), (4.9, 3.7)
MAX_COLUMNS = 3
CAPTION_SIZE, CAPTION_CHARACTERS_PER_INCH = 8, 16.5
# Beyond so many characters in all, the labels of ticks are turned, or they would run into each other.
LEVEL_CHARACTERS = 44


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What an axis measures.

    Attributes:
        unit: stands behind the label; empty for a pure number.
        ticks: value and label of each tick; None: matplotlib's choice.
        limits: lowest and highest value; either may be None.
    """

    label: str
    unit: str = ""
    log: bool = False
    ticks: Mapping[float, str] | None = None
    limits: tuple[float | None, float | None] | None = None

    @property
    def text(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one kind. What is not finite is left out.

    Attributes:
        label: in the legend; empty: not there.
        low, high: ends of the spread at each point: a band around a bare line, bars where there are markers.
        line, markers: whether points are joined, and shown.
        faint: pale and thin, for what lies behind the result: single runs, values before smoothing.
        colour: number of the colour; None: its place among the panel's series. Two series may share one.
    """

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    line: bool = True
    markers: bool = True
    faint: bool = False
    colour: int | None = None

    def __post_init__(self) -> None:
        for name in ("y", "low", "high"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.x):
                raise ValueError(f"{name}: {len(values)} values for {len(self.x)} of x")
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high come together")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A line across the panel at a value of x or of y, with its words."""

    label: str
    x: float | None = None
    y: float | None = None

    def __post_init__(self) -> None:
        if (self.x is None) == (self.y is None):
            raise ValueError(f"mark {self.label}: either x or y wanted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Numbers over a rectangle, as colours of cividis with a scale beside them.

    Attributes:
        values: rows from the lowest y to the highest, each from the lowest x.
        extent: lowest and highest x, lowest and highest y.
        label: what the numbers are.
        limits: what the ends of the colours stand for.
    """

    values: Sequence[Sequence[float]]
    extent: tuple[float, float, float, float]
    label: str
    limits: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes.

    Attributes:
        ordered: the series have an order (rising width, say), and so have their colours.
        field: behind the series.
    """

    x: Axis
    y: Axis
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    title: str = ""
    ordered: bool = False
    field: Field | None = None


def save_plot(path: Path, panels: Sequence[Panel], *, title: str, caption: str) -> None:
    """Publish the plot as PNG.

    Args:
        caption: what was measured, how often and with which seeds, and what the spread is; it stands below.
    """
    stream = io.BytesIO()
    with matplotlib.style.context(["default", dict(STYLE)]):  # whatever a user's matplotlibrc says
        # Without the name and version of the software, which would make other bytes of the same picture.
        draw_plot(panels, title=title, caption=caption).savefig(
            stream, format="png", dpi=DPI, metadata={"Software": None}
        )
    publish_bytes(path, stream.getvalue())


def draw_plot(panels: Sequence[Panel], *, title: str, caption: str) -> Figure:
    """Return the figure: panels in reading order, three side by side, four in a square."""
    if not panels:
        raise ValueError("panels: at least one wanted")
    columns = 2 if len(panels) == 4 else min(len(panels), MAX_COLUMNS)
    rows = -(-len(panels) // columns)
    width, height = SINGLE_INCHES if len(panels) == 1 else (PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows)
    captions = textwrap.wrap(caption, round(width * CAPTION_CHARACTERS_PER_INCH))
    figure = Figure(figsize=(width, height + 0.14 * len(captions)), layout="constrained")
    FigureCanvasAgg(figure)
    titles = textwrap.fill(title, round(width * CAPTION_CHARACTERS_PER_INCH * CAPTION_SIZE / 11))
    figure.suptitle(titles, x=0.01, ha="left", fontsize=11, color=INK)
    figure.supxlabel("\n".join(captions), x=0.01, ha="left", fontsize=CAPTION_SIZE, color=FAINT)
    # What is the same in all panels is named once, beside them, where it covers nothing.
    is_shared = len(panels) > 1 and len({_look_of_names(panel) for panel in panels}) == 1
    for index, panel in enumerate(panels):
        _draw_panel(figure.add_subplot(rows, columns, index + 1), panel, has_legend=not is_shared)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if is_shared and labels:
        figure.legend(handles, labels, loc="outside right upper")
    return figure


def seeds_text(seeds: Sequence[int]) -> str:
    """Return how many seeds and which: "n = 3 seeds (0 to 2)", "n = 2 seeds (4, 9)", "n = 1 seed (7)"."""
    ordered = sorted(set(seeds))
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        named = f"{ordered[0]} to {ordered[-1]}"
    else:
        named = ", ".join(map(str, ordered))
    return f"n = {len(ordered)} {'seed' if len(ordered) == 1 else 'seeds'} ({named})"


def _draw_panel(axes: Axes, panel: Panel, *, has_legend: bool) -> None:
    axes.set_title(panel.title, loc="left", color=INK)
    if panel.field is not None:
        _draw_field(axes, panel.field)
    for index, series in enumerate(panel.series):
        _draw_series(axes, series, colour=_colour_of(panel, index), marker=MARKERS[index % len(MARKERS)])
    _set_axis(axes, "x", panel.x)
    _set_axis(axes, "y", panel.y)
    for mark in panel.marks:
        _draw_mark(axes, mark)
    if has_legend and any(series.label for series in panel.series):
        axes.legend()


def _look_of_names(panel: Panel) -> tuple[bool, tuple[tuple[str, int | None, bool], ...]]:
    return panel.ordered, tuple((series.label, series.colour, series.faint) for series in panel.series)


def _colour_of(panel: Panel, index: int) -> Any:
    number = panel.series[index].colour
    number = index if number is None else number
    if not panel.ordered:
        return PALETTE[number % len(PALETTE)]
    last = max((series.colour or 0 for series in panel.series), default=0)
    last = max(last, len(panel.series) - 1) if all(series.colour is None for series in panel.series) else last
    return matplotlib.colormaps["cividis"](ORDERED_FROM + (ORDERED_TO - ORDERED_FROM) * number / max(1, last))


def _draw_field(axes: Axes, field: Field) -> None:
    low, high = field.limits
    image = axes.imshow(
        field.values, origin="lower", extent=field.extent, vmin=low, vmax=high, cmap="cividis", aspect="auto"
    )
    axes.grid(visible=False)
    if axes.figure is not None:
        axes.figure.colorbar(image, ax=axes, label=field.label)


def _draw_series(axes: Axes, series: Series, *, colour: Any, marker: str) -> None:
    x, y = _finite(series.x), _finite(series.y)
    look: dict[str, Any] = {
        "color": colour,
        "alpha": 0.35 if series.faint else 1.0,
        "linestyle": "-" if series.line else "none",
        "linewidth": 0.8 if series.faint else 1.6,
        "marker": marker if series.markers else "none",
        "markersize": 3 if series.faint else 4.5,
        "zorder": 2 if series.faint else 3,
    }
    if series.low is not None and series.high is not None:
        low, high = _finite(series.low), _finite(series.high)
        if series.markers:
            axes.vlines(x, low, high, colors=colour, linewidth=1.0, alpha=0.8, zorder=look["zorder"])
        else:
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0, zorder=1)
    axes.plot(x, y, label=series.label or "_nolegend_", **look)


def _set_axis(axes: Axes, name: str, axis: Axis) -> None:
    is_x = name == "x"
    (axes.set_xlabel if is_x else axes.set_ylabel)(axis.text)
    if axis.log:
        (axes.set_xscale if is_x else axes.set_yscale)("log")
    drawn = axes.xaxis if is_x else axes.yaxis
    if axis.ticks is not None:
        labels = list(axis.ticks.values())
        drawn.set_ticks(list(axis.ticks), labels=labels)
        drawn.set_ticks([], minor=True)
        if is_x and sum(map(len, labels)) > LEVEL_CHARACTERS:
            for label in axes.get_xticklabels():
                label.set(rotation=30, ha="right", rotation_mode="anchor")
    if axis.limits is not None:
        (axes.set_xlim if is_x else axes.set_ylim)(*axis.limits)


def _draw_mark(axes: Axes, mark: Mark) -> None:
    look: dict[str, Any] = {"color": FAINT, "linewidth": 1.0, "linestyle": "--", "zorder": 2}
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
    words: dict[str, Any] = {"fontsize": 8, "color": INK, "textcoords": "offset points", "bbox": behind, "zorder": 4}
    if mark.x is not None:
        axes.axvline(mark.x, **look)
        axes.annotate(
            mark.label, (mark.x, 0.02), xytext=(5, 0), xycoords=axes.get_xaxis_transform(), rotation=90, **words
        )
    elif mark.y is not None:
        axes.axhline(mark.y, **look)
        axes.annotate(mark.label, (0.01, mark.y), xytext=(0, 3), xycoords=axes.get_yaxis_transform(), **words)


def _finite(values: Sequence[float]) -> list[float]:
    return [float(value) if math.isfinite(value) else math.nan for value in values]
