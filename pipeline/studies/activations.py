"""Activations differ: what passes of the gradient from layer to layer, and what a deep net of each kind learns.

A layer's gradient is that of the layer behind it, times its weights, times the slope of its units. A sigmoid's slope
is a quarter at most, and weights drawn with variance 1/width (Glorot and Bengio 2010) neither add nor take away: over L
layers at most 4^-L comes through (Hochreiter 1991). A relu's slope is 1 for half of the units, which weights of
variance 2/width make up for (He et al. 2015). Units of a softmax share an output of 1, so theirs is about 1/width.

Each kind of unit starts as is advised for it or for one like it, and at each depth has a rate of its own, the best of
three on a seed that is reported nowhere.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pipeline.studies.estimate import Estimate, difference_of, mean_of
from pipeline.studies.measures.layer_gradients import first_over_last, gradient_norms, gradient_panel, share_passed
from pipeline.studies.panels.spread import spread_series
from pipeline.studies.study import ACCURACY, Group, Outcome, Picture, Scale, Study, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import Axis, Mark, Panel, seeds_text

# The initialisation that is meant for each kind of unit; softmax and gelu have none of their own.
INITS = {"sigmoid": "xavier", "tanh": "xavier", "relu": "kaiming", "gelu": "kaiming", "softmax": "xavier"}
DEPTHS = (2, 4, 8, 16, 32)
SHALLOW, DEEP = DEPTHS[0], DEPTHS[-1]
RATES = ("0.004", "0.02", "0.1")
TUNING_SEED = 1000
# Sigmoid units whose inputs are brought to mean 0 and variance 1 over each batch: in the deepest net alone.
NORMED = "sigmoid, batch norm"
CHANCE = 10.0


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    """Return the runs that find the rate of each kind of unit at each depth."""
    depths = ",".join(map(str, DEPTHS))
    tuned = (f"seed={TUNING_SEED}", f"optimizer.rate={','.join(RATES)}")
    return [
        *(_group(f"{kind}, tuning", kind, scale, f"model.depth={depths}", *tuned) for kind in INITS),
        _group(f"{NORMED}, tuning", NORMED, scale, f"model.depth={DEEP}", *tuned),
    ]


def follow_up(runs: StudyRuns, scale: Scale, seeds: str) -> Sequence[Group]:
    """Return the runs that are reported: each kind and depth at its best rate."""
    return [
        _group(
            group_name(kind, depth),
            kind,
            scale,
            *(f"model.depth={depth}", f"seed={seeds}", f"optimizer.rate={best_rate(runs, kind, depth)}"),
        )
        for kind, depth in cases()
    ]


def cases() -> list[tuple[str, int]]:
    """Return every kind of unit with every depth that it is trained at."""
    return [*((kind, depth) for kind in INITS for depth in DEPTHS), (NORMED, DEEP)]


def group_name(kind: str, depth: int) -> str:
    return f"{kind}, {depth} layers"


def best_rate(runs: StudyRuns, kind: str, depth: int) -> str:
    """Return the rate with the highest accuracy on the tuning seed; of equals the smallest."""

    def accuracy(rate: str) -> float:
        wanted = {"optimizer.rate": rate} | ({} if kind == NORMED else {"model.depth": str(depth)})
        return runs.of(f"{kind}, tuning", wanted)[0].metric(ACCURACY)

    return max(RATES, key=accuracy)


def measure(runs: StudyRuns) -> Outcome:
    accuracies = {case: [100 * value for value in runs.values(group_name(*case), ACCURACY)] for case in cases()}
    gradients = {kind: [gradient_norms(run) for run in runs.of(group_name(kind, DEEP))] for kind in (*INITS, NORMED)}
    passed = {kind: [share_passed(norms) for norms in found] for kind, found in gradients.items()}
    seeds = [run.seed for run in runs.of(group_name("sigmoid", DEEP))]
    config = runs.of(group_name("sigmoid", DEEP))[0].record.config["model"]
    checks = [
        Check(
            claim="A layer of sigmoid units passes on a quarter of the gradient at most.",
            statistic=f"share of the gradient that passes one layer of sigmoid units, {DEEP} layers",
            estimate=mean_of(passed["sigmoid"]),
            above=0.2,
            below=0.25,
        ),
        Check(
            claim="A layer of relu units passes on about all of it.",
            statistic=f"share of the gradient that passes one layer of relu units, {DEEP} layers",
            estimate=mean_of(passed["relu"]),
            above=0.85,
            below=1.15,
        ),
        Check(
            claim=f"With {SHALLOW} layers, sigmoid units learn.",
            statistic=f"accuracy of sigmoid units, {SHALLOW} layers, %",
            estimate=mean_of(accuracies["sigmoid", SHALLOW]),
            above=30.0,
        ),
        Check(
            claim=f"With {DEEP} layers, they learn nothing: chance is {CHANCE:g} %.",
            statistic=f"accuracy of sigmoid units, {DEEP} layers, %",
            estimate=mean_of(accuracies["sigmoid", DEEP]),
            below=15.0,
        ),
        Check(
            claim=f"With {DEEP} layers, relu units learn what sigmoid units do not.",
            statistic=f"accuracy of relu minus sigmoid units, {DEEP} layers, points",
            estimate=difference_of(accuracies["relu", DEEP], accuracies["sigmoid", DEEP]),
            above=10.0,
        ),
        Check(
            claim=f"Softmax units fail with {SHALLOW} hidden layers already.",
            statistic=f"accuracy of relu minus softmax units, {SHALLOW} layers, points",
            estimate=difference_of(accuracies["relu", SHALLOW], accuracies["softmax", SHALLOW]),
            above=10.0,
        ),
    ]
    return Outcome(
        checks=checks,
        picture=Picture(
            title="How much of the gradient comes through, and what is learnt",
            caption=(
                f"CIFAR-10, hidden layers of {config['width']} units, {seeds_text(seeds)}; bars: lowest to highest"
                f" seed. Left: norm of the gradient of each hidden layer's weights at the first step, {DEEP} layers;"
                " what is too small for float32 is left out. Right: accuracy on the test images after training, each"
                f" point at the best of {len(RATES)} rates, found on another seed."
            ),
            panels=[
                gradient_panel({kind: gradients[kind] for kind in INITS}, title=f"Gradient, {DEEP} layers"),
                _accuracy_panel(accuracies),
            ],
        ),
        columns=[
            "units",
            "share of the gradient that passes a layer",
            f"first over last layer's gradient, {DEEP} layers",
            *(f"accuracy, {depth} layers, %" for depth in DEPTHS),
        ],
        rows=[_row(kind, gradients[kind], passed[kind], accuracies) for kind in (*INITS, NORMED)],
        notes=_notes(passed, accuracies),
    )


def _accuracy_panel(accuracies: dict[tuple[str, int], list[float]]) -> Panel:
    places = {depth: place for place, depth in enumerate(DEPTHS)}
    return Panel(
        x=Axis(label="hidden layers", ticks={float(place): str(depth) for depth, place in places.items()}),
        y=Axis(label="accuracy", unit="%", limits=(0, None)),
        series=[
            spread_series(list(places.values()), [accuracies[kind, depth] for depth in DEPTHS], label=kind)
            for kind in INITS
        ],
        marks=[Mark(y=CHANCE, label="chance")],
        title="Accuracy after training",
    )


def _row(
    kind: str,
    gradients: Sequence[Sequence[float]],
    passed: Sequence[float],
    accuracies: dict[tuple[str, int], list[float]],
) -> list[str]:
    ratios = [first_over_last(norms) for norms in gradients]
    return [
        kind,
        spread_text(passed, decimals=3),
        f"{statistics.fmean(ratios):.1e}",
        *(spread_text(accuracies[kind, depth]) if (kind, depth) in accuracies else "" for depth in DEPTHS),
    ]


def _notes(passed: dict[str, list[float]], accuracies: dict[tuple[str, int], list[float]]) -> list[str]:
    found = {case: statistics.fmean(values) for case, values in accuracies.items()}
    share = mean_of(passed["sigmoid"])
    failed = [depth for depth in DEPTHS if found["sigmoid", depth] < 2 * CHANCE]
    notes = [_share_note(share)]
    if failed:
        notes.append(f"Sigmoid units are below {2 * CHANCE:g} % from {failed[0]} layers on.")
    notes.append(
        "Batch norm divides what a unit is given by its spread, and the gradient too: with it a layer of sigmoid units"
        f" passes on {statistics.fmean(passed[NORMED]):.2f}, and {DEEP} layers reach {found[NORMED, DEEP]:.1f} %,"
        f" without {found['sigmoid', DEEP]:.1f} %."
    )
    others = [kind for kind in INITS if kind not in ("sigmoid", "softmax")]
    told = "; ".join(
        f"{kind} {found[kind, SHALLOW]:.1f} % with {SHALLOW}, {found[kind, DEEP]:.1f} % with {DEEP}" for kind in others
    )
    notes.append(
        f"A gradient that passes is not all: units of the other kinds pass it on, and in as many steps {DEEP} layers"
        f" of them learn less than {SHALLOW}: {told}."
    )
    return notes


def _share_note(share: Estimate) -> str:
    return (
        f"A layer of sigmoid units passes on {share.value:.3f} of the gradient: its steepest slope is 0.25, and most"
        f" units are beside it. Over {DEEP} layers that leaves {share.value ** (DEEP - 1):.0e} of it."
    )


def _group(name: str, kind: str, scale: Scale, *options: str) -> Group:
    laptop = scale is Scale.laptop
    unit = "sigmoid" if kind == NORMED else kind
    return Group(
        name=name,
        data="cifar10-8" if laptop else "cifar10",
        options=(
            *("model=mlp", f"model.width={64 if laptop else 1024}"),
            *(
                f"model.activation={unit}",
                f"model.init={INITS[unit]}",
                f"model.norm={'batch' if kind == NORMED else 'none'}",
            ),
            *("optimizer=sgd", "schedule=cosine", "augment=none", "batch.size=64", "trainer.clip_norm=1"),
            *(f"trainer.max_steps={400 if laptop else 7500}", "trainer.log_every_steps=100"),
            *("track.layers_every_steps=100000", "track.noise_scale_every_steps=null", "track.gap=false"),
            "data.check=sizes",
            *options,
        ),
    )


STUDY = Study(
    name="activations",
    title="Activations differ",
    claim="Sigmoid units pass on a quarter of the gradient at most, so that deep nets of them learn nothing.",
    question="How much of the gradient passes each layer, and what does a net of 2 to 32 layers of each kind learn?",
    groups=groups,
    follow_up=follow_up,
    measure=measure,
    seeds={Scale.laptop: 3, Scale.gpu: 5},
)
