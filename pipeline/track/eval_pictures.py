"""What an evaluation got wrong: the hardest samples, the most confident errors, confusions, and each class's accuracy.

    pictures = EvaluationPictures(metric_log=metric_log, drawing=drawing, classes=data_set.classes)     # a callback
    pictures.begin(module)                      # before an evaluation that is to be drawn
    pictures.end(module, step=1950)             # after it, on all ranks together

Drawn are the last evaluation and at most five before it: `drawn_steps(total_steps=1950, steps_per_epoch=195)` are those
of epochs 1, 2, 3, 5 and 7 of ten, as most changes early. Logged are the pictures `val/worst`, `val/confident_wrong` and
`val/confusion`, and the tables `val/per_class` and `val/confusion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl

from pipeline.track.confusion import MAX_DRAWN, MAX_WRITTEN, Pair, draw_confusion
from pipeline.track.contact_sheet import NARROW_TILE_WIDTH, Tile, draw_sheet, png_of, shrunk
from pipeline.track.drawing import Drawing
from pipeline.track.eval_watch import EvalWatch, Watched
from pipeline.track.hardest import TopSample
from pipeline.track.metric_log import MetricLog
from pipeline.training.class_report import ClassReport
from pipeline.training.module import ClassifierModule
from pipeline.training.scores import Scores

TIMES_BETWEEN = 5
# Rows of the table of classes, the worst ones.
MAX_CLASS_ROWS = 1000
MAX_LABELS_TOLD = 4


class EvaluationPictures(pl.Callback):
    """Watches evaluations and logs what they show; `metric_log` is None on every rank but 0.

    It must come before a callback that gives the model its own weights back after an evaluation.
    """

    def __init__(self, *, metric_log: MetricLog | None, drawing: Drawing, classes: tuple[str, ...]) -> None:
        self.metric_log, self.drawing, self.classes = metric_log, drawing, classes
        self._watch: EvalWatch | None = None

    def begin(self, module: ClassifierModule) -> None:
        """Watch the module's next evaluation, which must be asked for its report by class."""
        self._watch = EvalWatch(scores=module.objectives.scores, num_classes=len(self.classes))
        module.evaluation_watch = self._watch

    def end(self, module: ClassifierModule, *, step: int) -> None:
        """Log what was seen, if an evaluation was watched; all ranks call this together."""
        watch, self._watch, module.evaluation_watch = self._watch, None, None
        if watch is None:
            return
        watched, report = watch.read(), module.class_report
        if self.metric_log is None:
            return
        metric_log, classes, scores = self.metric_log, self.classes, module.objectives.scores
        self.drawing.submit(lambda: log_samples(metric_log, watched, step=step, classes=classes, scores=scores))
        if report is None:
            return
        columns, rows = class_table(report, watched.pairs, classes)  # here, as torch computes it
        self.drawing.submit(lambda: log_classes(metric_log, columns, rows, step=step, num_classes=len(classes)))
        if report.hits is not None:
            self.drawing.submit(lambda: log_confusions(metric_log, report, watched.pairs, step=step, classes=classes))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        plan = pl_module.plan
        if trainer.global_step in drawn_steps(total_steps=plan.total_steps, steps_per_epoch=plan.steps_per_evaluation):
            self.begin(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.end(pl_module, step=trainer.global_step)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # A checkpoint promises that everything before its step is written.
        self.drawing.finish()


def drawn_steps(*, total_steps: int, steps_per_epoch: int) -> frozenset[int]:
    """Return after which steps, of the evaluations between start and end, one is drawn: at growing distances."""
    num_between = (total_steps - 1) // steps_per_epoch
    epochs = {round((num_between + 1) ** (number / (TIMES_BETWEEN + 1))) for number in range(1, TIMES_BETWEEN + 1)}
    if num_between <= TIMES_BETWEEN:
        epochs = set(range(1, num_between + 1))
    return frozenset(epoch * steps_per_epoch for epoch in epochs)


def log_samples(metric_log: MetricLog, watched: Watched, *, step: int, classes: Sequence[str], scores: Scores) -> None:
    """Log the sheets of the worst and of the most confident wrong samples; one without samples is left out."""
    sheets = {
        "val/worst": (watched.worst, "validation images of the highest loss"),
        "val/confident_wrong": (watched.confident_wrong, "wrong answers of the highest confidence"),
    }
    for name, (samples, what) in sheets.items():
        if samples:
            told = "below each its label, the answer and how sure it is, the loss"
            title = f"Step {step:,}: the {len(samples)} {what}; {told}"
            tiles = [tile_of(sample, classes=classes, scores=scores) for sample in samples]
            png = png_of(draw_sheet(tiles, title=title, min_tile_width=NARROW_TILE_WIDTH))
            metric_log.picture(step=step, name=name, png=png, caption=title)


def tile_of(sample: TopSample, *, classes: Sequence[str], scores: Scores) -> Tile:
    """Return a sample's picture and its caption."""
    told = [classes[label] for label in sample.labels[:MAX_LABELS_TOLD]]
    more = len(sample.labels) - len(told)
    labels = ", ".join(told) + (f" and {more} more" if more else "") if told else "no label"
    return Tile(
        pictures=(shrunk(sample.image_HWC),),
        lines=(
            labels,
            f"{_confidence(sample.confidence, scores)} {classes[sample.answer]}",
            f"loss {sample.loss:.3g}, id {sample.sample_id}",
        ),
    )


def log_classes(
    metric_log: MetricLog, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, step: int, num_classes: int
) -> None:
    """Log the table of classes."""
    left_out = f"; the worst {len(rows):,} of {num_classes:,}" if len(rows) < num_classes else ""
    metric_log.table(
        step=step, name="val/per_class", columns=columns, rows=rows, caption=f"Classes, the worst first{left_out}"
    )


def log_confusions(
    metric_log: MetricLog, report: ClassReport, pairs: Sequence[Pair], *, step: int, classes: Sequence[str]
) -> None:
    """Log which classes are taken for which, as a table and, of not too many classes, as a picture."""
    samples = report.samples.tolist()
    metric_log.table(
        step=step,
        name="val/confusion",
        columns=("label", "answer", "samples", "label_frac"),
        rows=[
            (classes[pair.label], classes[pair.answer], pair.samples, pair.samples / samples[pair.label])
            for pair in pairs
        ],
        caption="The most frequent confusions, in samples and as a share of the label's",
    )
    if report.confusion is not None and len(classes) <= MAX_DRAWN:
        title = f"Step {step:,}: answers by label"
        unit = ", in % of the label's samples" if len(classes) <= MAX_WRITTEN else ""
        image = draw_confusion(report.confusion.numpy(), classes, title=title + unit)
        caption = f"{title}: right ones in blue, wrong ones in orange, by the square root of their share"
        metric_log.picture(step=step, name="val/confusion", png=png_of(image), caption=caption)


def class_table(
    report: ClassReport, pairs: Sequence[Pair], classes: tuple[str, ...]
) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of the table of classes: the worst first, those without samples last."""
    rows = report.rows(classes)
    values = "top1_frac" if report.hits is not None else "average_precision_frac"
    order = sorted(range(len(rows)), key=lambda number: _badness(rows[number][values], number))
    columns = ["class", "samples", values]
    if report.hits is None:
        return columns, [[rows[number][column] for column in columns] for number in order[:MAX_CLASS_ROWS]]
    taken_for = _most_taken_for(report, pairs)
    return [*columns, "most_taken_for"], [
        [*(rows[number][column] for column in columns), classes[taken_for[number]] if number in taken_for else None]
        for number in order[:MAX_CLASS_ROWS]
    ]


def _most_taken_for(report: ClassReport, pairs: Sequence[Pair]) -> dict[int, int]:
    """Return which wrong answer each class was given most often: of all, or, of very many, as far as `pairs` tell."""
    if report.confusion is None:
        return {pair.label: pair.answer for pair in reversed(pairs)}
    wrong = report.confusion.numpy().copy()
    np.fill_diagonal(wrong, 0)
    answers = wrong.argmax(axis=1).tolist()
    return {label: answer for label, answer in enumerate(answers) if wrong[label, answer]}


def _badness(value: float | None, number: int) -> tuple[float, int]:
    return (float("inf") if value is None else value, number)


def _confidence(value: float, scores: Scores) -> str:
    return f"{value:.3g}" if scores is Scores.plain else f"{100 * value:.1f} %"
