"""The table of a sweep: one line a configuration, its seeds brought together with their spread.

    results = [Result(number=0, options={"optimizer.rate": "0.1", "seed": "0"}, summary={"val/loss": 1.5}), ...]
    lines = lines_of(results, metric="val/loss")
    lines[0].mean, lines[0].sd          # over the seeds that finished
    text_table(*rows_of(lines, ...))    # for a terminal; markdown_table and csv_text likewise

The spread is the sample's standard deviation (n - 1 below), so it needs two seeds.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.shards.errors import UserError
from pipeline.sweep_config import Goal
from pipeline.sweeping.axes import Point
from pipeline.track.report.run_facts import QUALITY_KEYS

SEED = "seed"
# A metric with one of these words in its name is better when it is lower.
LOWER_IS_BETTER = ("loss", "error", "mse", "wall_s", "bytes", "wait")
# What the file of single runs has beside the metric.
RUN_COLUMNS = ("val/loss", "steps", "parameters", "rate/images_per_s", "wall_s")
Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one run: its summary, or why there is none."""

    number: int
    options: Point
    summary: Mapping[str, Any] | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Runs that differ by their seed alone.

    Attributes:
        options: what is swept, without the seed.
        values: the metric of each run that finished and has it, by number of the run.
        num_failed: runs without.
    """

    options: Point
    numbers: tuple[int, ...]
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    num_failed: int

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def sd(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(slots=True)
class _Gathered:
    numbers: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    num_failed: int = 0


def lines_of(results: Sequence[Result], *, metric: str) -> list[Line]:
    """Return the configurations in the order of their first run, over their seeds."""
    gathered: dict[tuple[tuple[str, str], ...], _Gathered] = {}
    for result in results:
        key = tuple((name, value) for name, value in result.options.items() if name != SEED)
        line = gathered.setdefault(key, _Gathered())
        line.numbers.append(result.number)
        if SEED in result.options:
            line.seeds.append(int(result.options[SEED]))
        value = metric_of(result, metric)
        if value is None:
            line.num_failed += 1
        else:
            line.values.append(value)
    return [
        Line(
            options=dict(key),
            numbers=tuple(line.numbers),
            seeds=tuple(line.seeds),
            values=tuple(line.values),
            num_failed=line.num_failed,
        )
        for key, line in gathered.items()
    ]


def metric_of(result: Result, metric: str) -> float | None:
    """Return the metric of a run; None where it did not finish or has no finite number of that name."""
    value = (result.summary or {}).get(metric)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number and value is not None else None


def shown_metric(results: Sequence[Result], metric: str | None) -> str:
    """Return the metric that is wanted; for None the one that tells how good these runs are, as reports take it."""
    if metric is not None:
        return metric
    there = (key for key in QUALITY_KEYS if any(metric_of(result, key) is not None for result in results))
    return next(there, QUALITY_KEYS[-1])


def check_metric(results: Sequence[Result], metric: str) -> None:
    """Refuse a metric that no finished run has.

    Raises:
        UserError: with the metrics that there are.
    """
    finished = [result for result in results if result.summary is not None]
    if finished and all(metric_of(result, metric) is None for result in finished):
        there = sorted({name for result in finished for name in result.summary or {} if metric_of(result, name)})
        raise UserError(
            f"sweep.metric={metric}: no run has it; there are {', '.join(there)}; the runs are finished, so the same"
            " command with another sweep.metric shows it at once"
        )


def is_higher_better(metric: str, goal: Goal) -> bool:
    """Tell which way is up; auto goes by the metric's name."""
    if goal is Goal.auto:
        return not any(word in metric for word in LOWER_IS_BETTER)
    return goal is Goal.highest


def best_line(lines: Sequence[Line], *, higher: bool) -> Line | None:
    """Return the configuration with the best mean; None where nothing finished. Of equals the first."""
    finished = [line for line in lines if line.values]
    if not finished:
        return None
    return max(finished, key=lambda line: line.mean) if higher else min(finished, key=lambda line: line.mean)


def shown(metric: str) -> tuple[str, float, str]:
    """Return how a metric is shown: its name without the unit, the factor, and the unit: shares are in per cent."""
    name, _, unit = metric.rpartition("_")
    if unit == "frac" and name:
        return name, 100.0, "%"
    if unit in ("s", "bytes", "images") and name and not name.endswith("_per"):
        return name, 1.0, unit
    return metric, 1.0, ""


def table_of(lines: Sequence[Line], *, metric: str, best: Line | None) -> Table:
    """Return header and rows for people; the best configuration has a star."""
    names = names_of([line.options for line in lines])
    label, factor, unit = shown(metric)
    has_spread = any(line.sd is not None for line in lines)
    header = ["", *names, f"{label} ({unit})" if unit else label, "runs"]
    rows = []
    for line in lines:
        value = "failed"
        if line.values:
            value = number_text(line.mean * factor, line.sd * factor if line.sd is not None else None)
        runs = f"{len(line.values)}" + (f", {line.num_failed} failed" if line.num_failed else "")
        rows.append(["*" if line is best else "", *(line.options.get(name, "") for name in names), value, runs])
    if has_spread:
        header[-2] += ", ± sd"
    return header, rows


def runs_table(results: Sequence[Result], *, metric: str) -> Table:
    """Return header and rows of single runs, for runs.csv: numbers as they are, empty where a run has none."""
    names = names_of([result.options for result in results])
    quality = [key for key in reversed(QUALITY_KEYS) if any(key in (result.summary or {}) for result in results)]
    columns = list(dict.fromkeys([metric, *quality, *RUN_COLUMNS]))
    rows = []
    for result in results:
        summary = result.summary or {}
        values = [str(summary.get(column, "")) for column in columns]
        options = [result.options.get(name, "") for name in names]
        rows.append([f"{result.number:04d}", *options, *values, result.failure])
    return ["run", *names, *columns, "failure"], rows


def lines_table(lines: Sequence[Line], *, metric: str) -> Table:
    """Return header and rows of configurations, for table.csv."""
    names = names_of([line.options for line in lines])
    rows = []
    for line in lines:
        ends = (min(line.values), max(line.values)) if line.values else ("", "")
        spread = "" if line.sd is None else line.sd
        mean = line.mean if line.values else ""
        cells = [mean, spread, *ends, len(line.values), line.num_failed, " ".join(map(str, line.seeds))]
        rows.append([*(line.options.get(name, "") for name in names), *map(str, cells)])
    return [*names, f"{metric} mean", "sd", "lowest", "highest", "finished", "failed", "seeds"], rows


def names_of(points: Sequence[Point]) -> list[str]:
    """Return the names of all options that some point has, in the order in which they come."""
    return list(dict.fromkeys(name for point in points for name in point))


def number_text(value: float, spread: float | None = None) -> str:
    """Return a number to two digits of its spread, or to four digits: "46.91 ± 0.34", "1.532"."""
    if spread is None or spread == 0 or not math.isfinite(spread):
        text = f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
        return text if spread is None else f"{text} ± 0"
    decimals = max(0, 1 - math.floor(math.log10(spread)))
    return f"{value:,.{decimals}f} ± {spread:,.{decimals}f}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table for a terminal: columns as wide as they need to be; numbers to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    right = [all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = zip(row, widths, right, strict=True)
        lines.append("  ".join(cell.rjust(width) if r else cell.ljust(width) for cell, width, r in cells).rstrip())
    return "\n".join(lines) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table as Markdown has it."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [header, *rows]]
    rule = ["---"] * len(header)
    return "".join(f"| {' | '.join(row)} |\n" for row in [escaped[0], rule, *escaped[1:]])


def csv_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table as CSV (RFC 4180, with plain line ends)."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    return stream.getvalue()


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "-." or cell == "failed"
