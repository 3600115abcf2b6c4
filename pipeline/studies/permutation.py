"""A fixed shuffle of the pixels changes nothing for an MLP, as long as what knows their places comes before it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from pipeline.studies.estimate import difference_of, mean_of
from pipeline.studies.measures.first_layer import DRAWN_SIDE, neighbour_correlation, units, weights_of
from pipeline.studies.panels.levels import levels_panel
from pipeline.studies.panels.spread import spread_series
from pipeline.studies.study import ACCURACY, Group, Outcome, Picture, Scale, Study, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import Axis, Panel, seeds_text
from pipeline.trained import open_trained

PLAIN, SHUFFLED = "as it is", "shuffled"
FLIPS, FLIPS_FIRST, FLIPS_LAST = "mirrored", "mirrored, then shuffled", "shuffled, then mirrored"
# Two accuracies are taken for the same if they differ by less, in points, and for different if by more.
MARGIN = 1.5
# Of correlations, likewise.
CORRELATION_MARGIN = 0.1


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    """Give each seed a permutation of its own, but for the one data set that is stored shuffled."""
    sizes: tuple[str, ...]
    if scale is Scale.laptop:
        data, sizes = "cifar10-8", ("model.hidden=[256]", "data.train_samples=10000", "trainer.max_epochs=10")
    else:
        data, sizes = "cifar10", ("model.hidden=[2048,2048]", "trainer.max_epochs=60")
    options = (
        *("model=mlp", "optimizer=sgd", "optimizer.rate=0.05", "schedule=cosine", "batch.size=64"),
        *("model.input_shuffle_seed=null", "augment=none", *sizes),
    )
    flips = ("augment=flip_crop", "augment.flip=true", "augment.crop_padding=0")
    found = []
    for seed in seeds.split(","):
        own, shuffle = (*options, f"seed={seed}"), f"model.input_shuffle_seed={seed}"
        found += [
            Group(name=PLAIN, data=data, options=own),
            Group(name=SHUFFLED, data=data, options=(*own, shuffle)),
            Group(name=FLIPS, data=data, options=(*own, *flips)),
            Group(name=FLIPS_FIRST, data=data, options=(*own, *flips, shuffle)),
            Group(name=FLIPS_LAST, data=f"{data}-shuffled", options=(*own, *flips)),
        ]
    return found


def measure(runs: StudyRuns) -> Outcome:
    accuracies = {
        name: [100 * value for value in runs.values(name, ACCURACY)]
        for name in (PLAIN, SHUFFLED, FLIPS, FLIPS_FIRST, FLIPS_LAST)
    }
    plain, shuffled = ([weights_of(run) for run in runs.of(name)] for name in (PLAIN, SHUFFLED))
    shape = open_trained(runs.of(PLAIN)[0].record.folder).facts.image_shape
    correlations = {
        "not shuffled": [neighbour_correlation(own, shape) for own, _ in plain],
        "shuffled": [neighbour_correlation(own, shape) for own, _ in shuffled],
        "put back": [neighbour_correlation(placed, shape) for _, placed in shuffled],
    }
    checks = [
        Check(
            claim=f"Shuffled, the accuracy is the same, to {MARGIN} points.",
            statistic="accuracy with shuffled pixels minus without, points",
            estimate=difference_of(accuracies[SHUFFLED], accuracies[PLAIN]),
            above=-MARGIN,
            below=MARGIN,
        ),
        Check(
            claim=f"It is also the same, to {MARGIN} points, where half of the images are mirrored before the shuffle.",
            statistic="accuracy with mirrored, then shuffled images minus with mirrored ones, points",
            estimate=difference_of(accuracies[FLIPS_FIRST], accuracies[FLIPS]),
            above=-MARGIN,
            below=MARGIN,
        ),
        Check(
            claim=f"Mirrored after the shuffle it is worse by more than {MARGIN} points: mirroring knows places.",
            statistic="accuracy with images mirrored before the shuffle minus after it, points",
            estimate=difference_of(accuracies[FLIPS_FIRST], accuracies[FLIPS_LAST]),
            above=MARGIN,
        ),
        Check(
            claim="The net finds the same features: put back, its weights vary as smoothly over the image.",
            statistic="correlation of weights of neighbouring pixels, put back minus not shuffled",
            estimate=difference_of(correlations["put back"], correlations["not shuffled"]),
            above=-CORRELATION_MARGIN,
            below=CORRELATION_MARGIN,
        ),
        Check(
            claim="As the net has them, neighbouring weights have nothing to do with each other.",
            statistic="correlation of neighbouring weights, shuffled",
            estimate=mean_of(correlations["shuffled"]),
            above=-CORRELATION_MARGIN,
            below=CORRELATION_MARGIN,
        ),
    ]
    seeds = [run.seed for run in runs.of(PLAIN)]
    gain, loss = (
        statistics.fmean(accuracies[name]) - statistics.fmean(accuracies[other])
        for name, other in ((FLIPS_FIRST, SHUFFLED), (FLIPS_LAST, SHUFFLED))
    )
    samples = runs.of(PLAIN)[0].record.summary["data"]["train_samples"]
    caption = (
        f"MLP, {samples:,} images of CIFAR-10, {seeds_text(seeds)}, each seed with a permutation of its own"
        " (one for all where mirroring comes last: it is that of the stored images). Bars and bands: lowest to highest"
        f" seed. Weights: seed {seeds[0]}, mean of the colours, the {DRAWN_SIDE**2} units of largest norm."
    )
    scale = float(3 * np.sqrt(np.square(plain[0][1]).mean()))
    return Outcome(
        checks=checks,
        picture=Picture(
            title="An MLP does not know which pixels are neighbours",
            caption=caption,
            panels=[
                levels_panel(accuracies, Axis(label="validation accuracy", unit="%"), over="images", title="Accuracy"),
                _curves(runs),
                levels_panel(
                    correlations,
                    Axis(label="correlation of neighbouring weights", limits=(-0.1, None)),
                    over="images; put back: each weight at its pixel's place",
                    title="First layer",
                ),
                units(plain[0][0], shape, scale=scale, title="Weights, not shuffled"),
                units(shuffled[0][0], shape, scale=scale, title="Weights, shuffled, as the net has them"),
                units(shuffled[0][1], shape, scale=scale, title="The same, each at its pixel's place"),
            ],
        ),
        columns=["images", "accuracy, % (mean ± sd)", "minus as it is, points", "seeds"],
        rows=[
            [
                name,
                spread_text(found),
                f"{statistics.fmean(found) - statistics.fmean(accuracies[PLAIN]):+.2f}",
                len(found),
            ]
            for name, found in accuracies.items()
        ],
        notes=[
            f"With shuffled pixels, mirroring half of the images changes the accuracy by {gain:+.1f} points where it"
            f" comes before the shuffle, by {loss:+.1f} where it comes after.",
            *(
                f"Correlation of the first layer's weights of neighbouring pixels, {name}: "
                f"{spread_text(found, decimals=2)}."
                for name, found in correlations.items()
            ),
        ],
    )


def _curves(runs: StudyRuns) -> Panel:
    """Draw the accuracy after each epoch, mean and spread over seeds, with and without the shuffle."""
    series = []
    for name in (PLAIN, SHUFFLED):
        rows = [[100 * value for value in run.logged(ACCURACY).values()] for run in runs.of(name)]
        by_epoch = list(zip(*rows, strict=True))
        series.append(spread_series(range(1, len(by_epoch) + 1), by_epoch, label=name, markers=False))
    return Panel(
        x=Axis(label="epoch"), y=Axis(label="validation accuracy", unit="%"), series=series, title="While training"
    )


STUDY = Study(
    name="permutation",
    title="Shuffled pixels, for a multi-layer perceptron",
    claim="A fixed shuffle of the pixels changes nothing for a multi-layer perceptron.",
    question="How well does it learn from images whose pixels are all in another order, and when is it worse?",
    groups=groups,
    measure=measure,
    seeds={Scale.laptop: 5, Scale.gpu: 5},
)
