"""Some noise helps: out of a saddle, out of a local minimum, and towards minima that are flat and generalise.

Three experiments: 32 neurons that start alike, on rings; two layers of three neurons that have come to rest where they
get many points of the rings wrong; small against large batches on a part of CIFAR-10, compared at equal training loss
(as in Keskar et al. 2017, arXiv 1609.04836).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from pipeline.shards.errors import UserError
from pipeline.studies.estimate import difference_of, mean_of
from pipeline.studies.measures.curvature import gradient_and_curvatures, num_different_units
from pipeline.studies.measures.equal_loss import AtLoss, at_losses
from pipeline.studies.measures.models_along import training_samples
from pipeline.studies.panels.noise_helps import at_equal_loss, neurons, ways_down, ways_on
from pipeline.studies.panels.plane import boundary
from pipeline.studies.study import ACCURACY, Group, Outcome, Picture, Scale, Study, StudyRun, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import seeds_text
from pipeline.trained import build_trained, open_trained

# From neurons that start alike.
FULL, MINI, NOISE, APART = "alike, full batch", "alike, mini-batches", "alike, noise", "random start, full batch"
# Two layers of three neurons, and how those go on that have come to rest.
REST, REST_FULL, REST_MINI, REST_NOISE = "two layers of three", "on, full batch", "on, mini-batches", "on, noise"
SMALL, LARGE = "small batches", "the whole set as a batch"
SADDLE, GONE_ON = (FULL, MINI, NOISE, APART), (REST_FULL, REST_MINI, REST_NOISE)
# Such a net can get all points right. One that gets fewer right than this at the end, and whose gradient is shorter
# than this, is at rest elsewhere.
AT_REST_BELOW, AT_REST_GRADIENT = 0.95, 0.05
# Curvatures that are negative by a smaller share of the largest one at the same place are taken for 0.
NO_WAY_DOWN = 1e-2
# Training losses at which small and large batches are compared; the last one decides.
LOSSES = (1.0, 0.5, 0.2)
PLAIN = (
    *("optimizer=sgd", "optimizer.momentum=0", "augment=none", "schedule=constant", "trainer.log_every_steps=10"),
    *("track.layers_every_steps=null", "track.noise_scale_every_steps=null", "track.gap=false"),
)
RINGS = (*PLAIN, "model=mlp")
# A rate at which no curvature that they rest at (8.2 at most) is too large for them to come to rest: 2 / rate is 10.
TWO_LAYERS = (*RINGS, "model.hidden=[3,3]", "optimizer.rate=0.2")


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    width, steps = ("[32]", 600) if scale is Scale.laptop else ("[1024]", 2000)
    layer = (
        *(*RINGS, f"model.hidden={width}", "model.activation=tanh", "model.init=kaiming"),
        *("optimizer.rate=0.5", f"seed={seeds}"),
    )
    whole = ("batch.size=full", f"trainer.max_epochs={steps}", f"evaluation.every_epochs={steps}")
    # 40 steps an epoch.
    mini = ("batch.size=50", f"trainer.max_epochs={steps // 40}", f"evaluation.every_epochs={steps // 40}")
    alike = "model.identical_units=true"
    # Not all come to rest, so of these there are twice as many.
    twice = ",".join(str(seed) for seed in range(2 * len(seeds.split(","))))
    rest = ("batch.size=full", "trainer.max_epochs=1500", "evaluation.every_epochs=1500")
    return [
        Group(name=FULL, data="rings", options=(*layer, *whole, alike)),
        Group(name=MINI, data="rings", options=(*layer, *mini, alike)),
        Group(name=NOISE, data="rings", options=(*layer, *whole, alike, "gradient_noise.std=0.01")),
        Group(name=APART, data="rings", options=(*layer, *whole)),
        Group(name=REST, data="rings", options=(*TWO_LAYERS, *rest, f"seed={twice}")),
        *_batches(scale, seeds),
    ]


def _batches(scale: Scale, seeds: str) -> list[Group]:
    """Return small batches and the whole set at once, at one rate, for long enough to reach the lowest loss."""
    data, hidden, samples, small, large, every = "cifar10-8", "[64]", 1000, (16, 45), 1600, 40
    if scale is Scale.gpu:
        data, hidden, samples, small, large, every = "cifar10", "[1024]", 10000, (16, 60), 4000, 50
    common = (
        *(*PLAIN, "model=mlp", f"model.hidden={hidden}", f"data.train_samples={samples}"),
        *("optimizer.rate=0.1", "checkpoint.keep=1000", f"seed={seeds}"),
    )
    slots, epochs = small
    whole = ("batch.size=full", f"trainer.max_epochs={large}", f"evaluation.every_epochs={every}")
    return [
        Group(name=SMALL, data=data, options=(*common, f"batch.size={slots}", f"trainer.max_epochs={epochs}")),
        Group(name=LARGE, data=data, options=(*common, *whole)),
    ]


def follow_up(runs: StudyRuns, scale: Scale, seeds: str) -> Sequence[Group]:
    """Go on from where small nets came to rest: as before, with mini-batches, and with noise for a while."""
    found = []
    whole = ("batch.size=full", "trainer.max_epochs=1000", "evaluation.every_epochs=1000")
    noise = ("gradient_noise.std=0.5", "gradient_noise.stop={value:0.6,unit:frac}")
    for run in at_rest(runs):
        start = (f"init.run={run.record.folder}", "init.head=keep", f"seed={run.seed}")
        options = (*TWO_LAYERS, *start)
        mini = (*options, "batch.size=20", "trainer.max_epochs=10", "evaluation.every_epochs=10")
        found += [
            Group(name=REST_FULL, data="rings", options=(*options, *whole)),
            Group(name=REST_MINI, data="rings", options=mini),
            Group(name=REST_NOISE, data="rings", options=(*options, *whole, *noise)),
        ]
    return found


def at_rest(runs: StudyRuns) -> list[StudyRun]:
    """Return the runs of small nets that ended, and do not move, with points wrong that they could get right.

    Raises:
        UserError: there are none to go on from.
    """
    found = [
        run
        for run in runs.of(REST)
        if run.metric(ACCURACY) < AT_REST_BELOW and run.metric("grad/norm") < AT_REST_GRADIENT
    ]
    if not found:
        raise UserError("noise-helps: no run came to rest in a local minimum; give more of them by seeds=5")
    return found


def weights_of(run: StudyRun) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a run's model as it ended, and the samples that it was trained on."""
    trained = open_trained(run.record.folder)
    return build_trained(trained), *training_samples(trained)


def measure(runs: StudyRuns) -> Outcome:
    accuracies = {name: [100 * value for value in runs.values(name, ACCURACY)] for name in (*SADDLE, *GONE_ON)}
    different = {name: [float(num_different_units(weights_of(run)[0])) for run in runs.of(name)] for name in SADDLE}
    batches = {name: [at_losses(run, LOSSES) for run in runs.of(name)] for name in (SMALL, LARGE)}
    rows: list[list[object]] = [
        [name, spread_text(found), spread_text(different[name]) if name in different else "", "", len(found)]
        for name, found in accuracies.items()
    ]
    rows += [
        [
            f"{name}, training loss {loss}",
            spread_text([along[place].accuracy for along in found]),
            "",
            spread_text([along[place].sharpness for along in found]),
            len(found),
        ]
        for name, found in batches.items()
        for place, loss in enumerate(LOSSES)
    ]
    return Outcome(
        checks=[*checks_of_noise(accuracies, different[MINI]), *checks_of_batches(batches)],
        picture=_picture(runs, batches),
        columns=["runs", "accuracy, % (mean ± sd)", "different neurons", "sharpness", "seeds"],
        rows=rows,
        notes=_notes(runs, batches),
    )


def checks_of_noise(accuracies: Mapping[str, Sequence[float]], different: Sequence[float]) -> list[Check]:
    """Return what is checked on rings: accuracies in % by kind of run, and different neurons after mini-batches."""
    return [
        Check(
            claim="From neurons that are alike, isotropic noise in the gradient leads to over 20 points more.",
            statistic="accuracy with noise minus without, neurons alike at the start, rings, points",
            estimate=difference_of(accuracies[NOISE], accuracies[FULL]),
            above=20.0,
        ),
        Check(
            claim="Mini-batches leave neurons alike that are alike.",
            statistic="different neurons after mini-batches",
            estimate=mean_of(different),
            below=1.5,
        ),
        Check(
            claim="So their noise does not lead out of this saddle.",
            statistic="accuracy after mini-batches, neurons alike at the start, rings, %",
            estimate=mean_of(accuracies[MINI]),
            below=80.0,
        ),
        Check(
            claim="Isotropic noise leads out of a local minimum.",
            statistic="accuracy with noise minus without, from the local minimum, rings, points",
            estimate=difference_of(accuracies[REST_NOISE], accuracies[REST_FULL]),
            above=5.0,
        ),
        Check(
            claim="The noise of mini-batches leads out of it too.",
            statistic="accuracy with mini-batches minus full batch, from the local minimum, rings, points",
            estimate=difference_of(accuracies[REST_MINI], accuracies[REST_FULL]),
            above=5.0,
        ),
    ]


def checks_of_batches(batches: Mapping[str, Sequence[Sequence[AtLoss]]]) -> list[Check]:
    """Return what is checked of small and large batches, of each run at each of LOSSES."""
    ends = {name: [along[-1] for along in found] for name, found in batches.items()}
    where = f"at training loss {LOSSES[-1]}, CIFAR-10"
    return [
        Check(
            claim="At equal training loss, small batches are in a flatter place.",
            statistic=f"log2 of sharpness of the whole set as a batch over small batches, {where}",
            estimate=difference_of(*([math.log2(end.sharpness) for end in ends[name]] for name in (LARGE, SMALL))),
            above=0.0,
        ),
        Check(
            claim="At equal training loss, small batches are right more often on new images.",
            statistic=f"accuracy of small batches minus that of the whole set as a batch, {where}, points",
            estimate=difference_of(*([end.accuracy for end in ends[name]] for name in (SMALL, LARGE))),
            above=0.0,
        ),
    ]


def num_saddles(curvatures: Sequence[Sequence[float]]) -> int:
    """Return at how many places, each with its curvatures in ascending order, some direction leads down."""
    return sum(lowest <= -NO_WAY_DOWN * highest for lowest, *_, highest in curvatures)


def _picture(runs: StudyRuns, batches: Mapping[str, Sequence[Sequence[AtLoss]]]) -> Picture:
    stuck = at_rest(runs)
    names = {FULL: "full batch", MINI: "mini-batches of 50", NOISE: "full batch and noise", APART: "neurons differ"}
    on = {REST_FULL: "full batch", REST_MINI: "mini-batches of 20", REST_NOISE: "full batch, noise for a while"}
    panels = [
        ways_down({label: runs.of(name) for name, label in names.items()}, title="A saddle: neurons that are alike"),
        neurons({names[name]: runs.of(name)[0] for name in (MINI, NOISE)}, title="Their incoming weights at the end"),
        ways_on(
            stuck,
            {label: runs.of(name) for name, label in on.items()},
            title="Local minima: two layers of three neurons",
        ),
        boundary(runs.of(REST_FULL)[0], title="At such a minimum"),
        at_equal_loss(batches, losses=LOSSES, name="accuracy", label="validation accuracy", unit="%"),
        at_equal_loss(batches, losses=LOSSES, name="sharpness", label="sharpness (top curvature of the loss)"),
    ]
    seeds = [run.seed for run in runs.of(FULL)]
    caption = (
        f"Above, rings: {seeds_text(seeds)} from neurons that are alike; of one seed, their weights; of"
        f" {len(runs.of(REST))} runs of two layers of three neurons, {len(stuck)} came to rest with points wrong and"
        f" went on in three ways. Below, a part of CIFAR-10: {seeds_text(seeds)}, small batches against the whole set,"
        " at one learning rate. Bands and bars: lowest to highest run."
    )
    return Picture(title="Where noise helps, and where it does not", caption=caption, panels=panels)


def _notes(runs: StudyRuns, batches: Mapping[str, Sequence[Sequence[AtLoss]]]) -> list[str]:
    stuck = [gradient_and_curvatures(*weights_of(run)) for run in runs.of(REST_FULL)]
    moved = [
        100 * abs(after - before.metric(ACCURACY))
        for before, after in zip(at_rest(runs), runs.values(REST_FULL, ACCURACY), strict=True)
    ]
    lengths, lowest = [length for length, _ in stuck], [curvatures[0] for _, curvatures in stuck]
    highest = [curvatures[-1] for _, curvatures in stuck]
    away = {name: sum(value >= AT_REST_BELOW for value in runs.values(name, ACCURACY)) for name in GONE_ON}
    ends = {name: statistics.fmean(along[-1].loss for along in found) for name, found in batches.items()}
    saddles = num_saddles([curvatures for _, curvatures in stuck])
    words = (
        f"of {saddles} of them some direction leads down: saddles"
        if saddles
        else "no direction leads down: local minima, flat in some directions"
    )
    return [
        f"Where these small nets come to rest the gradient is at most {max(lengths):.1e} long, and the loss curves by"
        f" {min(lowest):.1e} to {max(highest):.1e}: {words}."
        f" Going on with full batches has moved the accuracy by at most {max(moved):.1f} points.",
        f"Of {len(stuck)} nets that go on from there {away[REST_NOISE]} have at least {100 * AT_REST_BELOW:.0f} % right"
        f" after noise, {away[REST_MINI]} after mini-batches, {away[REST_FULL]} after full batches.",
        f"Small batches and the whole set are compared at weights whose training loss is first at most {LOSSES[-1]}:"
        f" {ends[SMALL]:.3f} and {ends[LARGE]:.3f} in the mean.",
    ]


STUDY = Study(
    name="noise-helps",
    title="Some noise helps",
    claim="Noise in the gradient leads out of saddle points and local minima, and to flatter minima that generalise.",
    question="Does that of mini-batches do so, or does it take noise that has no respect for symmetry?",
    groups=groups,
    follow_up=follow_up,
    measure=measure,
    seeds={Scale.laptop: 5, Scale.gpu: 5},
)
