"""The plot of a sweep: the metric against each swept option, a panel each.

    save_plot(path, panels_of(results, metric="val/top1_frac", higher=True), title=..., caption=caption_of(...))

With one or two lists of values every run is seen: means over the seeds are joined, the bars reach from the lowest to
the highest seed, and the second option has a line a value. With more than that, or with drawn values, each panel shows
all runs as points and, for lists, the best mean of each value.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.sweeping.table import SEED, Line, Result, lines_of, metric_of, names_of, shown
from pipeline.track.plots import Axis, Panel, Series, seeds_text

# With more values than that, the second option is not drawn as lines.
MAX_LINES = 7
# Values that span such a factor or more are laid out by their logarithm.
LOG_SPAN = 8.0
MAX_TICKS = 9
# Between series at one named value, in units of the distance between two values.
SIDE_BY_SIDE = 0.08


def panels_of(results: Sequence[Result], *, metric: str, higher: bool, drawn: Sequence[str] = ()) -> list[Panel]:
    """Return a panel for each swept option but the seed; for the seed where nothing else is swept.

    Args:
        drawn: options whose values were drawn, so that hardly any comes twice.
    """
    lines = [line for line in lines_of(results, metric=metric) if line.values]
    names = [name for name in names_of([line.options for line in lines]) if _levels(lines, name) > 1]
    if not names:
        finished = [result for result in results if metric_of(result, metric) is not None]
        return [_single_runs(finished, metric=metric)] if finished else []
    return [_panel(lines, name, names, metric=metric, higher=higher, drawn=drawn) for name in names]


def caption_of(results: Sequence[Result], *, metric: str, fixed: Sequence[str], drawn: Sequence[str] = ()) -> str:
    """Return what was run, how often and with which seeds, and what the bars are."""
    failed = sum(metric_of(result, metric) is None for result in results)
    seeds = sorted({int(result.options[SEED]) for result in results if SEED in result.options})
    if len(seeds) > 1:
        shown_as = "each a point" if drawn else "means over them, bars from lowest to highest"
        spread = f"{seeds_text(seeds)} for each configuration, {shown_as}"
    else:
        given = next((option.partition("=")[2] for option in fixed if option.startswith(f"{SEED}=")), "0")
        spread = f"n = 1 seed ({seeds[0] if seeds else given}) for each configuration, so no spread"
    lost = f", {failed} of them failed and left out" if failed else ""
    return f"{len(results)} runs{lost}; {spread}. All with: {' '.join(fixed) or 'default options'}"


def axis_of(name: str, values: Sequence[str]) -> tuple[Axis, dict[str, float]]:
    """Return the axis of an option and where on it each of its values lies: numbers to scale, all else one by one."""
    different = list(dict.fromkeys(values))
    try:
        numbers = {value: float(value) for value in different}
    except ValueError:
        places = {value: float(place) for place, value in enumerate(different)}
        ticks = {place: value for value, place in places.items()}
        return Axis(label=name, ticks=ticks, limits=(-0.5, len(places) - 0.5)), places
    least, most = min(numbers.values()), max(numbers.values())
    ticks = {number: value for value, number in sorted(numbers.items(), key=lambda item: item[1])}
    is_log = least > 0 and most / least >= LOG_SPAN
    return Axis(label=name, log=is_log, ticks=ticks if len(ticks) <= MAX_TICKS else None), numbers


def _panel(
    lines: Sequence[Line], name: str, names: Sequence[str], *, metric: str, higher: bool, drawn: Sequence[str]
) -> Panel:
    label, factor, unit = shown(metric)
    with_name = [line for line in lines if name in line.options]
    axis, places = axis_of(name, [line.options[name] for line in with_name])
    others = [other for other in names if other != name]
    other = others[0] if len(others) == 1 else None
    as_lines = not drawn and (not others or (other is not None and _levels(lines, other) <= MAX_LINES))
    if as_lines:
        values = _values(with_name, other)
        series = []
        for number, value in enumerate(values):
            inside = [line for line in with_name if other is None or line.options.get(other) == value]
            # What has no scale is not joined; there the series stand side by side.
            shift = SIDE_BY_SIDE * (number - (len(values) - 1) / 2) if _has_no_scale(axis) else 0.0
            moved = {text: place + shift for text, place in places.items()}
            words = "" if other is None else f"{other}={value}"
            series.append(_means(inside, name, moved, factor, label=words, joined=not _has_no_scale(axis)))
    else:
        series = [_all_runs(with_name, name, places, factor)]
        if name not in drawn:
            series.append(_best(with_name, name, places, factor, higher=higher, joined=not _has_no_scale(axis)))
    ordered = as_lines and other is not None and _are_numbers(_values(with_name, other))
    return Panel(x=axis, y=Axis(label=label, unit=unit), series=series, ordered=ordered)


def _has_no_scale(axis: Axis) -> bool:
    """Tell whether an axis has its values one by one, as names, and not as numbers to scale."""
    return axis.limits is not None


def _means(
    lines: Sequence[Line], name: str, places: dict[str, float], factor: float, *, label: str, joined: bool
) -> Series:
    inside = sorted(lines, key=lambda line: places[line.options[name]])
    has_spread = any(len(line.values) > 1 for line in inside)
    return Series(
        x=[places[line.options[name]] for line in inside],
        y=[factor * line.mean for line in inside],
        low=[factor * min(line.values) for line in inside] if has_spread else None,
        high=[factor * max(line.values) for line in inside] if has_spread else None,
        label=label,
        line=joined,
    )


def _all_runs(lines: Sequence[Line], name: str, places: dict[str, float], factor: float) -> Series:
    pairs = [(places[line.options[name]], factor * value) for line in lines for value in line.values]
    return Series(x=[x for x, _ in pairs], y=[y for _, y in pairs], line=False, label="a run", faint=True, colour=0)


def _best(
    lines: Sequence[Line], name: str, places: dict[str, float], factor: float, *, higher: bool, joined: bool
) -> Series:
    best: dict[float, float] = {}
    pick = max if higher else min
    for line in lines:
        place = places[line.options[name]]
        best[place] = pick(best.get(place, line.mean), line.mean)
    x = sorted(best)
    return Series(
        x=x, y=[factor * best[place] for place in x], label="best mean over the other options", colour=0, line=joined
    )


def _single_runs(results: Sequence[Result], *, metric: str) -> Panel:
    """Return the panel of a sweep over nothing but seeds."""
    label, factor, unit = shown(metric)
    values = [result.options.get(SEED, "0") for result in results]
    ticks = {float(place): value for place, value in enumerate(values)}
    return Panel(
        x=Axis(label=SEED, ticks=ticks if len(ticks) <= MAX_TICKS else None),
        y=Axis(label=label, unit=unit),
        series=[
            Series(x=list(ticks), y=[factor * (metric_of(result, metric) or 0.0) for result in results], line=False)
        ],
    )


def _levels(lines: Sequence[Line], name: str) -> int:
    return len({line.options.get(name) for line in lines})


def _values(lines: Sequence[Line], name: str | None) -> list[str | None]:
    return [None] if name is None else list(dict.fromkeys(line.options.get(name) for line in lines))


def _are_numbers(values: Sequence[str | None]) -> bool:
    try:
        return len([float(value or "") for value in values]) > 0
    except ValueError:
        return False
