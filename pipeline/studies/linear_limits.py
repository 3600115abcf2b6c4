"""Linear classifiers are limited: against one hidden layer, on rings that no line separates, and on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.studies.estimate import difference_of, mean_of
from pipeline.studies.panels.levels import levels_panel
from pipeline.studies.panels.plane import boundary
from pipeline.studies.study import ACCURACY, Group, Outcome, Picture, Scale, Study, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import Axis, seeds_text

LINEAR, HIDDEN = "logistic_regression", "mlp"


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    epochs, hidden = ("6", "[512]") if scale is Scale.laptop else ("100", "[4096]")
    plain = (f"seed={seeds}", "optimizer=sgd", "augment=none", "batch.size=64")
    rings = (*plain, "schedule=constant", "optimizer.rate=0.1", "trainer.max_epochs=40")
    images = (*plain, "schedule=cosine", f"trainer.max_epochs={epochs}")
    return [
        Group(
            name="rings, linear",
            data="rings",
            options=(f"model={LINEAR}", *rings),
        ),
        Group(
            name="rings, hidden",
            data="rings",
            options=(f"model={HIDDEN}", "model.hidden=[32]", *rings),
        ),
        Group(
            name="cifar10, linear",
            data="cifar10",
            options=(f"model={LINEAR}", *images, "optimizer.rate=0.001"),
        ),
        Group(
            name="cifar10, hidden",
            data="cifar10",
            options=(f"model={HIDDEN}", f"model.hidden={hidden}", *images, "optimizer.rate=0.01"),
        ),
    ]


def measure(runs: StudyRuns) -> Outcome:
    values = {
        (data, kind): [100 * value for value in runs.values(f"{data}, {kind}", ACCURACY)]
        for data in ("rings", "cifar10")
        for kind in ("linear", "hidden")
    }
    seeds = [run.seed for run in runs.of("cifar10, hidden")]
    checks = [
        Check(
            claim="On CIFAR-10 one hidden layer is better than a linear classifier by more than 5 points.",
            statistic="accuracy with one hidden layer minus linear, CIFAR-10, points",
            estimate=difference_of(values["cifar10", "hidden"], values["cifar10", "linear"]),
            above=5.0,
        ),
        Check(
            claim="A linear classifier is wrong about at least a fifth of the points on two rings.",
            statistic="accuracy of the linear classifier, rings, %",
            estimate=mean_of(values["rings", "linear"]),
            below=80.0,
        ),
        Check(
            claim="One hidden layer separates the rings.",
            statistic="accuracy with one hidden layer, rings, %",
            estimate=mean_of(values["rings", "hidden"]),
            above=95.0,
        ),
    ]
    rows = [
        [data, kind, spread_text(found), f"{runs.of(f'{data}, {kind}')[0].metric('parameters'):,.0f}", len(found)]
        for (data, kind), found in values.items()
    ]
    caption = (
        f"Left and middle: what a model of seed {seeds[0]} says of each point of the plane."
        f" Right: accuracy on CIFAR-10's test images, {seeds_text(seeds)}, bars: lowest to highest seed."
    )
    return Outcome(
        checks=checks,
        picture=Picture(
            title="What a linear classifier cannot do",
            caption=caption,
            panels=[
                boundary(runs.of("rings, linear")[0], title="Linear"),
                boundary(runs.of("rings, hidden")[0], title="One hidden layer of 32 units"),
                levels_panel(
                    {"linear": values["cifar10", "linear"], "one hidden layer": values["cifar10", "hidden"]},
                    Axis(label="accuracy", unit="%"),
                    over="model",
                    title="CIFAR-10",
                ),
            ],
        ),
        columns=["data", "model", "accuracy, % (mean ± sd)", "parameters", "seeds"],
        rows=rows,
    )


STUDY = Study(
    name="linear-limits",
    title="Linear classifiers are limited",
    claim="A linear classifier cannot separate what one hidden layer can.",
    question="How much does one hidden layer add, where no line separates the classes and on real images?",
    groups=groups,
    measure=measure,
    seeds={Scale.laptop: 3, Scale.gpu: 5},
)
