"""The inputs of a run's first step, as the model is trained on them, beside the images that they were made from.

    AugmentedPicture(metric_log=metric_log, drawing=drawing, reader=train_loader.reader)    # a callback

What is drawn is computed from the batch itself by the functions that training calls: shifted, cropped, mirrored and
blended by mixup. It is logged once as `data/augmented`; a run that goes on from a checkpoint has it already.

Axes: B the samples shown, H height, W width, C channels, D = H*W*C.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from pipeline.data.loader import Batch
from pipeline.data.reader import Reader
from pipeline.data.uncropped import whole_images
from pipeline.shards.index import NO_LABEL
from pipeline.track.contact_sheet import NARROW_TILE_WIDTH, Pixels, Tile, draw_sheet, png_of, shrunk
from pipeline.track.drawing import Drawing
from pipeline.track.metric_log import MetricLog
from pipeline.training.module import ClassifierModule

# An even number: mixup blends neighbours.
NUM_SHOWN = 16
FIRST_STEP = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenInput:
    """One input of the model.

    Attributes:
        before_HWC: the image as it was read, or, where the reader had cropped it already, as it is stored.
        seen_HWC: what the model was given, its normalisation undone.
        labels: class numbers; one, or any number where samples have several.
        own_frac: share of this sample in its blend (mixup), None where nothing is blended.
        other_labels: those of the sample that it is blended with.
    """

    before_HWC: Pixels
    seen_HWC: Pixels
    labels: tuple[int, ...]
    own_frac: float | None
    other_labels: tuple[int, ...]
    sample_id: int


class AugmentedPicture(pl.Callback):
    """Draws the inputs of the first step; `metric_log` is None on every rank but 0."""

    def __init__(self, *, metric_log: MetricLog | None, drawing: Drawing, reader: Reader) -> None:
        self.metric_log, self.drawing, self.reader = metric_log, drawing, reader
        self._is_due = metric_log is not None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if not self._is_due:
            return
        self._is_due = False
        metric_log, classes = self.metric_log, self.reader.data_set.classes
        if batch.step == 0 and batch.micro == 0 and metric_log is not None:
            inputs, is_cropped = seen_inputs(pl_module, batch, self.reader)
            if inputs:
                self.drawing.submit(lambda: _log(metric_log, inputs, classes=classes, is_cropped=is_cropped))


@torch.no_grad()
def seen_inputs(module: ClassifierModule, batch: Batch, reader: Reader) -> tuple[list[SeenInput], bool]:
    """Return the first inputs of a batch, and whether their `before_HWC` was cropped at random by the reader."""
    count = min(NUM_SHOWN, len(batch) - len(batch) % 2 if module.augmentation.mixup is not None else len(batch))
    shape = (count, *batch.images_BHWC.shape[1:])
    pixels_BD, own_B = module.inputs_of(
        dataclasses.replace(batch, images_BHWC=batch.images_BHWC[:count], positions_B=batch.positions_B[:count])
    )
    seen_BHWC = (pixels_BD.view(shape) * module.std + module.mean).round().clamp(0, 255).byte().cpu().numpy()
    sample_ids = batch.sample_ids[:count]
    read_BHWC = batch.images_BHWC[:count].cpu()
    whole_BHWC = whole_images(reader, sample_ids, read_BHWC=read_BHWC)
    # A copy: on a CPU the batch's images are in a buffer that is filled again.
    before_BHWC = np.array((read_BHWC if whole_BHWC is None else whole_BHWC).numpy())
    labels = [_labels(row) for row in batch.labels_B[:count].view(count, -1).tolist()]
    weights = batch.weights_B[:count].tolist()
    inputs = [
        SeenInput(
            before_HWC=before_BHWC[row],
            seen_HWC=seen_BHWC[row],
            labels=labels[row],
            own_frac=None if own_B is None else float(own_B[row]),
            other_labels=() if own_B is None else labels[row ^ 1],
            sample_id=int(sample_ids[row]),
        )
        for row in range(count)
        if weights[row]
    ]
    return inputs, whole_BHWC is None


def draw_inputs(inputs: Sequence[SeenInput], *, classes: Sequence[str], is_cropped: bool) -> tuple[bytes, str]:
    """Return the sheet as PNG and its title: pairs of pictures, or single ones where nothing is done to any.

    Args:
        is_cropped: whether the images before were cropped at random by the reader.
    """
    is_untouched = all(np.array_equal(one.before_HWC, one.seen_HWC) for one in inputs)
    stored = "as it was cut out in reading" if is_cropped else "as it is stored"
    how = f"the model sees each {stored}" if is_untouched else f"left the image {stored}, right as the model sees it"
    title = f"Step {FIRST_STEP}: {len(inputs)} inputs; {how}"
    tiles = []
    for one in inputs:
        pictures = (one.seen_HWC,) if is_untouched else (one.before_HWC, one.seen_HWC)
        small = tuple(shrunk(pixels_HWC) for pixels_HWC in pictures)
        tiles.append(Tile(pictures=small, lines=(_told(one, classes), f"id {one.sample_id}")))
    return png_of(draw_sheet(tiles, title=title, min_tile_width=NARROW_TILE_WIDTH)), title


def _log(metric_log: MetricLog, inputs: Sequence[SeenInput], *, classes: Sequence[str], is_cropped: bool) -> None:
    png, title = draw_inputs(inputs, classes=classes, is_cropped=is_cropped)
    metric_log.picture(step=FIRST_STEP, name="data/augmented", png=png, caption=title)


def _told(one: SeenInput, classes: Sequence[str]) -> str:
    """Return an input's label, or the two of a blend with their shares, the larger first."""
    own = _names(one.labels, classes)
    if one.own_frac is None or one.labels == one.other_labels:
        return own
    parts = sorted([(one.own_frac, own), (1 - one.own_frac, _names(one.other_labels, classes))], reverse=True)
    return " + ".join(f"{100 * frac:.0f} % {name}" for frac, name in parts)


def _names(labels: tuple[int, ...], classes: Sequence[str]) -> str:
    return ", ".join(classes[label] for label in labels) or "no label"


def _labels(row: list[int]) -> tuple[int, ...]:
    return tuple(label for label in row if label != NO_LABEL)
