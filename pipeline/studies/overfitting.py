"""MLPs overfit, and regularisation helps: train against validation with none, each of six techniques, and all together.

Early stopping takes no runs of its own: it is the evaluation with the lowest validation loss of the runs without
regularisation, as `checkpoint.keep_best=1 checkpoint.metric=val/loss` keeps it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.shards.errors import UserError
from pipeline.studies.estimate import difference_of, mean_of
from pipeline.studies.panels.levels import levels_panel
from pipeline.studies.panels.spread import spread_series
from pipeline.studies.study import ACCURACY, Group, Outcome, Picture, Scale, Study, StudyRun, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import Axis, Panel, seeds_text

NONE, EARLY, TOGETHER = "none", "early stopping", "all together"
TECHNIQUES: Mapping[str, tuple[str, ...]] = {
    "dropout": ("model.dropout=0.5",),
    "weight decay": ("optimizer.weight_decay=0.005",),
    "augmentation": ("augment.flip=true",),
    "mixup": ("augment.mixup_alpha=0.2",),
    "label smoothing": ("objective.label_smoothing=0.1",),
}
# Below the axes of what is compared.
OVER = "regularisation"
# In points of accuracy: without regularisation the gap is at least this, and together techniques gain at least this.
LARGE_GAP, GAIN = 20.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What a run had reached at an evaluation; accuracies and the gap, training minus validation, in %."""

    train: float
    val: float
    loss: float
    epoch: float

    @property
    def gap(self) -> float:
        return self.train - self.val


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    sizes: tuple[str, ...]
    if scale is Scale.laptop:
        data, sizes = "cifar10-8", ("model.hidden=[512]", "data.train_samples=2000", "trainer.max_epochs=40")
    else:
        data, sizes = "cifar10", ("model.hidden=[4096,4096]", "trainer.max_epochs=100")
    options = (
        *(f"seed={seeds}", "model=mlp", "optimizer=sgd", "optimizer.rate=0.02", "schedule=constant"),
        *("batch.size=64", "augment=flip_crop", "augment.flip=false", "augment.crop_padding=0"),
        *("track.gap=true", "evaluation.every_epochs=2", *sizes),
    )
    together = tuple(option for technique in TECHNIQUES.values() for option in technique)
    chosen = {NONE: (), **TECHNIQUES, TOGETHER: together}
    # What comes later counts, so augmentation turns the flips on again.
    return [Group(name=name, data=data, options=(*options, *added)) for name, added in chosen.items()]


def measure(runs: StudyRuns) -> Outcome:
    reached = {name: [evaluations_of(run)[-1] for run in runs.of(name)] for name in (NONE, *TECHNIQUES, TOGETHER)}
    early = [min(evaluations_of(run), key=lambda found: found.loss) for run in runs.of(NONE)]
    reached = {NONE: reached[NONE], EARLY: early, **reached}
    gaps = {name: [one.gap for one in found] for name, found in reached.items()}
    accuracies = {name: [one.val for one in found] for name, found in reached.items()}
    losses = {name: [one.loss for one in found] for name, found in reached.items()}
    checks = [
        Check(
            claim=f"All techniques together gain more than {GAIN:g} point of validation accuracy.",
            statistic="validation accuracy with all together minus with none, points",
            estimate=difference_of(accuracies[TOGETHER], accuracies[NONE]),
            above=GAIN,
        ),
        Check(
            claim=f"Without regularisation the net is right about over {LARGE_GAP:g} points more training images.",
            statistic="gap between training and validation accuracy with none, points",
            estimate=mean_of(gaps[NONE]),
            above=LARGE_GAP,
        ),
        *(
            Check(
                claim=f"The gap is narrower with {name}.",
                statistic=f"gap with none minus gap with {name}, points",
                estimate=difference_of(gaps[NONE], gaps[name]),
                above=0.0,
            )
            for name in (EARLY, *TECHNIQUES, TOGETHER)
        ),
    ]
    first = runs.of(NONE)[0]
    seeds = [run.seed for run in runs.of(NONE)]
    epochs = int(first.record.config["trainer"]["max_epochs"])
    caption = (
        f"MLP, {first.record.summary['data']['train_samples']:,} training images of CIFAR-10, {epochs} epochs,"
        f" {seeds_text(seeds)}; bars and bands: lowest to highest seed. Accuracy on training images is without dropout,"
        " augmentation and mixup, on a sample. Early stopping: the evaluation with the lowest validation loss of the"
        " runs with none."
    )
    return Outcome(
        checks=checks,
        picture=Picture(
            title="Overfitting, and what helps against it",
            caption=caption,
            panels=[
                _curves(runs),
                levels_panel(
                    gaps, Axis(label="gap, training minus validation", unit="points", limits=(0, None)), over=OVER
                ),
                levels_panel(accuracies, Axis(label="validation accuracy", unit="%"), over=OVER),
                levels_panel(losses, Axis(label="validation loss", limits=(0, None)), over=OVER),
            ],
        ),
        columns=[
            "regularisation",
            "training, %",
            "validation, %",
            "gap, points",
            "validation loss",
            "at epoch",
            "seeds",
        ],
        rows=[
            [
                name,
                spread_text([one.train for one in found]),
                spread_text(accuracies[name]),
                spread_text(gaps[name]),
                spread_text(losses[name], decimals=2),
                f"{statistics.fmean(one.epoch for one in found):.0f}",
                len(found),
            ]
            for name, found in reached.items()
        ],
        notes=[
            *_notes(accuracies, losses),
            "Early stopping is chosen by the very images that it is measured on, which flatters it a little.",
        ],
    )


def evaluations_of(run: StudyRun) -> list[Reached]:
    """Return what a run's evaluations say, in their order.

    Raises:
        UserError: not all of them have a gap beside them, or something is not finite.
    """
    steps_per_epoch = run.metric("steps") / run.record.config["trainer"]["max_epochs"]
    names = ("gap/train_top1_frac", ACCURACY, "val/loss")
    by_step = [run.logged(name) for name in names if name in run.record.series]
    if len(by_step) < len(names) or any(found.keys() != by_step[0].keys() for found in by_step):
        raise UserError(f"{run.record.folder}: not each evaluation has its gap; run the study anew with another dir=")
    found = []
    for step in sorted(by_step[0]):
        train, val, loss = (metric[step] for metric in by_step)
        found.append(Reached(train=100 * train, val=100 * val, loss=loss, epoch=step / steps_per_epoch))
    return found


def _notes(accuracies: Mapping[str, Sequence[float]], losses: Mapping[str, Sequence[float]]) -> list[str]:
    """Say of each technique what it changes on validation images, over all seeds."""
    said = []
    for name in (EARLY, *TECHNIQUES, TOGETHER):
        gain, saved = (difference_of(values[name], values[NONE]) for values in (accuracies, losses))
        said.append(
            f"{name.capitalize()} changes the validation accuracy by {gain.value:+.1f} points ({gain.low:+.1f} to"
            f" {gain.high:+.1f}) and the validation loss by {saved.value:+.2f} ({saved.low:+.2f} to {saved.high:+.2f})."
        )
    return said


def _curves(runs: StudyRuns) -> Panel:
    """Draw training and validation accuracy over epochs, without regularisation and with all together."""
    series = []
    for colour, name in enumerate((NONE, TOGETHER)):
        by_epoch = list(zip(*(evaluations_of(run) for run in runs.of(name)), strict=True))
        series += [
            spread_series(
                [found[0].epoch for found in by_epoch],
                [[getattr(one, part) for one in found] for found in by_epoch],
                label=f"{told}, {name}",
                markers=part == "val",
                colour=colour,
            )
            for part, told in (("train", "training"), ("val", "validation"))
        ]
    return Panel(x=Axis(label="epoch"), y=Axis(label="accuracy", unit="%", limits=(0, 104)), series=series)


STUDY = Study(
    name="overfitting",
    title="Overfitting and regularisation",
    claim="Multi-layer perceptrons overfit, and regularisation helps.",
    question="How far apart are training and validation accuracy with none, with each technique, and with all of them?",
    groups=groups,
    measure=measure,
    seeds={Scale.laptop: 5, Scale.gpu: 5},
)
