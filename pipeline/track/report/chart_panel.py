"""The section with the curves: switches, a frame for each chart, and what was left out.

    body = curves_panel(chart_data(charts, entries=entries))

Frames are HTML; assets/charts.js draws into them.
"""

from __future__ import annotations

from itertools import groupby

from pipeline.track.report.chart_data import ChartData
from pipeline.track.report.curves import LAYERS, QUALITY, Chart, group_title
from pipeline.track.report.markup import notes
from pipeline.track.report.text import escaped

NUM_COLOURS = 8


def curves_panel(data: ChartData, *, has_views: bool = False) -> str:
    """Return the section's HTML.

    Args:
        has_views: curves can be shown by single runs or by groups of runs.
    """
    if not data.charts:
        return "<p>No curves: nothing was logged at more than one step.</p>" + notes(data.notes)
    groups = []
    placed = list(enumerate(data.charts))
    for group, members in groupby(placed, key=lambda member: member[1].group):
        frames = "".join(_frame(place, chart) for place, chart in members)
        charts = f'<div class="charts">{frames}</div>'
        if group == LAYERS and len(data.content["entries"]) > 1:
            groups.append(f"<details><summary>{escaped(group_title(group))}</summary>{charts}</details>")
        else:
            groups.append(f"<h3>{escaped(group_title(group))}</h3>{charts}")
    return _toolbar(data, has_views=has_views) + "".join(groups) + notes(data.notes)


def _toolbar(data: ChartData, *, has_views: bool) -> str:
    axes = ["step", *(axis["name"] for axis in data.content["axes"])]
    options = "".join(f'<option value="{place}">{escaped(name)}</option>' for place, name in enumerate(axes))
    view = (
        '<label>Seeds <select id="view"><option value="mean">mean and spread</option>'
        '<option value="each">each run</option></select></label>'
        if has_views
        else ""
    )
    entries = data.content["entries"]
    chips = (
        f'<div class="chips" role="group" aria-label="Runs">{"".join(map(_chip, range(len(entries)), entries))}</div>'
        if len(entries) > 1
        else ""
    )
    return f"""<div class="toolbar" role="group" aria-label="How curves are drawn">
<label>Smoothing <input type="range" id="smooth" min="0" max="100" value="0"></label>
<label><input type="checkbox" id="log-y"> Log values</label>
<label>Across <select id="axis">{options}</select></label>
<label><input type="checkbox" id="log-x"> Log axis</label>
<label>From <input type="number" id="from" min="0" step="any"></label>
<label>to <input type="number" id="to" min="0" step="any"></label>
<button type="button" id="whole">Whole</button>
{view}{chips}</div>
<p class="soft">Drag across a chart to zoom into all; a double click shows the whole again.</p>"""


def _chip(place: int, entry: dict[str, object]) -> str:
    colour = entry["colour"]
    swatch = f'<span class="swatch c{int(str(colour)) % NUM_COLOURS}"></span>' if colour is not None else ""
    return f'<button type="button" data-entry="{place}" aria-pressed="true">{swatch}{escaped(entry["name"])}</button>'


def _frame(place: int, chart: Chart) -> str:
    title, key = escaped(chart.title), escaped(chart.key)
    shown_key = "" if chart.group == QUALITY else f'<span class="k" title="{key}">{key}</span>'
    return f"""<figure class="chart" data-chart="{place}">
<figcaption><span>{title}</span>{shown_key}<span class="at"></span>
<button type="button" aria-pressed="false" aria-label="{title}, wide">⤢</button></figcaption>
<div class="plot" role="img" aria-label="{title} over the run"></div>
<ul class="legend"></ul>
</figure>
"""
