"""The size of a batch, from one sample to all: at equal epochs, at equal updates, and what a training loss costs.

Rates are tuned for each size and for each of the two ways to compare, with a seed of their own; the best ones are then
run with the other seeds. A second part asks the same of what the "Scaling MLPs" paper trains, a bottleneck MLP by Lion,
with rates tuned for each size and with rates held.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.studies.batch_runs import (
    EPOCHS,
    LION_RATES,
    LION_SIZES,
    LONG,
    LONG_RATES,
    RATES,
    SIZES,
    TUNING_SEED,
    UPDATES,
    follow_up,
    groups,
    tuned_rate,
)
from pipeline.studies.estimate import Estimate, difference_of, mean_of
from pipeline.studies.measures.batch_costs import Cost, best_speed, cost_to
from pipeline.studies.panels.batch_size import accuracy_panel, cost_panel, lion_panel, tuning_panel
from pipeline.studies.study import ACCURACY, Outcome, Picture, Scale, Study, StudyRun, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import seeds_text

# The training loss whose cost is told: all sizes come there, and none in its first updates.
TARGET_LOSS = 1.75


def measure(runs: StudyRuns) -> Outcome:
    whole = max(int(run.group.rsplit(", ", 1)[1]) for run in runs.runs)
    sizes = [*SIZES, whole]
    accuracy = {
        way: {size: [100 * value for value in runs.values(f"{way}, {size}", ACCURACY)] for size in sizes}
        for way in RATES
    }
    seeds = [run.seed for run in runs.of(f"{EPOCHS}, 64")]
    costs = {size: _costs(runs, size, seeds) for size in sizes}
    lion = {
        size: {rate: [100 * run.metric(ACCURACY) for run in _lion(runs, size, rate)] for rate in LION_RATES}
        for size in LION_SIZES
    }
    best_rate = {size: _best_lion_rate(runs, size) for size in LION_SIZES}
    few, equal = accuracy[EPOCHS], accuracy[UPDATES]
    checks = [
        Check(
            claim="After few epochs, with the rate tuned for each, a batch of 64 is over 5 points better than 4096.",
            statistic="accuracy at equal epochs, batch 64 minus 4096, points",
            estimate=difference_of(few[64], few[4096]),
            above=5.0,
        ),
        Check(
            claim="It is over a point better than 512, too: rarely more than 128.",
            statistic="accuracy at equal epochs, batch 64 minus 512, points",
            estimate=difference_of(few[64], few[512]),
            above=1.0,
        ),
        Check(
            claim="One sample at a time takes over 5 times as long as 64 to the same training loss.",
            statistic=f"seconds to a training loss of {TARGET_LOSS}, batch 1 over 64",
            estimate=_times_as_long(costs[1], costs[64]),
            above=5.0,
        ),
        Check(
            claim="The whole set at once takes over twice as long as 64.",
            statistic=f"seconds to a training loss of {TARGET_LOSS}, whole set over batch 64",
            estimate=_times_as_long(costs[whole], costs[64]),
            above=2.0,
        ),
        Check(
            claim="After equally many updates the larger batch is better, as each update knows more.",
            statistic="accuracy at equal updates, batch 4096 minus 64, points",
            estimate=difference_of(equal[4096], equal[64]),
            above=2.0,
        ),
        Check(
            claim="Lion at a bottleneck MLP, as in the Scaling-MLPs paper: larger is better also at equal epochs.",
            statistic="accuracy at equal epochs, batch 4096 minus 64, each at its tuned rate, points",
            estimate=difference_of(lion[4096][best_rate[4096]], lion[64][best_rate[64]]),
            above=0.0,
        ),
        Check(
            claim="After many epochs over few images the larger batch is better: it has learnt less by heart.",
            statistic="validation loss after many epochs, batch 64 minus 4096, each at its tuned rate",
            estimate=difference_of(*(runs.values(f"{LONG}, {size}", "val/loss") for size in (64, 4096))),
            above=0.0,
        ),
        Check(
            claim="Where the rate is held high instead of tuned, the larger batch is the better one.",
            statistic=f"accuracy at equal epochs, batch 512 minus 64, both at rate {LION_RATES[-1]}, points",
            estimate=difference_of(lion[512][LION_RATES[-1]], lion[64][LION_RATES[-1]]),
            above=0.0,
        ),
    ]
    epochs = runs.of(f"{EPOCHS}, 64")[0].record.config["trainer"]["max_epochs"]
    updates = runs.of(f"{UPDATES}, 64")[0].record.config["trainer"]["max_steps"]
    lion_epochs, long_epochs = (
        int(runs.of(f"{way}, 64")[0].record.config["trainer"]["max_epochs"]) for way in ("lion", LONG)
    )
    long = {size: [100 * value for value in runs.values(f"{LONG}, {size}", ACCURACY)] for size in LONG_RATES}
    caption = (
        f"{whole:,} training images of CIFAR-10, {seeds_text(seeds)}, bars: lowest to highest seed. Rates"
        f" tuned for each size on another seed. Top left: one hidden layer, SGD with momentum, after {epochs} epochs"
        f" and after {updates} updates. Top right: cost of a training loss of {TARGET_LOSS}, relative to a batch of 64."
        " Bottom left: the tuning at equal epochs. Bottom right: Lion at a bottleneck MLP,"
        f" for {lion_epochs} epochs with rates held, and for {long_epochs} epochs with rates tuned."
    )
    tuning = {size: _tuning(runs, EPOCHS, size) for size in sizes}
    return Outcome(
        checks=checks,
        picture=Picture(
            title="How large a batch?",
            caption=caption,
            panels=[
                accuracy_panel({f"{epochs} epochs": few, f"{updates} updates": equal}),
                cost_panel(costs),
                tuning_panel(tuning),
                lion_panel(lion, long, epochs=(lion_epochs, long_epochs)),
            ],
        ),
        columns=[
            *("batch", f"accuracy after {epochs} epochs, %", "rate", f"accuracy after {updates} updates, %", "rate"),
            *(f"updates to loss {TARGET_LOSS}", "samples", "seconds", "seeds"),
        ],
        rows=[_row(runs, accuracy, costs, size) for size in sizes],
        notes=_notes(runs, accuracy, sizes, costs, lion),
    )


def _costs(runs: StudyRuns, size: int, seeds: Sequence[int]) -> list[Cost]:
    """Return the cost of the target for each seed, by the run that came there first; empty if a seed never did."""
    reported = [run for way in RATES for run in runs.of(f"{way}, {size}")]
    tuning = [run for way in RATES for run in runs.of(f"tuning, {way}, {size}")]
    speed = best_speed([run.record for run in reported + tuning])
    found = []
    for seed in seeds:
        of_seed = [
            cost_to(run.record, loss=TARGET_LOSS, batch=size, images_per_s=speed)
            for run in reported
            if run.seed == seed
        ]
        known = [cost for cost in of_seed if cost is not None]
        if not known:
            return []
        found.append(min(known, key=lambda cost: cost.updates))
    return found


def _times_as_long(first: Sequence[Cost], second: Sequence[Cost]) -> Estimate:
    """Return the ratio of seconds, seed by seed; not a number where the target was not reached."""
    if not first or not second:
        return Estimate(value=math.nan, low=math.nan, high=math.nan, n=0)
    return mean_of([one.seconds / other.seconds for one, other in zip(first, second, strict=True)])


def _lion(runs: StudyRuns, size: int, rate: float) -> list[StudyRun]:
    return [run for run in runs.of(f"lion, {size}", {"optimizer.rate": str(rate)}) if run.seed != TUNING_SEED]


def _best_lion_rate(runs: StudyRuns, size: int) -> float:
    tuning = [run for run in runs.of(f"lion, {size}") if run.seed == TUNING_SEED]
    return float(max(tuning, key=lambda run: run.metric(ACCURACY)).options["optimizer.rate"])


def _tuning(runs: StudyRuns, way: str, size: int) -> dict[float, float]:
    """Return the accuracy of each rate, in percent."""
    found = runs.of(f"tuning, {way}, {size}")
    return {float(run.options["optimizer.rate"]): 100 * run.metric(ACCURACY) for run in found}


def _row(
    runs: StudyRuns,
    accuracy: Mapping[str, Mapping[int, Sequence[float]]],
    costs: Mapping[int, Sequence[Cost]],
    size: int,
) -> list[Any]:
    of_size = costs[size]
    spent = ["not reached"] * 3
    if of_size:
        updates, samples = [cost.updates for cost in of_size], [cost.samples for cost in of_size]
        seconds = spread_text([cost.seconds for cost in of_size], decimals=3)
        spent = [spread_text(updates, decimals=0), spread_text(samples, decimals=0), seconds]
    return [
        size,
        *(spread_text(accuracy[EPOCHS][size]), tuned_rate(runs, EPOCHS, size)),
        *(spread_text(accuracy[UPDATES][size]), tuned_rate(runs, UPDATES, size)),
        *spent,
        len(accuracy[EPOCHS][size]),
    ]


def _notes(
    runs: StudyRuns,
    accuracy: Mapping[str, Mapping[int, Sequence[float]]],
    sizes: Sequence[int],
    costs: Mapping[int, Sequence[Cost]],
    lion: Mapping[int, Mapping[float, Sequence[float]]],
) -> list[str]:
    near = {way: _near_the_best({size: statistics.fmean(accuracy[way][size]) for size in sizes}) for way in RATES}
    spent = {size: statistics.fmean(cost.samples for cost in found) for size, found in costs.items() if found}
    fastest = min(
        (size for size in sizes if costs[size]),
        key=lambda size: statistics.fmean(cost.seconds for cost in costs[size]),
        default=None,
    )
    frugal = [str(size) for size in spent if spent[size] <= 1.25 * min(spent.values())]
    held = ", ".join(f"{max(lion, key=lambda size: sum(lion[size][rate]))} at rate {rate}" for rate in LION_RATES)
    ends = [
        f"{size} ({way})"
        for way in RATES
        for size in sizes
        if float(tuned_rate(runs, way, size)) in (min(_tuning(runs, way, size)), max(_tuning(runs, way, size)))
    ]
    told = ", ".join(f"{_best_lion_rate(runs, size)} at {size}" for size in LION_SIZES)
    return [
        f"Within a point of the best: at equal epochs {near[EPOCHS]}; at equal updates {near[UPDATES]}.",
        f"Within a quarter of the fewest samples to a training loss of {TARGET_LOSS}: {', '.join(frugal)}."
        f" Fewest seconds on this machine: {fastest}.",
        f"Lion after {LONG}: {_long_text(runs)}.",
        f"Lion, the best batch where the rate is held: {held}.",
        f"Rates of Lion that were best on the tuning seed: {told}.",
        f"Sizes whose tuned rate is at an end of its grid: {', '.join(ends) if ends else 'none'}.",
    ]


def _long_text(runs: StudyRuns) -> str:
    """Return what each size has come to: "batch 64 at rate 0.0003 has 48.6 ± 0.4 % and a loss of 1.942 ± 0.010"."""
    return "; ".join(
        f"batch {size} at rate {tuned_rate(runs, LONG, size)} has"
        f" {spread_text(runs.values(f'{LONG}, {size}', ACCURACY), factor=100)} % and a loss of"
        f" {spread_text(runs.values(f'{LONG}, {size}', 'val/loss'), decimals=3)}"
        for size in LONG_RATES
    )


def _near_the_best(means: Mapping[int, float]) -> str:
    return ", ".join(str(size) for size, mean in means.items() if mean >= max(means.values()) - 1)


STUDY = Study(
    name="batch-size",
    title="The size of a batch",
    claim="Batches of 32 or 64 samples, rarely more than 128, are the best; for MLPs larger ones are better still.",
    question="The lecture says the first, the paper on scaling MLPs the second: when is each right?",
    groups=groups,
    follow_up=follow_up,
    measure=measure,
    seeds={Scale.laptop: 3, Scale.gpu: 5},
)
