"""The gradient noise scale of a run, measured in its own steps, with a row beside the metrics and the batch cockpit.

    watch = NoiseScaleWatch(metric_log=metric_log, cockpit=cockpit, every_steps=20, log_every_steps=50)

    grad/noise_trace, grad/signal_sq                            tr(Sigma) and |G|^2, means since the row before
    grad/noise_scale_images                                     their ratio, of averages over the window
    grad/noise_scale_low_images, grad/noise_scale_high_images   its band; null: open upwards

What is measured is in pipeline/training/part_gradients.py, what is made of it in pipeline/training/noise_scale.py. The
window is part of each checkpoint, so that a resumed run goes on with it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from pipeline.data.loader import Batch
from pipeline.track.cockpit import Cockpit
from pipeline.track.metric_log import MetricLog
from pipeline.track.recorder import is_logged
from pipeline.training.metrics import sum_over_ranks
from pipeline.training.noise_scale import Measurement, in_window, noise_scale
from pipeline.training.part_gradients import PartNorms, PassNorms, SampleNorms, why_not_by_sample
from pipeline.training.sharding import is_sharded

log = logging.getLogger(__name__)

CHECKPOINT_KEY = "noise_scale"
# Into a run, when the second or so that the memory's bound takes is little.
MEMORY_AFTER_S = 300.0


class NoiseScaleWatch(pl.Callback):
    """Measures every `every_steps` steps from the first on; of every rank, with `metric_log` None on all but 0."""

    def __init__(
        self, *, metric_log: MetricLog | None, cockpit: Cockpit, every_steps: int, log_every_steps: int
    ) -> None:
        self._metric_log, self._cockpit = metric_log, cockpit
        self._every_steps, self._log_every_steps = every_steps, log_every_steps
        self._parts: PartNorms | None = None
        self._followed: Batch | None = None
        # Of measured steps that were not read yet: step, samples, and on the device what was summed.
        self._unread: list[tuple[int, float, torch.Tensor]] = []
        self._measurements: list[Measurement] = []
        self._unlogged = 0
        self._started_s = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._started_s = time.monotonic()
        self._parts, reason = choose_parts(
            pl_module.model,
            images=self._cockpit.images,
            num_passes=trainer.world_size * pl_module.plan.micro_batches,
            is_mixed=pl_module.augmentation.mixup is not None,
        )
        if reason is not None:
            self._cockpit.unmeasured = reason
            log.info("the gradient noise scale is not measured: %s", reason)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if batch.micro == 0 and self._parts is not None and batch.step % self._every_steps == 0:
            self._parts.start()
            self._followed = batch
        elif self._followed is not None:
            self._followed = batch

    def on_after_backward(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._parts is not None and self._followed is not None:
            self._parts.add_pass(self._followed.weights_B)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        if self._followed is not None:
            pl_module.measure_grad_norm()  # where it is clipped, that measures it after this

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if batch.micro + 1 < pl_module.plan.micro_batches:
            return
        if self._parts is not None and self._followed is not None:
            assert pl_module.grad_norm is not None
            sums = torch.cat([self._parts.stop(), pl_module.grad_norm.double().square().view(1)])
            self._unread.append((batch.step, batch.global_weight, sums))
            self._followed = None
        if is_logged(trainer.global_step, every_steps=self._log_every_steps, plan=pl_module.plan):
            self._read(trainer.world_size)
            self._log(trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        step, plan = trainer.global_step, pl_module.plan
        # After the last step more is known, and it is logged then.
        if trainer.state.fn != "fit" or self._metric_log is None or step == plan.total_steps:
            return
        if is_told(step // plan.steps_per_epoch):
            if time.monotonic() - self._started_s > MEMORY_AFTER_S:
                self._cockpit.look_at_memory()
            self._cockpit.log(self._metric_log, step=step)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._read(trainer.world_size)
        checkpoint[CHECKPOINT_KEY] = {
            "measurements": [dataclasses.asdict(measurement) for measurement in self._measurements],
            "unlogged": self._unlogged,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        stored = checkpoint.get(CHECKPOINT_KEY, {"measurements": [], "unlogged": 0})
        self._measurements = [Measurement(**fields) for fields in stored["measurements"]]
        self._unlogged = stored["unlogged"]
        self._note()

    def _read(self, num_ranks: int) -> None:
        """Take in the measured steps: one all-reduce and one host synchronisation; every rank must call it."""
        if not self._unread:
            return
        sums = torch.stack([values for _, _, values in self._unread])
        over_ranks = sum_over_ranks(sums[:, :2].contiguous())
        rows = torch.cat([over_ranks, sums[:, 2:]], dim=1).tolist()  # the host waits for the device here
        for (step, samples, _), (parts_sq, samples_sq, batch_sq) in zip(self._unread, rows, strict=True):
            if not 0 < samples_sq < samples**2 or not math.isfinite(parts_sq + batch_sq):
                continue  # one part is the batch, or training is about to fail
            measurement = Measurement(
                step=step,
                small_images=samples_sq / samples,
                # Of a sum over samples, times ranks / samples of the whole batch, is what is differentiated.
                small_sq=parts_sq / samples_sq * (samples / num_ranks) ** 2,
                big_images=samples,
                big_sq=batch_sq,
            )
            self._measurements.append(measurement)
            self._unlogged += 1
        self._unread, self._measurements = [], in_window(self._measurements)
        self._note()

    def _note(self) -> None:
        self._cockpit.noise = noise_scale(self._measurements)
        self._cockpit.measurements = len(self._measurements)

    def _log(self, step: int) -> None:
        recent = self._measurements[-self._unlogged :] if self._unlogged else []
        self._unlogged = 0
        if self._metric_log is None or not recent:
            return
        row = {
            "grad/noise_trace": statistics.fmean(measurement.trace for measurement in recent),
            "grad/signal_sq": statistics.fmean(measurement.signal_sq for measurement in recent),
        }
        if (scale := self._cockpit.noise) is not None:
            row |= {
                "grad/noise_scale_images": math.nan if scale.images is None else scale.images,
                "grad/noise_scale_low_images": scale.low,
                "grad/noise_scale_high_images": scale.high,
            }
        self._metric_log.write(step=step, row=row)


def is_told(epoch: int) -> bool:
    """Return whether the cockpit is logged after an epoch: 1 to 9, 10 to 90 by tens, by hundreds, and so on."""
    return epoch > 0 and epoch % 10 ** (len(str(epoch)) - 1) == 0


def choose_parts(
    model: nn.Module, *, images: int, num_passes: int, is_mixed: bool
) -> tuple[PartNorms | None, str | None]:
    """Return how the parts of a batch are told, or None and the reason.

    Args:
        images: of a step, over all ranks; num_passes: that they are trained in.
        is_mixed: whether neighbours are blended with each other, by which the two depend on each other.
    """
    samples_per_part = 2 if is_mixed else 1
    if images <= samples_per_part:
        return None, f"a batch of {images} has no parts to be compared with it"
    reason = why_not_by_sample(model)
    if reason is None:
        return SampleNorms(model, samples_per_part=samples_per_part), None
    if is_sharded(model):
        return None, f"{reason}, and sharded weights do not show those of single ranks"
    if num_passes < 2:
        return None, f"{reason}; two passes a step or more would do, by batch.micro_size or more ranks"
    return PassNorms(model), None
