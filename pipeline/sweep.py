"""`python -m pipeline.sweep ...`: many runs, a table and a plot of them. `--help` lists the sweep's own options.

    python -m pipeline.sweep data.path=data/mnist model=mlp optimizer.rate=0.01,0.1 seed=0,1,2 sweep.jobs=2

Each configuration is composed once, here, and checked before the first run starts; each run is a process of its own.
What is finished is not run again, what was broken off goes on: the same command again, or one with more values.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.compose import compose, help_text
from pipeline.run_folder import SUMMARY_FILE
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.publish import publish_bytes
from pipeline.sweep_config import SWEEP_SCHEMAS, SweepConfig, SweepRoot, read_sweep_file, split_options
from pipeline.sweeping.axes import Axis, DrawnAxis, ListAxis, Point, Swept, check_names, points, read_swept
from pipeline.sweeping.check_data import check_data
from pipeline.sweeping.folder import OpenSweep, default_folder, open_sweep
from pipeline.sweeping.many import ResolvedRun, carry_out, naming, resolved
from pipeline.sweeping.sweep_plot import caption_of, panels_of
from pipeline.sweeping.table import (
    Result,
    best_line,
    check_metric,
    csv_text,
    is_higher_better,
    lines_of,
    lines_table,
    markdown_table,
    metric_of,
    number_text,
    runs_table,
    shown,
    shown_metric,
    table_of,
    text_table,
)
from pipeline.track.plots import save_plot

SUMMARY = """Start many training runs and bring their results together: a table, a plot, CSV.

  python -m pipeline.sweep data.path=data/mnist model=mlp optimizer.rate=0.01,0.1 seed=0,1,2
  python -m pipeline.sweep model=mlp "optimizer.rate=log_uniform(1e-4,1)" sweep.samples=20 seed=0,1 sweep.jobs=2
  python -m pipeline.sweep sweep.file=recipes.yaml seed=0,1,2

All options but those below are training's (python -m pipeline.train --help). One with commas is swept; so are
choice(a,b) range(0,5) uniform(0,0.5) log_uniform(1e-4,1) int_uniform(1,8) log_int_uniform(64,4096).
Killed? Type the same command again: finished runs are kept, the others go on. docs/SWEEPS.md tells the rest."""
EXIT_SOME_FAILED = 1
TABLE_FILE, LINES_FILE, RUNS_FILE, PLOT_FILE = "table.md", "table.csv", "runs.csv", "plot.png"


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("sweep", SWEEP_SCHEMAS, summary=SUMMARY))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config, swept = read_command(argv)
    runs = resolved(swept.fixed, points(swept.axes, samples=config.samples, seed=config.seed))
    options = [run.options for run in runs]
    if config.dry_run:
        sys.stdout.write("".join(f"{options_text(point)}\n" for point in options))
        return 0
    for run in runs:
        with naming(run.options):
            check_data(run.config, ranks=config.ranks)
    identities = [run.identity for run in runs]
    folder = Path(config.dir) if config.dir is not None else default_folder("sweep", identities)
    with open_sweep(folder, identities, options=options) as sweep:
        results = run_all(sweep, runs, config)
        failed = [result for result in results if result.summary is None]
        sys.stdout.write(report(results, config, swept, folder))
        for result in failed:
            sys.stdout.write(f"failed      {result.number:04d} {options_text(result.options)}: {result.failure}\n")
        if failed:
            sys.stdout.write(f"            logs in {folder}/logs; the same command again tries them once more\n")
        check_metric(results, shown_metric(results, config.metric))
    return EXIT_SOME_FAILED if failed else 0


def read_command(argv: Sequence[str]) -> tuple[SweepConfig, Swept]:
    """Return the sweep's own options, and training's sorted into fixed and swept ones, a file's among them.

    Raises:
        UserError: what is typed, or stands in the file, makes no sense.
    """
    own, typed = split_options("sweep", argv)
    config = _own_config(own)
    if config.file is None:
        return config, read_swept(typed, together=config.together)
    file = read_sweep_file(Path(config.file))
    own_of_file, options = split_options("sweep", file.options)
    # What is typed comes last, so it wins; of training's options an earlier one of the same name is taken out.
    names = {option.partition("=")[0] for option in typed}
    options = [option for option in options if option.partition("=")[0] not in names]
    config = _own_config([*own_of_file, *own])
    swept = read_swept([*options, *typed], together=config.together)
    if not file.runs:
        return config, swept
    listed = ListAxis(points=tuple(_point(options) for options in file.runs))
    axes: tuple[Axis, ...] = (listed, *swept.axes)
    check_names(axes, swept.fixed)
    return config, Swept(fixed=swept.fixed, axes=axes)


def run_all(sweep: OpenSweep, runs: Sequence[ResolvedRun], config: SweepConfig) -> list[Result]:
    """Run what is not finished, with a line for each that ends."""
    num_runs = len(runs)
    todo = sum(not (place.folder / SUMMARY_FILE).is_file() for place in sweep.runs)
    done = num_runs - todo
    at_once = f", {config.jobs} at once" if config.jobs > 1 else ""
    sys.stdout.write(f"{num_runs} runs, {done} of them finished before{at_once} -> {sweep.folder}\n")
    sys.stdout.flush()
    num_ended = 0

    def tell(result: Result, passed_s: float) -> None:
        nonlocal num_ended
        num_ended += 1
        left_s = passed_s / num_ended * (todo - num_ended)
        left = f", about {duration_text(left_s)} left" if num_ended < todo else ""
        metric = shown_metric([result], config.metric)
        told = value_text(result, metric) if result.summary is not None else f"failed, {result.failure}"
        sys.stdout.write(
            f"[{done + num_ended}/{num_runs}] {result.number:04d} {options_text(result.options)}: {told}{left}\n"
        )
        sys.stdout.flush()

    return carry_out(sweep, runs, config, on_end=tell)


def report(results: Sequence[Result], config: SweepConfig, swept: Swept, folder: Path) -> str:
    """Write table, CSV and plot into the sweep's folder and return the table for the terminal."""
    metric = shown_metric(results, config.metric)
    higher = is_higher_better(metric, config.goal)
    lines = lines_of(results, metric=metric)
    best = best_line(lines, higher=higher)
    header, rows = table_of(lines, metric=metric, best=best)
    drawn = [axis.name for axis in swept.axes if isinstance(axis, DrawnAxis)]
    caption = caption_of(results, metric=metric, fixed=swept.fixed, drawn=drawn)
    failed = [result for result in results if result.summary is None]
    lost = "".join(f"- failed: {r.number:04d} {options_text(r.options)}: {r.failure}\n" for r in failed)
    best_words = "best mean" if any(line.sd is not None for line in lines) else "best"
    notes = f"\n{caption}. A star: the {best_words}.\n" + (f"\n{lost}" if lost else "")
    publish_bytes(folder / TABLE_FILE, (markdown_table(header, rows) + notes).encode())
    publish_bytes(folder / LINES_FILE, csv_text(*lines_table(lines, metric=metric)).encode())
    publish_bytes(folder / RUNS_FILE, csv_text(*runs_table(results, metric=metric)).encode())
    panels = panels_of(results, metric=metric, higher=higher, drawn=drawn)
    files = f"{TABLE_FILE}, {LINES_FILE}, {RUNS_FILE}"
    if panels:
        names = ", ".join(dict.fromkeys(panel.x.label for panel in panels))
        save_plot(folder / PLOT_FILE, panels, title=f"{metric} against {names}", caption=caption)
        files += f", {PLOT_FILE}"
    told = f"best        {options_text(best.options) or 'the one configuration'}\n" if best is not None else ""
    return f"\n{text_table(header, rows)}\n{told}sweep       {folder} ({files})\n"


def options_text(options: Point) -> str:
    """Return swept options as they would be typed."""
    return " ".join(f"{name}={value}" for name, value in options.items())


def value_text(result: Result, metric: str) -> str:
    """Return a run's metric with its unit."""
    value = metric_of(result, metric)
    label, factor, unit = shown(metric)
    return f"no {metric}" if value is None else f"{label} {number_text(factor * value)} {unit}".rstrip()


def duration_text(seconds: float) -> str:
    """Return a duration in its unit: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _own_config(own: Sequence[str]) -> SweepConfig:
    root: SweepRoot = compose("sweep", SWEEP_SCHEMAS, list(own))
    return root.sweep


def _point(options: Sequence[str]) -> Point:
    pairs = [option.partition("=") for option in options]
    names = [name for name, _, _ in pairs]
    if len(set(names)) != len(names):
        raise UserError(f"sweep.file: a run has an option twice: {' '.join(options)}")
    return {name: value for name, _, value in pairs}


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
