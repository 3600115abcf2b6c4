"""A mini-batch's gradient is the full gradient with noise: of mean zero, and of a variance that falls as 1/B."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.studies.estimate import mean_of, slope_of
from pipeline.studies.measures.gradient_batches import left_to_draw
from pipeline.studies.measures.gradient_run import (
    AS_TRAINED,
    CHECKPOINT_STEPS,
    INDEPENDENT,
    MOMENTS,
    NUM_DRAWS,
    Measured,
    measure_run,
)
from pipeline.studies.panels.spread import spread_series
from pipeline.studies.study import Group, Outcome, Picture, Scale, Study, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import Axis, Panel, Series, seeds_text

RUNS = "images"


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    samples, hidden = ("8192", "[8]") if scale is Scale.laptop else ("16384", "[64]")
    return [
        Group(
            name=RUNS,
            data="cifar10-8",
            options=(
                *(f"seed={seeds}", f"data.train_samples={samples}", "data.subset_seed=${seed}"),
                *("batch.size=64", "trainer.max_epochs=12"),
                *("model=mlp", f"model.hidden={hidden}", "augment=none", "schedule=constant"),
                *("optimizer=sgd", "optimizer.rate=0.05", "optimizer.momentum=0.9"),
                *(f"checkpoint.every_steps={CHECKPOINT_STEPS}", "checkpoint.keep=1000"),
                *("track.noise_scale_every_steps=1", "trainer.log_every_steps=20"),
                *("track.layers_every_steps=null", "track.gap=false"),
            ),
        )
    ]


def measure(runs: StudyRuns) -> Outcome:
    return conclude([measure_run(run) for run in runs.of(RUNS)])


def conclude(measured: Sequence[Measured]) -> Outcome:
    """Return what the runs say together."""
    num_samples = measured[0].num_samples
    independent = [run.error_shares(INDEPENDENT) for run in measured]
    as_trained = [run.error_shares(AS_TRAINED) for run in measured]
    corrected = [[share / left_to_draw(size, num_samples) for size, share in shares.items()] for shares in as_trained]
    misses = [
        max(
            abs(errors.cosine - moment.exact.cosine(left_to_draw(size, num_samples) / size))
            for moment in run.moments.values()
            for size, errors in moment.drawn[AS_TRAINED].items()
        )
        for run in measured
    ]
    checks = [
        Check(
            claim="The squared error of batches of independent samples falls as 1/B, from one sample to N.",
            statistic="slope of the squared error over B, log-log, independent draws",
            estimate=slope_of([*independent[0]], [[*shares.values()] for shares in independent], log=True),
            above=-1.1,
            below=-0.9,
        ),
        Check(
            claim="So does that of the batches that training draws, once corrected for the samples that are left.",
            statistic="the same as an epoch draws them, over (N - B)/(N - 1)",
            estimate=slope_of([*as_trained[0]], corrected, log=True),
            above=-1.1,
            below=-0.9,
        ),
        Check(
            claim="The error's mean is zero: as many parameters fail a test of it as do by chance.",
            statistic="share of the parameters whose mean error is over 1.96 standard errors from 0, %",
            estimate=mean_of([100 * run.beyond_frac() for run in measured]),
            above=3.0,
            below=7.0,
        ),
        Check(
            claim="The cosine with the full gradient follows from the noise scale: 1/sqrt(1 + noise scale/B).",
            statistic="largest distance of a mean cosine from that",
            estimate=mean_of(misses),
            below=0.1,
        ),
        Check(
            claim="The noise scale that a run tells of itself is the true one.",
            statistic="the run's last noise scale over the exact one",
            estimate=mean_of([run.own_to_exact() for run in measured]),
            above=0.8,
            below=1.25,
        ),
    ]
    return Outcome(
        checks=checks,
        picture=picture_of(measured),
        columns=[
            "weights",
            "noise scale, images (mean ± sd)",
            *(f"cosine, B = {size}" for size in as_trained[0]),
            "seeds",
        ],
        rows=[
            [
                name,
                spread_text([run.moments[name].exact.images for run in measured], decimals=0),
                *(
                    spread_text([run.moments[name].drawn[AS_TRAINED][size].cosine for run in measured], decimals=3)
                    for size in as_trained[0]
                ),
                len(measured),
            ]
            for name in MOMENTS
        ],
        notes=[
            f"All {num_samples:,} training samples and {NUM_DRAWS} batches of each size, at three moments of each run.",
            "As an epoch draws them: without replacement, so that the error of all N samples is 0 and not"
            " tr(Sigma)/N. The exact noise scale beside the run's is that of the population that the samples were"
            " taken from, as the run takes its batches for independent draws.",
        ],
    )


def picture_of(measured: Sequence[Measured]) -> Picture:
    first, seeds = measured[0], [run.seed for run in measured]
    caption = (
        f"Left: squared error of a batch's gradient, mean of three moments of training; lines: 1/B and, of batches"
        f" without replacement, (1/B)(N - B)/(N - 1) with N = {first.num_samples:,}. Middle: mean cosine with the"
        f" gradient of all samples; lines: 1/sqrt(1 + noise scale x error on the left). {NUM_DRAWS} batches of each"
        f" size, {seeds_text(seeds)}, bars: lowest to highest seed. Right: noise scale along the run of seed"
        f" {first.seed}, band: of 95 %; exact: from the gradients of all samples, averaged over the same quarter of the"
        " run as the run's own; faint: at one step alone."
    )
    return Picture(
        title="One batch is a noisy gradient",
        caption=caption,
        panels=[_errors(measured), _cosines(measured), _scales(first)],
    )


def _errors(measured: Sequence[Measured]) -> Panel:
    num_samples = measured[0].num_samples
    lines, points = [], []
    for number, way in enumerate((INDEPENDENT, AS_TRAINED)):
        shares = [run.error_shares(way) for run in measured]
        sizes = [*shares[0]]
        law = [(left_to_draw(size, num_samples) if way == AS_TRAINED else 1.0) / size for size in sizes]
        lines.append(Series(x=sizes, y=law, markers=False, faint=True, colour=number))
        columns = [*zip(*(row.values() for row in shares), strict=True)]
        points.append(spread_series(sizes, columns, label=way, line=False, colour=number))
    return Panel(
        x=Axis(label="batch size B", unit="samples", log=True),
        y=Axis(label="squared error over one sample's variance", log=True),
        series=[*points, *lines],
        title="Error of the gradient",
    )


def _cosines(measured: Sequence[Measured]) -> Panel:
    num_samples = measured[0].num_samples
    points, lines = [], []
    for number, name in enumerate(MOMENTS):
        drawn = [run.moments[name].drawn[AS_TRAINED] for run in measured]
        sizes = [*drawn[0]]
        law = [
            sum(run.moments[name].exact.cosine(left_to_draw(size, num_samples) / size) for run in measured)
            / len(measured)
            for size in sizes
        ]
        cosines = [[row[size].cosine for row in drawn] for size in sizes]
        points.append(spread_series(sizes, cosines, label=f"{name} of training", line=False, colour=number))
        lines.append(Series(x=sizes, y=law, markers=False, faint=True, colour=number))
    return Panel(
        x=Axis(label="batch size B", unit="samples", log=True),
        y=Axis(label="cosine with the full gradient", limits=(0.0, 1.0)),
        series=[*points, *lines],
        title="Direction of the gradient",
    )


def _scales(run: Measured) -> Panel:
    told = [number for number, value in enumerate(run.scales) if value is not None]
    later = [step for step in run.exact if step > 0]
    return Panel(
        x=Axis(label="step"),
        y=Axis(label="noise scale", unit="samples", log=True),
        series=[
            Series(
                x=[run.steps[number] for number in told],
                y=[run.scales[number] or 0.0 for number in told],
                low=[run.low[number] or 0.0 for number in told],
                high=[run.high[number] or float("nan") for number in told],
                label="measured by the run",
                markers=False,
            ),
            Series(x=later, y=[run.window_scale(step) for step in later], label="exact", markers=False),
            Series(x=later, y=[run.exact[step].images for step in later], markers=False, faint=True, colour=1),
        ],
        title="Noise scale",
    )


STUDY = Study(
    name="gradient-noise",
    title="One batch is a noisy gradient",
    claim="A mini-batch's gradient is the full gradient plus noise of mean zero whose variance falls as 1/B.",
    question="How far is one batch's gradient from that of all samples, and does a run know its own noise?",
    groups=groups,
    measure=measure,
    seeds={Scale.laptop: 5, Scale.gpu: 10},
)
