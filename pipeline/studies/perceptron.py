"""A unit with a threshold and one with a sigmoid: where the first stops learning, and that the second is regression."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pipeline.shards.errors import UserError
from pipeline.studies.estimate import mean_of
from pipeline.studies.measures.linear_units import distance_by_epoch, mistakes_bound, mistakes_by_epoch, unit_of
from pipeline.studies.measures.models_along import models_along, training_samples
from pipeline.studies.panels.plane import PLANE, shares_over_plane
from pipeline.studies.panels.spread import spread_series
from pipeline.studies.study import ACCURACY, Group, Outcome, Picture, Scale, Study, StudyRun, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import Axis, Field, Mark, Panel, Series, seeds_text
from pipeline.trained import Trained, open_trained

# A plane separates any labels of up to 65 images of 64 pixels (Cover 1965); the fewer, the sooner it is found.
POINTS_APART, FEW_IMAGES = "points apart", "20 images"
POINTS_MIXED, MANY_IMAGES = "points mixed", "1,000 images"
SEPARABLE, INSEPARABLE = (POINTS_APART, FEW_IMAGES), (POINTS_MIXED, MANY_IMAGES)
POINTS_SIGMOID, SIGMOID = "points mixed, sigmoid", "all images, sigmoid"
WEIGHT_DECAY = 0.1
# Of the solved weights' length: the sigmoid unit is to end no further from them.
NEAR = 1e-3


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    epochs = 20 if scale is Scale.laptop else 200
    quiet = ("track.layers_every_steps=null", "track.noise_scale_every_steps=null", "track.gap=false")
    plain = (f"seed={seeds}", "augment=none", "optimizer=sgd", *quiet)
    # Rosenblatt's rule: one sample at a time, a step of the sample itself. The rows tell the mistakes of each epoch.
    rule = (*plain, "model=perceptron", "batch.size=1", "optimizer.rate=1", "optimizer.momentum=0", "schedule=constant")

    def threshold(name: str, data: str, samples: int, num_epochs: int) -> Group:
        part = (f"data.train_samples={samples}", "data.subset_seed=${seed}", f"trainer.log_every_steps={samples}")
        return Group(name=name, data=data, options=(*rule, *part, f"trainer.max_epochs={num_epochs}"))

    sigmoid = (*plain, "model=logistic_regression")
    return [
        threshold(POINTS_APART, "points-apart", 200, epochs),
        threshold(POINTS_MIXED, "points-mixed", 200, epochs),
        threshold(FEW_IMAGES, "pair-8", 20, 2 * epochs),
        threshold(MANY_IMAGES, "pair-8", 1000, epochs // 2),
        Group(
            name=POINTS_SIGMOID,
            data="points-mixed",
            options=(
                *(*sigmoid, "data.train_samples=200", "data.subset_seed=${seed}", "batch.size=20"),
                *("optimizer.rate=0.1", "schedule=cosine", "trainer.max_epochs=20"),
            ),
        ),
        Group(
            name=SIGMOID,
            data="pair-8",
            options=(
                *(*sigmoid, "batch.size=500", "optimizer.rate=0.1", f"optimizer.weight_decay={WEIGHT_DECAY}"),
                *("schedule=exponential", "schedule.final_frac=0.0005", "checkpoint.keep=1000"),
                f"trainer.max_epochs={5 * epochs}",
            ),
        ),
    ]


def measure(runs: StudyRuns) -> Outcome:
    mistakes = {name: [mistakes_by_epoch(run) for run in runs.of(name)] for name in (*SEPARABLE, *INSEPARABLE)}
    bounds = {name: [_bound(run) for run in runs.of(name)] for name in SEPARABLE}
    distances = [distance_by_epoch(run) for run in runs.of(SIGMOID)]
    seeds = [run.seed for run in runs.of(SIGMOID)]
    by_seed = range(len(seeds))
    checks = [
        Check(
            claim="The sigmoid unit that SGD trains has the weights of logistic regression solved to convergence.",
            statistic="length of the difference of the weights over that of the solved ones",
            estimate=mean_of([distance[-1] for distance in distances]),
            below=NEAR,
        ),
        Check(
            claim="Where a line separates the classes, the threshold unit makes no more mistakes at the end.",
            statistic="mistakes in the last epoch, sets that are separable",
            estimate=mean_of([float(sum(mistakes[name][seed][-1] for name in SEPARABLE)) for seed in by_seed]),
            below=0.5,
        ),
        Check(
            claim="Until then it makes no more of them than Novikoff's bound allows.",
            statistic="mistakes in all epochs over the bound, the larger of the separable sets'",
            estimate=mean_of(
                [max(sum(mistakes[name][seed]) / bounds[name][seed] for name in SEPARABLE) for seed in by_seed]
            ),
            below=1.0,
        ),
        Check(
            claim="Where none does, it goes on making mistakes.",
            statistic="mistakes in the last epoch, % of the samples, the smaller of the inseparable sets'",
            estimate=mean_of(
                [
                    min(100 * mistakes[name][seed][-1] / _num_samples(runs.of(name)[seed]) for name in INSEPARABLE)
                    for seed in by_seed
                ]
            ),
            above=1.0,
        ),
    ]
    caption = (
        f"Left: 200 points that no line separates, the share that the sigmoid unit gives to the upper class, and where"
        f" both units change sides, seed {seeds[0]}. Middle: mistakes of the threshold unit so far, with Novikoff's"
        " bounds for the sets that a plane separates; the others have none. Right: weights of a sigmoid unit,"
        " trained by SGD on 10,000 images of two classes, against logistic regression solved by Newton's method."
        f" {seeds_text(seeds)}, bars and band: lowest to highest seed."
    )
    return Outcome(
        checks=checks,
        picture=Picture(
            title="A unit with a threshold, and a unit with a sigmoid",
            caption=caption,
            panels=[
                _plane(runs.of(POINTS_SIGMOID)[0], runs.of(POINTS_MIXED)[0]),
                _mistakes(mistakes, bounds),
                _distances(distances),
            ],
        ),
        columns=["data", "unit", "mistakes in all", "in the last epoch", "bound", "validation accuracy, %", "seeds"],
        rows=[
            *(
                [
                    *(name, "threshold", spread_text([float(sum(row)) for row in rows], decimals=0)),
                    spread_text([float(row[-1]) for row in rows]),
                    spread_text(bounds[name], decimals=0) if name in bounds else "none",
                    *(spread_text(runs.values(name, ACCURACY), factor=100), len(rows)),
                ]
                for name, rows in mistakes.items()
            ),
            *(
                [
                    *(name.split(", ")[0], "sigmoid", "", "", ""),
                    *(spread_text(runs.values(name, ACCURACY), factor=100), len(seeds)),
                ]
                for name in (POINTS_SIGMOID, SIGMOID)
            ),
        ],
        notes=[
            "A softmax of two outputs is a sigmoid of their difference, so the unit's weights are the difference of the"
            f" two rows. Weight decay {WEIGHT_DECAY} of both is that of {WEIGHT_DECAY / 2} of the difference, and the"
            " solved regression has it too.",
        ],
    )


def _bound(run: StudyRun) -> float:
    pixels_ND, labels_N = training_samples(open_trained(run.record.folder))
    bound = mistakes_bound(pixels_ND.numpy(), labels_N.numpy())
    if bound is None:
        raise UserError(
            f"{run.group}: no plane separates the samples of {run.record.folder}, as the study takes them to"
        )
    return bound


def _num_samples(run: StudyRun) -> int:
    return int(run.record.config["data"]["train_samples"])


def _plane(sigmoid: StudyRun, threshold: StudyRun) -> Panel:
    trained = open_trained(sigmoid.record.folder)
    pixels_ND, labels_N = training_samples(trained)
    levels_ND = pixels_ND * pixels_ND.new_tensor(trained.facts.std) + pixels_ND.new_tensor(trained.facts.mean)
    sides = [levels_ND[labels_N == label] for label in (0, 1)]
    return Panel(
        x=Axis(label="x", limits=PLANE[:2]),
        y=Axis(label="y", limits=PLANE[2:]),
        series=[
            *(
                Series(x=side[:, 0].tolist(), y=side[:, 1].tolist(), line=False, colour=colour, label=label)
                for side, colour, label in zip(sides, (5, 6), trained.facts.classes, strict=True)
            ),
            _line(trained, label="sigmoid unit", colour=2),
            _line(open_trained(threshold.record.folder), label="threshold unit", colour=1),
        ],
        field=Field(
            values=shares_over_plane(trained), extent=PLANE, label="share given to the upper class", limits=(0.0, 1.0)
        ),
        title="No line separates these",
    )


def _line(trained: Trained, *, label: str, colour: int) -> Series:
    """Draw where a unit of two inputs changes sides."""
    *_, (_, model) = models_along(trained)
    w_x, w_y, bias = unit_of(model)
    mean, std = trained.facts.mean[0], trained.facts.std[0]
    x = [PLANE[0], PLANE[1]]
    return Series(
        x=x,
        y=[float(mean - std * (w_x * (value - mean) / std + bias) / w_y) for value in x],
        label=label,
        markers=False,
        colour=colour,
    )


def _mistakes(mistakes: dict[str, list[list[int]]], bounds: dict[str, list[float]]) -> Panel:
    series = []
    for name, rows in mistakes.items():
        so_far = [*zip(*(itertools.accumulate(row) for row in rows), strict=True)]
        series.append(spread_series(range(1, len(so_far) + 1), so_far, label=name))
    last = max(len(row) for rows in mistakes.values() for row in rows)
    every = max(1, last // 4)
    return Panel(
        x=Axis(label="epoch", ticks={1.0: "1"} | {float(epoch): str(epoch) for epoch in range(every, last + 1, every)}),
        y=Axis(label="mistakes of the threshold unit so far", log=True, limits=(1.0, 1e5)),
        series=series,
        marks=[Mark(y=min(found), label=f"least bound, {name}: {min(found):,.0f}") for name, found in bounds.items()],
        title="Learning stops only where a plane separates",
    )


def _distances(distances: list[list[float]]) -> Panel:
    columns = [*zip(*distances, strict=True)]
    return Panel(
        x=Axis(label="epoch"),
        y=Axis(label="distance from logistic regression, relative", log=True),
        series=[spread_series(range(len(columns)), columns, label="", markers=False)],
        marks=[Mark(y=NEAR, label=f"wanted: under {NEAR:g}")],
        title="The sigmoid unit is logistic regression",
    )


STUDY = Study(
    name="perceptron",
    title="The perceptron, and its sigmoid",
    claim="A sigmoid unit trained by SGD is logistic regression; a threshold unit settles only on separable data.",
    question="What does the smooth step change, for the weights and where no line separates the classes?",
    groups=groups,
    measure=measure,
    seeds={Scale.laptop: 5, Scale.gpu: 10},
)
