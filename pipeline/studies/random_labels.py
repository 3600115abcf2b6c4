"""A network fits labels that say nothing: true and random labels of the same images, learnt by the same network.

After Zhang, Bengio, Hardt, Recht, Vinyals 2017, "Understanding deep learning requires rethinking generalization" (arXiv
1611.03530). Each seed has its own images, its own noise and its own initial weights.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pipeline.studies.estimate import difference_of, mean_of
from pipeline.studies.panels.spread import spread_series
from pipeline.studies.study import ACCURACY, Group, Outcome, Picture, Scale, Study, StudyRun, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import Axis, Mark, Panel, seeds_text

GROUP, SHARE = "cifar10", "data.label_noise"
SHARES = ("0", "0.25", "0.5", "0.75", "1")
TRUE, RANDOM = SHARES[0], SHARES[-1]
FITTED, NEW = "gap/train_top1_frac", ACCURACY
CHANCE = 10.0
# Of the labels of an epoch, while it is trained on: by then a network is well on its way to all of them.
MOSTLY_FRAC = 0.95


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    plain = (
        *(f"seed={seeds}", "data.subset_seed=${seed}", "data.label_noise_seed=${seed}", f"{SHARE}={','.join(SHARES)}"),
        *("model=mlp", "augment=none", "optimizer=adamw", "optimizer.weight_decay=0", "optimizer.rate=0.001"),
        *("track.layers_every_steps=null", "track.noise_scale_every_steps=null", "checkpoint.keep=1"),
    )
    size: tuple[str, ...]
    if scale is Scale.laptop:
        size = (
            *("data.train_samples=2048", "model.hidden=[512,512]", "batch.size=64", "trainer.max_epochs=50"),
            *("trainer.log_every_steps=32", "evaluation.every_epochs=50"),
        )
        return [Group(name=GROUP, data="cifar10-8", options=(*plain, *size))]
    size = (
        *("model.hidden=[2048,2048,2048]", "batch.size=250", "trainer.max_epochs=200"),
        *("trainer.log_every_steps=200", "evaluation.every_epochs=20"),
    )
    return [Group(name=GROUP, data="cifar10", options=(*plain, *size))]


def measure(runs: StudyRuns) -> Outcome:
    fitted, new = ({share: _percents(runs, metric, share) for share in SHARES} for metric in (FITTED, NEW))
    checks = [
        Check(
            claim="The network gives random labels back.",
            statistic="random labels that the trained network gives back, %",
            estimate=mean_of(fitted[RANDOM]),
            above=99.0,
        ),
        Check(
            claim="It gives the true labels back as well.",
            statistic="true labels that the trained network gives back, %",
            estimate=mean_of(fitted[TRUE]),
            above=99.0,
        ),
        Check(
            claim=f"What it learnt from random labels says nothing about new images: chance is {CHANCE:g} %.",
            statistic="accuracy on new images after random labels, %",
            estimate=mean_of(new[RANDOM]),
            above=CHANCE - 1.5,
            below=CHANCE + 1.5,
        ),
        Check(
            claim="What it learnt from true labels does.",
            statistic="accuracy on new images after true labels minus after random ones, points",
            estimate=difference_of(new[TRUE], new[RANDOM]),
            above=10.0,
        ),
    ]
    first = runs.of(GROUP, {SHARE: TRUE})
    epochs = {share: [_epochs_until_mostly(run) for run in runs.of(GROUP, {SHARE: share})] for share in SHARES}
    rows = [
        [
            f"{100 * float(share):g} %",
            spread_text(fitted[share]),
            spread_text(new[share]),
            _epochs_text(epochs[share]),
            len(fitted[share]),
        ]
        for share in SHARES
    ]
    samples, parameters = first[0].record.summary["data"]["train_samples"], first[0].metric("parameters")
    caption = (
        f"{samples:,} images of CIFAR-10, a network of {parameters:,.0f} parameters."
        f" {seeds_text([run.seed for run in first])}, each with its own images, random labels and initial weights; bars"
        " and bands: lowest to highest seed. Left: accuracy on the training images, by the labels that were trained on,"
        " and on the 10,000 test images. Right: mean training loss of each epoch."
    )
    return Outcome(
        checks=checks,
        picture=Picture(
            title="The same network, the same images: true labels and random ones",
            caption=caption,
            panels=[_accuracies(fitted, new), _losses(runs)],
        ),
        columns=[
            "random labels",
            "training labels given back, %",
            "accuracy on new images, %",
            f"epochs until {100 * MOSTLY_FRAC:g} % are given back",
            "seeds",
        ],
        rows=rows,
        notes=[_note(epochs)],
    )


def _percents(runs: StudyRuns, metric: str, share: str) -> list[float]:
    return [100 * value for value in runs.values(GROUP, metric, {SHARE: share})]


def _epochs_until_mostly(run: StudyRun) -> float | None:
    """Return the first epoch in which most of the training labels were given back; None: there was none."""
    return next((epoch for epoch, value in _by_epoch(run, "train/top1_frac") if value >= MOSTLY_FRAC), None)


def _by_epoch(run: StudyRun, metric: str) -> list[tuple[float, float]]:
    """Return (epochs trained, value) of what is logged along with training."""
    epochs = run.logged("epoch")
    return [(epochs[step], value) for step, value in run.logged(metric).items() if step in epochs]


def _epochs_text(epochs: Sequence[float | None]) -> str:
    reached = [epoch for epoch in epochs if epoch is not None]
    if not reached:
        return "not reached"
    missing = len(epochs) - len(reached)
    return spread_text(reached) + (f", {missing} not reached" if missing else "")


def _note(epochs: dict[str, list[float | None]]) -> str:
    """Say how much longer random labels take."""
    pairs = [
        (random, true)
        for random, true in zip(epochs[RANDOM], epochs[TRUE], strict=True)
        if random is not None and true is not None
    ]
    if not pairs:
        return "Random labels were not learnt within the epochs that there were."
    times = statistics.fmean(random / true for random, true in pairs)
    mostly = f"{100 * MOSTLY_FRAC:g} % were given back"
    return f"Random labels took {times:.1f} times as many epochs as true ones until {mostly}."


def _accuracies(fitted: dict[str, list[float]], new: dict[str, list[float]]) -> Panel:
    shares = [100 * float(share) for share in SHARES]
    return Panel(
        x=Axis(label="training labels replaced by random ones", unit="%"),
        y=Axis(label="accuracy", unit="%", limits=(0, 105)),
        series=[
            spread_series(shares, [found[share] for share in SHARES], label=label)
            for label, found in (("training images, labels as given", fitted), ("new images, true labels", new))
        ],
        marks=[Mark(y=CHANCE, label="chance")],
        title="What is learnt by heart, and what is understood",
    )


def _losses(runs: StudyRuns) -> Panel:
    series = []
    for share in SHARES:
        curves = [_by_epoch(run, "train/loss") for run in runs.of(GROUP, {SHARE: share})]
        epochs = [epoch for epoch, _ in curves[0]]
        losses = [[value for _, value in points] for points in zip(*curves, strict=True)]
        series.append(spread_series(epochs, losses, label=f"{100 * float(share):g} % random", markers=False))
    return Panel(
        x=Axis(label="epoch"),
        y=Axis(label="training loss", unit="nats", limits=(0, None)),
        series=series,
        title="Random labels take longer",
        ordered=True,
    )


STUDY = Study(
    name="random-labels",
    title="Random labels are learnt by heart",
    claim="The network that learns the true labels learns random ones too, and then predicts nothing.",
    question="If the same network can fit anything, what does its capacity explain of how well it generalises?",
    groups=groups,
    measure=measure,
    seeds={Scale.laptop: 5, Scale.gpu: 5},
)
