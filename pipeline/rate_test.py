"""`python -m pipeline.rate_test ...`: which learning rates a model bears, seen in one short run; with a plot.

    python -m pipeline.rate_test data.path=data/mnist model=mlp optimizer=sgd,adamw seed=0,1,2

A run like any other, but its rate rises by a constant factor a step, from a rate that does nothing to one that breaks
it. What comes of it is read off the loss: pipeline/sweeping/rate_curve.py says how. Options that are swept give a curve
each, seeds one curve with its spread.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.compose import compose, help_text
from pipeline.config import TrainConfig
from pipeline.optimizer_config import ExponentialConfig
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.publish import publish_bytes, publish_json
from pipeline.sweep import duration_text, options_text
from pipeline.sweep_config import RATE_TEST_SCHEMAS, RateTestConfig, RateTestRoot, split_options
from pipeline.sweeping.axes import Point, points, read_swept
from pipeline.sweeping.check_data import check_data
from pipeline.sweeping.folder import OpenSweep, default_folder, open_sweep
from pipeline.sweeping.many import ResolvedRun, carry_out, naming, resolved
from pipeline.sweeping.rate_curve import Curve, read_curve, round_rate
from pipeline.sweeping.table import SEED, Result, markdown_table, text_table
from pipeline.track.metric_log import METRICS_FILE
from pipeline.track.plots import Axis, Mark, Panel, Series, save_plot, seeds_text

SUMMARY = """Find the learning rates that a model bears: one short run in which the rate rises until it breaks.

  python -m pipeline.rate_test data.path=data/mnist model=mlp optimizer=sgd,adamw seed=0,1,2

All options but those below are training's; the rate, its schedule and the number of steps are set here. Options with
commas give a curve each, seeds one curve with its spread. docs/SWEEPS.md tells how to read it."""
TABLE_FILE, CURVES_FILE, PLOT_FILE = "rates.md", "rates.json", "rates.png"
# What a run says when its loss is no number any more, or far above its start, and what that is here: an answer.
DIVERGED = {
    "not finite": "the loss is no number any more, which ends the test",
    "trainer.max_loss_ratio": "the loss is far above its start, which ends the test",
}
MAX_CURVES = 7
# The best of a sweep was within this factor of the rate with the lowest loss (docs/SWEEPS.md).
SWEPT_FACTOR = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A configuration: the curve of each of its seeds."""

    options: Point
    seeds: tuple[int, ...]
    curves: tuple[Curve, ...]

    def rate(self, name: str) -> tuple[float, float, float] | None:
        """Return the median, lowest and highest of a rate over the seeds whose curves show it."""
        found = [getattr(curve.suggestion, name) for curve in self.curves]
        rates = [rate for rate in found if rate is not None]
        return (math.exp(statistics.median(map(math.log, rates))), min(rates), max(rates)) if rates else None


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("rate_test", RATE_TEST_SCHEMAS, summary=SUMMARY))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    own, typed = split_options("rate_test", argv)
    root: RateTestRoot = compose("rate_test", RATE_TEST_SCHEMAS, own)
    config, swept = root.rate_test, read_swept(typed)
    runs = resolved(swept.fixed, points(swept.axes), change=lambda run: rising(run, config))
    for run in runs:
        with naming(run.options):
            check_data(run.config, ranks=config.ranks)
    identities = [run.identity for run in runs]
    folder = Path(config.dir) if config.dir is not None else default_folder("rates", identities)
    with open_sweep(folder, identities, options=[run.options for run in runs]) as sweep:
        tested = measure_rates(sweep, runs, config)
        sys.stdout.write(report(tested, config, fixed=swept.fixed, folder=folder))
    return 0


def rising(config: TrainConfig, test: RateTestConfig) -> TrainConfig:
    """Return the config of a run whose rate rises from the lowest to the highest; all else is as it was."""
    # The schedule would reach its end one step after the last.
    factor = (test.highest / test.lowest) ** (test.steps / (test.steps - 1))
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, rate=test.lowest, reference_batch=None),
        schedule=ExponentialConfig(final_frac=factor),
        trainer=dataclasses.replace(
            config.trainer,
            max_epochs=test.steps,
            max_steps=test.steps,
            log_every_steps=1,
            measure_bound=False,
            max_loss_ratio=test.max_loss_ratio,
        ),
    )


def measure_rates(sweep: OpenSweep, runs: Sequence[ResolvedRun], config: RateTestConfig) -> list[Tested]:
    """Run what is not finished and return the configurations in the order of their first run.

    Raises:
        UserError: a run failed by something else than its rate.
    """
    sys.stdout.write(f"{len(runs)} run{'s' if len(runs) > 1 else ''} of {config.steps} steps -> {sweep.folder}\n")
    sys.stdout.flush()

    def tell(result: Result, passed_s: float) -> None:
        told = "done" if result.summary is not None else result.failure
        told = next((answer for words, answer in DIVERGED.items() if words in told), told)
        words = options_text(result.options)
        sys.stdout.write(f"{result.number:04d}{f' {words}' if words else ''}: {told} ({duration_text(passed_s)})\n")
        sys.stdout.flush()

    results = carry_out(sweep, runs, config, on_end=tell)
    tested: dict[tuple[tuple[str, str], ...], Tested] = {}
    for place, run, result in zip(sweep.runs, runs, results, strict=True):
        ended = result.summary is None
        if ended and not any(words in result.failure for words in DIVERGED):
            raise UserError(f"{options_text(place.options) or 'the run'}: {result.failure}; its log: {place.log}")
        curve = _curve_of(place.folder / METRICS_FILE, smooth_steps=config.smooth_steps, ended=ended)
        key = tuple((name, value) for name, value in place.options.items() if name != SEED)
        before = tested.get(key) or Tested(options=dict(key), seeds=(), curves=())
        tested[key] = dataclasses.replace(
            before, seeds=(*before.seeds, run.config.seed), curves=(*before.curves, curve)
        )
    return list(tested.values())


def report(tested: Sequence[Tested], config: RateTestConfig, *, fixed: Sequence[str], folder: Path) -> str:
    """Write table, curves and plot into the folder and return the table for the terminal."""
    header = ["", "falls fastest at", "lowest at", "diverges at"]
    rows = [
        [
            options_text(item.options) or "loss",
            *(_rate_text(item.rate(name)) for name in ("steepest", "lowest", "diverges")),
        ]
        for item in tested
    ]
    caption = caption_of(tested, config, fixed=fixed)
    publish_bytes(folder / TABLE_FILE, f"{markdown_table(header, rows)}\n{caption}\n".encode())
    publish_json(folder / CURVES_FILE, [_plain(item) for item in tested])
    save_plot(folder / PLOT_FILE, [panel_of(tested)], title="Learning-rate range test", caption=caption)
    best = tested[0].rate("lowest")
    advice = "no rate between the two ends makes the loss fall: try others, or look at the plot"
    if best is not None:
        middle, low, high = (f"{round_rate(factor * best[0]):g}" for factor in (1, 1 / SWEPT_FACTOR, SWEPT_FACTOR))
        advice = f"optimizer.rate={middle}; worth a sweep: {low} to {high}"
    which = f" ({options_text(tested[0].options)})" if len(tested) > 1 else ""
    files = f"{TABLE_FILE}, {CURVES_FILE}, {PLOT_FILE}"
    return f"\n{text_table(header, rows)}\nsuggestion  {advice}{which}\ntest        {folder} ({files})\n"


def panel_of(tested: Sequence[Tested]) -> Panel:
    """Return the loss against the rate: each step faint where there is one curve, the average over it."""
    series = []
    for number, item in enumerate(tested[:MAX_CURVES]):
        length = min(len(curve.rates) for curve in item.curves)
        rates = item.curves[0].rates[:length]
        smooth = [[curve.smooth[index] for curve in item.curves] for index in range(length)]
        if len(tested) == 1:
            series += [
                Series(x=curve.rates, y=curve.losses, markers=False, faint=True, colour=number) for curve in item.curves
            ]
        has_spread = len(item.curves) > 1
        series.append(
            Series(
                x=rates,
                y=[statistics.fmean(values) for values in smooth],
                low=[min(values) for values in smooth] if has_spread else None,
                high=[max(values) for values in smooth] if has_spread else None,
                label=options_text(item.options) if len(tested) > 1 else "",
                markers=False,
                colour=number,
            )
        )
    marks = []
    if len(tested) == 1:
        names = {"steepest": "falls fastest", "lowest": "lowest", "diverges": "diverges"}
        for name, words in names.items():
            if (rate := tested[0].rate(name)) is not None:
                marks.append(Mark(x=rate[0], label=f"{words}: {round_rate(rate[0]):g}"))
    # What the loss grows to once it has left would leave no room for the rest.
    losses = [value for item in tested for curve in item.curves for value in curve.smooth if math.isfinite(value)]
    start = max(curve.losses[0] for item in tested for curve in item.curves)
    least = min(losses, default=0.0)
    margin = 0.1 * max(start - least, 1e-12)
    return Panel(
        x=Axis(label="learning rate", log=True),
        y=Axis(label="training loss", limits=(least - margin, start + 4 * margin)),
        series=series,
        marks=marks,
    )


def caption_of(tested: Sequence[Tested], config: RateTestConfig, *, fixed: Sequence[str]) -> str:
    """Return what was run, how often and with which seeds, and what is drawn."""
    seeds = sorted({seed for item in tested for seed in item.seeds})
    spread = "; mean of the seeds, band from lowest to highest" if len(seeds) > 1 else ", so no spread"
    smooth = f"averaged over about {config.smooth_steps:g} steps to either side" if config.smooth_steps else "as it is"
    return (
        f"{config.steps} steps from {config.lowest:g} to {config.highest:g}; loss of each batch, {smooth}."
        f" {seeds_text(seeds)}{spread}. With: {' '.join(fixed) or 'default options'}"
    )


def _curve_of(path: Path, *, smooth_steps: float, ended: bool) -> Curve:
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except OSError:
        rows = []
    steps = [(row["rate/learning_rate"], row["train/loss"]) for row in rows if "train/loss" in row]
    if len(steps) < 4:
        raise UserError(f"{path}: the loss was no number after {len(steps)} steps; try a lower rate_test.lowest")
    losses = [math.nan if loss is None else loss for _, loss in steps]
    return read_curve([rate for rate, _ in steps], losses, smooth_steps=smooth_steps, ended=ended)


def _rate_text(rate: tuple[float, float, float] | None) -> str:
    if rate is None:
        return "-"
    middle, low, high = (f"{round_rate(value):g}" for value in rate)
    return middle if low == high else f"{middle} ({low} to {high})"


def _plain(item: Tested) -> dict[str, object]:
    curves = [
        {"seed": seed, "rates": list(curve.rates), "losses": _finite(curve.losses), "smooth": _finite(curve.smooth)}
        | dataclasses.asdict(curve.suggestion)
        for seed, curve in zip(item.seeds, item.curves, strict=True)
    ]
    return {"options": item.options, "curves": curves}


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
