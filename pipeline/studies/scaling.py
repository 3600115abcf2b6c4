"""Loss falls with compute as a power law: the bottleneck family over width, depth and data, on CIFAR-10 at 8x8 pixels.

Each model trains at a constant rate, with a moving average of its weights evaluated after each epoch, so one run gives
a whole curve of loss against compute. The rate is that of one width, carried to the others by maximal-update
parametrisation. Compute is what training multiplies and adds, forwards and backwards, for each sample seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.shards.errors import UserError
from pipeline.studies.estimate import Estimate, bootstrap_of, difference_of, mean_of
from pipeline.studies.measures.power_law import MIN_POINTS, Curve, Floats, Losses, common_grid
from pipeline.studies.panels.scaling import PAPER_EXPONENT, best_panel, compute_panel, data_panel, size_panel
from pipeline.studies.study import Group, Outcome, Picture, Scale, Study, StudyRun, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import seeds_text

LOSS = "val/loss"
# Epochs of each width: so many that at equal compute there are several sizes, and the best of them is in the middle.
EPOCHS: Mapping[Scale, Mapping[int, int]] = {
    Scale.laptop: {12: 12, 16: 18, 24: 20, 32: 20, 48: 15, 64: 9, 96: 4},
    Scale.gpu: {32: 64, 48: 64, 64: 64, 96: 64, 128: 64, 192: 64, 256: 64, 384: 48, 512: 48, 768: 32, 1024: 24},
}
DEEPER: Mapping[Scale, Mapping[int, int]] = {
    Scale.laptop: {16: 10, 32: 10},
    Scale.gpu: {64: 64, 128: 64, 256: 48, 512: 48},
}
# Fewer samples, with epochs in which the loss has its minimum, and the widths that are trained on them.
FEWER: Mapping[Scale, Mapping[int, int]] = {
    Scale.laptop: {3125: 24, 12500: 12},
    Scale.gpu: {3125: 64, 12500: 48, 25000: 48},
}
FEWER_WIDTHS: Mapping[Scale, Sequence[int]] = {Scale.laptop: (16, 32, 64), Scale.gpu: (64, 256, 1024)}
NUM_COMPUTES = 24


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    plain = (
        *(f"seed={seeds}", "model=bottleneck_mlp", "model.base_width=32", "optimizer=adamw", "optimizer.rate=0.01"),
        *("schedule=constant", "ema.decay=0.97", "batch.size=512", "trainer.log_every_steps=1000"),
        *("augment=flip_crop", "augment.crop_padding=0", "track.gap=false", "track.layers_every_steps=null"),
        *("track.noise_scale_every_steps=null", "checkpoint.every_steps=1000000"),
    )
    found = [
        Group(
            name=f"depth {depth}",
            data="cifar10-8",
            options=(*plain, f"model.depth={depth}", f"model.width={width}", f"trainer.max_epochs={epochs}"),
        )
        for depth, several in ((1, EPOCHS[scale]), (2, DEEPER[scale]))
        for width, epochs in several.items()
    ]
    chosen = ",".join(map(str, FEWER_WIDTHS[scale]))
    return found + [
        Group(
            name="fewer samples",
            data="cifar10-8",
            options=(
                *(*plain, "model.depth=1", f"model.width={chosen}"),
                *(f"data.train_samples={samples}", f"trainer.max_epochs={number}"),
            ),
        )
        for samples, number in FEWER[scale].items()
    ]


def measure(runs: StudyRuns) -> Outcome:
    """Return what the runs say.

    Raises:
        UserError: there are too few values of compute at which the best size is known.
    """
    shallow = runs.of("depth 1")
    seeds = sorted({run.seed for run in shallow})
    curves = [curve_of(run) for run in shallow]
    compute = common_grid(curves, num=NUM_COMPUTES)
    table = Losses.of(curves, compute=compute)
    if (known := np.isfinite(table.best_losses()).sum()) < MIN_POINTS:
        raise UserError(
            f"{shallow[0].record.folder.parent}: the best size is known at {known} values of compute, and a law wants"
            f" {MIN_POINTS}; train for more epochs"
        )
    rows = [(curve.parameters, curve.at(compute)) for curve in curves]
    exponent = bootstrap_of(rows, lambda drawn: Losses.of_rows(drawn, compute=compute).size_exponent(), seed=0)
    law = table.law()
    of_loss = bootstrap_of(rows, lambda drawn: _loss_exponent(Losses.of_rows(drawn, compute=compute)), seed=1)
    lowest = _lowest(runs)
    checks = [
        Check(
            claim="The best number of parameters grows with compute as in the paper, whose exponent is 0.35.",
            statistic="exponent of the compute-optimal parameters",
            estimate=exponent,
            above=PAPER_EXPONENT - 0.1,
            below=PAPER_EXPONENT + 0.1,
        ),
        Check(
            claim="Of more compute, samples get more than parameters do.",
            statistic="exponent of the compute-optimal parameters",
            estimate=exponent,
            below=0.5,
        ),
        Check(
            claim="A law fitted up to a quarter of the compute tells the loss at all of it within 3 %.",
            statistic="loss that is predicted over loss that is measured, at the most compute",
            estimate=mean_of([_predicted_over_measured(_of_seed(shallow, seed, compute)) for seed in seeds]),
            above=0.97,
            below=1.03,
        ),
        Check(
            claim="Width pays where there is data: a wide model gains more over a narrow one with all samples.",
            statistic="gain in validation loss by width with all samples, minus that with the fewest",
            estimate=_gain_by_data(lowest),
            above=0.0,
        ),
    ]
    notes = [
        f"Law of the best sizes: loss = {law.floor:.3f} + {law.scale:.4g} * FLOP^-{law.exponent:.3f};"
        f" 95 % of its exponent on runs drawn anew: {of_loss.low:.3f} to {of_loss.high:.3f}.",
        f"Parameters ~ compute^{exponent.value:.2f}, so samples seen ~ compute^{1 - exponent.value:.2f};"
        f" the paper has 0.35 and 0.65.",
        _depth_note(runs, table),
        "Bands are of 1,000 draws of runs with replacement, each drawn run with its whole curve.",
    ]
    caption = (
        f"Residual bottleneck MLPs on CIFAR-10, {seeds_text(seeds)}; lines are means over seeds, bars the"
        " lowest to the highest seed. Top left: each size while it trains, and the law of the lowest losses, fitted"
        " where the best size is known. Top right: sizes at equal compute. Bottom left: the best of these, wherever it"
        " has a larger and a smaller neighbour. Bottom right: the lowest validation loss of a run."
    )
    picture = Picture(
        title="Loss, compute, size and data of the bottleneck family",
        caption=caption,
        panels=[
            compute_panel(table, law),
            size_panel(table),
            best_panel(table, [_of_seed(shallow, seed, compute) for seed in seeds], exponent),
            data_panel(lowest),
        ],
    )
    columns = ["depth", "width", "parameters", "samples", "epochs", "FLOP", "lowest validation loss (mean ± sd)", "n"]
    return Outcome(checks=checks, picture=picture, columns=columns, rows=_rows(runs), notes=notes)


def curve_of(run: StudyRun) -> Curve:
    """Return the validation loss of a run against the FLOP that it had spent."""
    flop_per_sample = run.metric("rate/flops_per_s") / run.metric("rate/images_per_s")
    samples_per_step = int(run.record.config["batch"]["size"])
    losses = run.logged(LOSS)
    return Curve(
        parameters=run.metric("parameters"),
        # Rounded, so that runs with other seeds have the very same: a rate is measured, its quotient not exact.
        compute=[float(f"{step * samples_per_step * flop_per_sample:.6g}") for step in losses],
        loss=list(losses.values()),
    )


def _loss_exponent(table: Losses) -> float:
    """Return the law's exponent; nan where the runs that were drawn have too few sizes for it."""
    return table.law().exponent if np.isfinite(table.best_losses()).sum() >= MIN_POINTS else math.nan


def _of_seed(runs: Sequence[StudyRun], seed: int, compute: Floats) -> Losses:
    return Losses.of([curve_of(run) for run in runs if run.seed == seed], compute=compute)


def _predicted_over_measured(table: Losses) -> float:
    """Return how well a law of the cheaper runs tells the loss of the dearest best size; nan without enough of them."""
    losses = table.best_losses()
    known = np.flatnonzero(np.isfinite(losses))
    most = float(table.compute_C[known[-1]]) if len(known) else 0.0
    if (table.compute_C[known] <= most / 4).sum() < MIN_POINTS:
        return math.nan
    return table.law(most_compute=most / 4).at(most) / float(losses[known[-1]])


def _lowest(runs: StudyRuns) -> dict[tuple[int, int], dict[int, float]]:
    """Return of (samples, width) the lowest validation loss of each seed."""
    found: dict[tuple[int, int], dict[int, float]] = {}
    for run in [*runs.of("depth 1"), *runs.of("fewer samples")]:
        found.setdefault((_samples(run), _width(run)), {})[run.seed] = min(curve_of(run).loss)
    return found


def _gain_by_data(lowest: Mapping[tuple[int, int], Mapping[int, float]]) -> Estimate:
    few, many = min(samples for samples, _ in lowest), max(samples for samples, _ in lowest)
    widths = sorted(width for samples, width in lowest if samples == few)
    narrow, wide = widths[0], widths[-1]
    seeds = sorted(lowest[few, narrow])
    gains = {
        samples: [lowest[samples, narrow][seed] - lowest[samples, wide][seed] for seed in seeds]
        for samples in (few, many)
    }
    return difference_of(gains[many], gains[few])


def _samples(run: StudyRun) -> int:
    return int(run.record.config["data"]["train_samples"] or run.record.summary["data"]["train_samples"])


def _width(run: StudyRun) -> int:
    return int(run.record.config["model"]["width"])


def _depth_note(runs: StudyRuns, table: Losses) -> str:
    """Say what a second block gives at equal compute, against the best that one block reaches there."""
    deeper = Losses.of([curve_of(run) for run in runs.of("depth 2")], compute=table.compute_C)
    lowest = np.where(np.isnan(deeper.losses_SC), np.inf, deeper.losses_SC).min(axis=0) - table.best_losses()
    known = lowest[np.isfinite(lowest)]
    if not len(known):
        return "Two blocks were nowhere trained with the same compute as the best of one block."
    return (
        f"Two blocks against the best of one block at the same compute: {known.mean():+.3f} in loss on average over"
        f" {len(known)} values of compute ({known.min():+.3f} to {known.max():+.3f})."
    )


def _rows(runs: StudyRuns) -> list[list[Any]]:
    found: dict[tuple[int, int, int], list[StudyRun]] = {}
    for run in runs.runs:
        found.setdefault((int(run.record.config["model"]["depth"]), _width(run), -_samples(run)), []).append(run)
    return [
        [
            *(depth, width, f"{same[0].metric('parameters'):,.0f}", f"{-samples:,}"),
            *(same[0].record.config["trainer"]["max_epochs"], f"{curve_of(same[0]).compute[-1]:.2g}"),
            *(spread_text([min(curve_of(run).loss) for run in same], decimals=3), len(same)),
        ]
        for (depth, width, samples), same in sorted(found.items())
    ]


STUDY = Study(
    name="scaling",
    title="Scaling: loss against compute",
    claim="Loss falls with compute by a law, and the best number of parameters grows as compute^0.35.",
    question="How are compute, size and data of a multi-layer perceptron to be weighed against each other?",
    groups=groups,
    measure=measure,
    seeds={Scale.laptop: 3, Scale.gpu: 5},
)
