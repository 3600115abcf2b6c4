"""The comparison of several runs: one page with their curves over each other, their numbers, and their differences.

    write_comparison([Path("runs/0001"), Path("runs/0002")], out=Path("runs/compare.html"))

Runs that differ by their seed alone are one configuration, shown by its mean and spread.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.shards.publish import publish_bytes
from pipeline.track.report.chart_data import Entry, chart_data
from pipeline.track.report.chart_panel import curves_panel
from pipeline.track.report.comparison import (
    Group,
    differences,
    groups_of,
    mean_series,
    names_of,
    seeds_of,
    spread_text,
    values_of,
)
from pipeline.track.report.curves import (
    Chart,
    Curve,
    chart_keys,
    chart_of,
    curves_of,
    in_order,
    is_split_chart,
    single_numbers,
)
from pipeline.track.report.markup import Cell, Section, Tile, note, table, tiles
from pipeline.track.report.page import make_page
from pipeline.track.report.run_facts import axis_factors, final, last_step, number, quality_key
from pipeline.track.report.text import NONE, title_of, value_text
from pipeline.track.run_reading import RunRecord, read_run

# Beside the metric that says how good a run is.
FINAL_KEYS = ("val/loss", "train/loss", "gap/top1_frac", "rate/images_per_s", "wall_s", "parameters")
SPEED_KEYS = (
    "rate/images_per_s",
    "rate/data_wait_frac",
    "rate/compute_frac",
    "rate/data_frac",
    "rate/framework_frac",
    "rate/mfu_frac",
    "mem/rss_bytes",
    "mem/gpu_bytes",
)
MOST_COLUMNS_OF_GROUPS = 6


def write_comparison(folders: Sequence[Path], *, out: Path) -> list[Group]:
    """Write the comparison of runs and return them by configuration.

    Raises:
        UserError: a folder holds no run.
    """
    runs = [read_run(folder) for folder in folders]
    groups = groups_of(runs)
    publish_bytes(out, comparison_of(runs, groups).encode())
    return groups


def comparison_of(runs: Sequence[RunRecord], groups: Sequence[Group]) -> str:
    """Return the page of one run or more."""
    names = names_of([run.folder for run in runs])
    has_seeds = any(len(members.runs) > 1 for members in groups)
    colours = [None] if len(groups) == 1 else range(len(groups))
    entries = [
        Entry(name=members.label, colour=colour, factors=axis_factors(members.runs[0]))
        for colour, members in zip(colours, groups, strict=True)
    ]
    data = chart_data(_charts(runs, groups, names), entries=entries)
    sections = [
        Section(anchor="numbers", title="Numbers", body=_numbers(runs, groups, names)),
        Section(anchor="curves-section", title="Curves", body=curves_panel(data, has_views=has_seeds)),
        Section(anchor="differences", title="Differences", body=_differences(groups)),
        Section(anchor="speed", title="Speed", body=_speed(groups)),
        Section(anchor="all", title="All numbers", body=_all_numbers(groups)),
    ]
    return make_page(
        title=f"{len(runs)} runs compared" if len(runs) > 1 else f"{runs[0].name}, alone",
        lead=_lead(runs, groups),
        top=tiles(_tiles(groups)),
        sections=sections,
        curves=data.content,
    )


def _charts(runs: Sequence[RunRecord], groups: Sequence[Group], names: dict[Path, str]) -> list[Chart]:
    charts = []
    for key, parts in chart_keys(runs).items():
        if any(part.count("/") >= 2 for part in parts):
            charts += [
                chart_of(key, [dataclasses.replace(curve, entry=entry) for curve in curves], title=title)
                for entry, members in enumerate(groups)
                if (curves := curves_of(members.runs[0].series, key, parts))
                for title in [f"{title_of(key)}: {members.label}"]
            ]
        else:
            each = (_curves(members, entry, key, parts, names) for entry, members in enumerate(groups))
            charts.append(chart_of(key, chain.from_iterable(each)))
    return in_order(charts)


def _curves(members: Group, entry: int, key: str, parts: Sequence[str], names: dict[Path, str]) -> Iterator[Curve]:
    """Yield a group's curves of a chart: of each run, and of several the mean where they have steps in common."""
    several = len(members.runs) > 1
    each = [curves_of(run.series, key, parts) for run in members.runs]
    for run, curves in zip(members.runs, each, strict=True):
        title = names[run.folder] if several else members.label
        for curve in curves:
            name = f"{title}, {curve.name}" if is_split_chart(key) else title
            yield dataclasses.replace(curve, name=name, entry=entry, view="each" if several else None)
    if several:
        for name in dict.fromkeys(curve.name for curves in each for curve in curves):
            alike = [curve for curves in each for curve in curves if curve.name == name]
            told = f"{members.label}, {name}" if is_split_chart(key) else members.label
            if len(alike) == 1:
                yield dataclasses.replace(alike[0], name=told, entry=entry, view="mean")
                continue
            mean, low, high = mean_series([curve.series for curve in alike])
            if mean.steps:
                yield Curve(name=told, series=mean, low=low, high=high, entry=entry, split=alike[0].split, view="mean")


def _lead(runs: Sequence[RunRecord], groups: Sequence[Group]) -> str:
    unfinished = sum(not run.is_finished for run in runs)
    counted = f"{len(runs)} runs of {len(groups)} configurations" if len(groups) > 1 else f"{len(runs)} runs"
    seeds = "; runs that differ by their seed alone are shown by mean and standard deviation"
    told = seeds if any(len(members.runs) > 1 for members in groups) else "; one seed each, so no spread is known"
    return f"{counted}{told}.{f' {unfinished} of them not finished.' if unfinished else ''}"


def _tiles(groups: Sequence[Group]) -> Iterator[Tile]:
    key = quality_key(groups[0].runs[0])
    for name, title, pick in (
        (key, f"Highest {title_of(key).lower()}", max),
        ("val/loss", "Lowest validation loss", min),
        ("rate/images_per_s", "Fastest", max),
    ):
        known = [(statistics.fmean(values), members) for members in groups if (values := values_of(members, name))]
        if known:
            _, best = pick(known, key=lambda pair: pair[0])
            yield Tile(name=title, value=spread_text(name, values_of(best, name)), more=best.label)


def _numbers(runs: Sequence[RunRecord], groups: Sequence[Group], names: dict[Path, str]) -> str:
    key = quality_key(runs[0])
    keys = [name for name in (key, *FINAL_KEYS) if any(final(run, name) is not None for run in runs)]
    heads = ["configuration", "runs", "seeds", *map(_head, keys), "steps"]
    rows: list[list[Any]] = [
        [
            members.label,
            len(members.runs),
            seeds_of(members),
            *(_spread(members, name) for name in keys),
            ", ".join(dict.fromkeys(_state(run) for run in members.runs)),
        ]
        for members in groups
    ]
    body = table(heads, rows)
    if len(runs) > len(groups):
        single = [
            [
                names[run.folder],
                members.label,
                str(run.config.get("seed", NONE)),
                *(Cell(text=value_text(name, final(run, name)), value=final(run, name)) for name in keys),
                _state(run),
            ]
            for members in groups
            for run in members.runs
        ]
        alone = table(["run", "configuration", "seed", *map(_head, keys), "steps"], single)
        body += f"<details><summary>Each run</summary>{alone}</details>"
    return body + '<p class="soft">At the end of each run, or as far as it has come.</p>'


def _head(key: str) -> str:
    of = {"val": "Validation ", "train": "Training ", "gap": "Gap of "}.get(key.split("/")[0])
    return title_of(key) if of is None else of + title_of(key).lower()


def _state(run: RunRecord) -> str:
    return f"{last_step(run):,}" if run.is_finished else f"{last_step(run):,}, not finished"


def _spread(members: Group, key: str) -> Cell:
    values = values_of(members, key)
    return Cell(text=spread_text(key, values), value=statistics.fmean(values) if values else None)


def _differences(groups: Sequence[Group]) -> str:
    found = differences(groups)
    if not found:
        return note("Nothing but the seed." if len(groups) == 1 else "None.")
    if len(groups) <= MOST_COLUMNS_OF_GROUPS:
        return table(["option", *(members.label for members in groups)], [[name, *row] for name, row in found.items()])
    rows = [[members.label, *(row[place] for row in found.values())] for place, members in enumerate(groups)]
    return table(["configuration", *found], rows)


def _speed(groups: Sequence[Group]) -> str:
    keys = [key for key in SPEED_KEYS if any(values_of(members, key) for members in groups)]
    rows: list[list[Any]] = [
        [
            members.label,
            *(_spread(members, key) for key in keys),
            "; ".join(dict.fromkeys(str(run.summary.get("bounded_by", NONE)) for run in members.runs)),
        ]
        for members in groups
    ]
    return table(["configuration", *map(title_of, keys), "bounded by"], rows)


def _all_numbers(groups: Sequence[Group]) -> str:
    """Return every number that runs ended with, by configuration."""
    runs = [run for members in groups for run in members.runs]
    keys = dict.fromkeys(
        [key for run in runs for key in run.summary if number(run.summary, key) is not None]
        + [key for run in runs for key in single_numbers(run)]
    )
    rows = [[key, *(_spread(members, key) for members in groups)] for key in keys]
    body = table(["metric", *(members.label for members in groups)], rows)
    return f"<details><summary>{len(keys):,} metrics</summary>{body}</details>"
