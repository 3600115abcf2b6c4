"""A panel of a study's figure: named conditions side by side, each with the mean and the spread of its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.studies.panels.spread import spread_series
from pipeline.track.plots import Axis, Panel


def levels_panel(values: Mapping[str, Sequence[float]], y: Axis, *, over: str, title: str = "") -> Panel:
    """Return a point for each condition, in their order, with a bar from its lowest to its highest seed.

    Args:
        values: of each condition by its name, one value a seed.
        over: what the conditions are, below the axis.
    """
    places = range(len(values))
    return Panel(
        x=Axis(label=over, ticks=dict(zip(places, values, strict=True)), limits=(-0.5, len(values) - 0.5)),
        y=y,
        series=[
            spread_series(places, list(values.values()), label="", line=False),
        ],
        title=title,
    )
