"""The generalisation gap: how much better a model does on images that it was trained on than on new ones.

    gap = GeneralisationGap(metric_log=metric_log, loader=train_loader, val_loader=val_loader, autocast=False)
    gap.measure(module, val_metrics, step=1950, is_last=True)       # on all ranks together: {"gap/loss": 0.41, ...}

Training's own metrics cannot tell it: they are under augmentation, mixup, label smoothing and dropout, and averaged
over weights that were changing. Here the same weights (the average of them, where there is one) are evaluated in the
same way on validation images and on a fixed sample of training images, those in the first places of the first epoch's
order, without augmentation, with the labels that are trained on. A positive gap means worse on new images:

    gap/loss         validation loss - training loss
    gap/top1_frac    training accuracy - validation accuracy, and gap/top1_error_frac, its standard error
    gap/train_loss, gap/train_top1_frac     the sample's own

At each evaluation the sample is a tenth of the validation split, read once and kept in memory; after the last step it
is as large as that split, since a tenth of a small one tells the accuracy to 1 or 2 % only.

Axes: B batch, K classes.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from pipeline.data.first_places import FirstPlaces
from pipeline.data.loader import Batch, BatchLoader
from pipeline.data.uncropped import uncropped
from pipeline.shards.errors import UserError
from pipeline.track.ceilings import over_ranks
from pipeline.track.metric_log import MetricLog
from pipeline.training.metrics import MetricSums
from pipeline.training.module import ClassifierModule

log = logging.getLogger(__name__)

# Of the validation split's number, the sample of an evaluation within the run.
SAMPLE_FRAC = 0.1
# Images of all ranks that are kept from the first evaluation on, and that are read after the last step.
MAX_KEPT_BYTES, MAX_LAST_BYTES = 64 << 20, 128 << 20


class GeneralisationGap(pl.Callback):
    """Measures the gap after each evaluation and logs it; `metric_log` is None on every rank but 0.

    It must come before a callback that gives the model its own weights back after an evaluation. It reads through
    training's reader, so never while training reads.
    """

    def __init__(
        self, *, metric_log: MetricLog | None, loader: BatchLoader, val_loader: BatchLoader, autocast: bool
    ) -> None:
        self.metric_log, self.autocast = metric_log, autocast
        self._training, self._reader = loader, uncropped(loader.reader)
        self._slots, self._num_val_samples = val_loader.slots, val_loader.reader.num_samples
        self._kept: list[Batch] | None = None
        self._is_off = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # After the last step there is another evaluation, with the larger sample.
        if trainer.state.fn == "fit" and trainer.global_step < pl_module.plan.total_steps:
            self.measure(pl_module, pl_module.eval_metrics, step=trainer.global_step, is_last=False)

    def measure(
        self, module: ClassifierModule, val_metrics: Mapping[str, float], *, step: int, is_last: bool
    ) -> dict[str, float]:
        """Evaluate the sample, log the gap, and return it; empty where the sample could not be read.

        All ranks call this together.
        """
        batches = self._sample(module.device, is_last=is_last)
        if not batches:
            return {}
        train_metrics = evaluate_plain(module, batches, autocast=self.autocast)
        row = gap_of(train_metrics, val_metrics)
        if self.metric_log is not None:
            self.metric_log.write(step=step, row=row)
        return row

    def _sample(self, device: torch.device, *, is_last: bool) -> list[Batch]:
        """Return this rank's part of the sample, on the CPU; nothing where a rank cannot read it."""
        if self._is_off:
            return []
        if not is_last and self._kept is not None:
            return self._kept
        failure: Exception | None = None
        batches: list[Batch] = []
        try:
            batches = self._read(self._num_samples(is_last=is_last))
        except (UserError, OSError) as error:
            failure = error
        if over_ranks(float(failure is not None), "max", device=device):
            reason = failure or "on another rank"
            log.warning("the generalisation gap is left out: training images cannot be read again (%s)", reason)
            self._is_off = True
            return []
        if not is_last:
            self._kept = batches
        return batches

    def _num_samples(self, *, is_last: bool) -> int:
        wanted = self._num_val_samples if is_last else math.ceil(SAMPLE_FRAC * self._num_val_samples)
        room = (MAX_LAST_BYTES if is_last else MAX_KEPT_BYTES) // math.prod(self._reader.image_shape)
        order = self._training.order
        places = min(order.num_samples, order.steps_per_epoch * order.batch_size)
        return max(1, min(wanted, room, places))

    def _read(self, num_samples: int) -> list[Batch]:
        training = self._training
        # Equal parts, however small: padded to whole batches of all ranks they would cost as much as an evaluation.
        num_steps = -(-num_samples // (self._slots * training.world_size))
        slots = -(-num_samples // (num_steps * training.world_size))
        loader = BatchLoader(
            self._reader,
            FirstPlaces(order=training.order, num_samples=num_samples, batch_size=slots * training.world_size),
            rank=training.rank,
            world_size=training.world_size,
            prefetch=training.prefetch,
            pin=training.pin,
            label_noise=training.label_noise,
        )
        try:
            # Copies: the loader fills its buffers again.
            return [dataclasses.replace(batch, images_BHWC=batch.images_BHWC.clone()) for batch in loader]
        finally:
            loader.close()


@torch.no_grad()
def evaluate_plain(module: ClassifierModule, batches: list[Batch], *, autocast: bool) -> dict[str, float]:
    """Return loss, top1_frac where there is one, and samples of images as they are, over all ranks."""
    device, was_training = module.device, module.training
    sums = MetricSums(device, has_classes=module.objectives.has_classes)
    module.eval()
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        for batch in batches:
            batch = batch.to(device)
            logits_BK = module.evaluation_logits(batch)
            losses_B = module.objectives.evaluation(logits_BK, batch.labels_B)
            sums.add(logits_BK, batch.labels_B, losses_B, batch.weights_B)
    module.train(was_training)
    metrics, _ = sums.read()
    return metrics


def gap_of(train: Mapping[str, float], val: Mapping[str, float]) -> dict[str, float]:
    """Return the row of metrics; the standard error is that of a difference of two independent shares.

    Of a regression there is only the loss.
    """
    losses = {"gap/loss": val["loss"] - train["loss"], "gap/train_loss": train["loss"]}
    if "top1_frac" not in train:
        return losses
    error_squared = sum(
        metrics["top1_frac"] * (1 - metrics["top1_frac"]) / metrics["samples"] for metrics in (train, val)
    )
    return {
        **losses,
        "gap/top1_frac": train["top1_frac"] - val["top1_frac"],
        "gap/top1_error_frac": math.sqrt(error_squared),
        "gap/train_top1_frac": train["top1_frac"],
    }
