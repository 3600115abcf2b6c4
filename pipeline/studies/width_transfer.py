"""Width transfer: where the best learning rate goes as a net grows wider, with and without muP.

One step of AdamW moves every weight by about the rate, whatever the width. In a hidden layer of m times as many units
m times as many such moves add up, so that the standard parametrisation wants a rate that falls with the width; the
maximal-update parametrisation divides it by m where that is so (Yang et al. 2022, arXiv 2203.03466, figures 1 and 3),
and a rate that was tuned on a narrow net holds on a wide one.

At the base width both are one and the same net, so that it is trained once. Judged is the training loss after a fixed
number of steps, as in the paper: the rate decides how fast a net learns, not how well it generalises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.studies.estimate import Estimate, difference_of, mean_of
from pipeline.studies.panels.spread import spread_series
from pipeline.studies.study import Group, Outcome, Picture, Scale, Study, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import Axis, Panel, seeds_text

BASE, STANDARD, MUP = "base width", "standard", "muP"
PARAMETRISATIONS = (STANDARD, MUP)
RATES = ("0.0005", "0.001", "0.002", "0.004", "0.008", "0.016", "0.032")
LOSS = "train/loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """Training losses of one parametrisation: by width, then by seed, one at each rate."""

    rates: Sequence[float]
    losses: dict[int, list[list[float]]]

    def best_rates(self, width: int) -> list[float]:
        """Return the best rate of a width, by seed."""
        return [best_rate(self.rates, losses) for losses in self.losses[width]]


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    laptop = scale is Scale.laptop
    base, wider = (64, "256,1024") if laptop else (256, "1024,4096")
    data = "cifar10-8" if laptop else "cifar10"
    plain = (
        *("model=mlp", "model.depth=2", "model.init=lecun", f"seed={seeds}", f"optimizer.rate={','.join(RATES)}"),
        *("optimizer=adamw", "optimizer.weight_decay=0", "schedule=cosine", "augment=none", "batch.size=64"),
        *(f"trainer.max_steps={200 if laptop else 4000}", f"trainer.log_every_steps={50 if laptop else 500}"),
        *("track.layers_every_steps=null", "track.noise_scale_every_steps=null", "track.gap=false"),
        "data.check=sizes",
    )
    return [
        Group(name=BASE, data=data, options=(*plain, f"model.width={base}")),
        Group(name=STANDARD, data=data, options=(*plain, f"model.width={wider}")),
        Group(name=MUP, data=data, options=(*plain, f"model.width={wider}", f"model.base_width={base}")),
    ]


def measure(runs: StudyRuns) -> Outcome:
    swept = {kind: losses_of(runs, kind) for kind in PARAMETRISATIONS}
    widths = sorted(swept[STANDARD].losses)
    narrow, wide = widths[0], widths[-1]
    falls = {kind: factor_of(found.best_rates(narrow), found.best_rates(wide)) for kind, found in swept.items()}
    transferred = {kind: transferred_losses(found, narrow, wide) for kind, found in swept.items()}
    checks = [
        Check(
            claim=f"In the standard parametrisation the best rate falls by over 2 from {narrow} to {wide} units.",
            statistic=f"best rate at width {narrow} over that at width {wide}, standard",
            estimate=falls[STANDARD],
            above=2.0,
        ),
        Check(
            claim="In the maximal-update parametrisation it stays within a factor of 2.",
            statistic=f"best rate at width {narrow} over that at width {wide}, muP",
            estimate=falls[MUP],
            above=0.5,
            below=2.0,
        ),
        Check(
            claim="At the narrow net's best rate the wide one learns faster with muP than without.",
            statistic=f"training loss at width {wide} and the best rate of width {narrow}, standard minus muP",
            estimate=difference_of(transferred[STANDARD], transferred[MUP]),
            above=0.0,
        ),
    ]
    seeds = [run.seed for run in runs.of(BASE)]
    config = runs.of(BASE)[0].record.config
    steps = config["trainer"]["max_steps"]
    return Outcome(
        checks=checks,
        picture=Picture(
            title="The best learning rate of a wider net",
            caption=(
                f"MLPs of {config['model']['depth']} hidden layers on CIFAR-10, AdamW, {seeds_text(seeds)}; training"
                f" loss after {steps} steps, mean of the last {config['trainer']['log_every_steps']}; bars: lowest to"
                f" highest seed. Left, middle: the loss against the rate. Right: the rate of the lowest loss, of each"
                " seed by a parabola through the three points about it."
            ),
            panels=[
                *(_losses_panel(swept[kind], _title(kind, narrow)) for kind in PARAMETRISATIONS),
                _best_panel(swept, widths),
            ],
        ),
        columns=["parametrisation", "width", "best rate (mean ± sd)", "loss there", "loss at the narrow one's best"],
        rows=[_row(kind, width, swept[kind], narrow) for kind in PARAMETRISATIONS for width in widths],
        notes=_notes(swept, falls, narrow, wide),
    )


def losses_of(runs: StudyRuns, kind: str) -> Swept:
    """Return the losses of a parametrisation, those at the base width among them."""
    found: dict[int, dict[int, dict[float, float]]] = {}
    for run in [*runs.of(BASE), *runs.of(kind)]:
        config = run.record.config
        rate = float(config["optimizer"]["rate"])
        found.setdefault(int(config["model"]["width"]), {}).setdefault(run.seed, {})[rate] = run.metric(LOSS)
    rates = sorted(next(iter(next(iter(found.values())).values())))
    losses = {
        width: [[by_rate[rate] for rate in rates] for _, by_rate in sorted(by_seed.items())]
        for width, by_seed in sorted(found.items())
    }
    return Swept(rates=rates, losses=losses)


def best_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate of the lowest loss: where the parabola through the lowest point and its two neighbours is lowest.

    The parabola is of the logarithms of both. Where the lowest point is the first or the last, it is that point's rate.

    Args:
        rates: ascending.
        losses: of each rate, over 0.
    """
    lowest = lowest_index(losses)
    near = slice(lowest - 1, lowest + 2)
    if not 0 < lowest < len(rates) - 1:
        return rates[lowest]
    # A parabola through three points of which the middle one is lowest opens upwards, unless they are level.
    bend, slope, _ = np.polyfit(np.log(rates[near]) - math.log(rates[lowest]), np.log(losses[near]), 2)
    return rates[lowest] * math.exp(-slope / (2 * bend)) if bend > 0 else rates[lowest]


def lowest_index(losses: Sequence[float]) -> int:
    """Return the place of the lowest loss, of equals the first."""
    return min(range(len(losses)), key=lambda index: losses[index])


def factor_of(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Return the geometric mean over seeds of first / second, with Student's interval of its logarithm."""
    log = mean_of([math.log(a / b) for a, b in zip(first, second, strict=True)])
    return Estimate(value=math.exp(log.value), low=math.exp(log.low), high=math.exp(log.high), n=log.n)


def transferred_losses(found: Swept, narrow: int, wide: int) -> list[float]:
    """Return the losses of a width at the swept rate that was the best at another, by seed."""
    places = [lowest_index(losses) for losses in found.losses[narrow]]
    return [losses[place] for place, losses in zip(places, found.losses[wide], strict=True)]


def _title(kind: str, base: int) -> str:
    return "Standard parametrisation" if kind == STANDARD else f"Maximal-update parametrisation, base width {base}"


def _losses_panel(found: Swept, title: str) -> Panel:
    series = [
        spread_series(found.rates, list(zip(*by_seed, strict=True)), label=f"width {width}")
        for width, by_seed in found.losses.items()
    ]
    return Panel(
        x=Axis(label="learning rate", log=True), y=Axis(label="training loss"), series=series, title=title, ordered=True
    )


def _best_panel(swept: dict[str, Swept], widths: Sequence[int]) -> Panel:
    return Panel(
        x=Axis(label="width", log=True, ticks={float(width): str(width) for width in widths}),
        y=Axis(label="best learning rate", log=True),
        series=[
            spread_series(widths, [found.best_rates(width) for width in widths], label=kind, geometric=True)
            for kind, found in swept.items()
        ],
        title="Best rate",
    )


def _row(kind: str, width: int, found: Swept, narrow: int) -> list[str]:
    best = [min(losses) for losses in found.losses[width]]
    return [
        kind,
        str(width),
        spread_text(found.best_rates(width), decimals=4),
        spread_text(best, decimals=3),
        spread_text(transferred_losses(found, narrow, width), decimals=3),
    ]


def _notes(swept: dict[str, Swept], falls: dict[str, Estimate], narrow: int, wide: int) -> list[str]:
    ratio = wide / narrow
    exponents = {kind: math.log(fall.value) / math.log(ratio) for kind, fall in falls.items()}
    told = f"the best rate goes as width^{-exponents[STANDARD]:.2f} without muP, width^{-exponents[MUP]:.2f} with it."
    notes = [f"From {narrow} to {wide} units, {ratio:g} times as many, {told}"]
    edges = [
        f"{kind}, width {width}"
        for kind, found in swept.items()
        for width, by_seed in found.losses.items()
        if any(lowest_index(losses) in (0, len(losses) - 1) for losses in by_seed)
    ]
    if edges:
        notes.append(f"The best rate is at the end of the grid, and may lie beyond it: {'; '.join(edges)}.")
    return notes


STUDY = Study(
    name="width-transfer",
    title="The best learning rate and the width",
    claim="A wider net wants a smaller learning rate; in the maximal-update parametrisation it wants the same.",
    question="How does the best learning rate move with the width, in the standard parametrisation and with muP?",
    groups=groups,
    measure=measure,
    seeds={Scale.laptop: 5, Scale.gpu: 3},
)
