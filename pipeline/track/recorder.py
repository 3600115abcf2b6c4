"""What a run says of itself while it trains: rows for the metric log, a bar, a line for each epoch.

The recorder reads the module's sums every `log_every_steps` updates: one all-reduce and one host synchronisation,
whatever the number of metrics.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from tqdm import tqdm

from pipeline.data.counting import counters_of
from pipeline.data.loader import Batch, BatchLoader
from pipeline.shards.errors import UserError
from pipeline.track.loss_limit import LossLimit
from pipeline.track.metric_log import MetricLog
from pipeline.track.starvation import counter_rates
from pipeline.track.utilisation import Utilisation
from pipeline.training.module import ClassifierModule
from pipeline.training.step_plan import StepPlan


class Recorder(pl.Callback):
    """Logs training and evaluation; `metric_log` is None on every rank but 0.

    Attributes:
        trained_s: seconds of all steps so far, evaluation and checkpoints left out.
        replayed: this rank's part of the last step's batch, for measurements after training; None before.
    """

    def __init__(
        self,
        *,
        metric_log: MetricLog | None,
        loader: BatchLoader,
        utilisation: Utilisation,
        log_every_steps: int,
        images_per_step: int,
        loss_limit: LossLimit,
    ) -> None:
        self.loss_limit = loss_limit
        self.metric_log, self.loader, self.utilisation = metric_log, loader, utilisation
        self.log_every_steps, self.images_per_step = log_every_steps, images_per_step
        self._trained_steps = 0
        self.trained_s = 0.0
        self._waited_s = self._trained_by_all_s = 0.0
        self._bar: Any = None
        self._logged_step = 0
        self._asked_s = self._waited_before_s = 0.0
        self._epoch_loss = self._epoch_weight = self._epoch_s = 0.0
        self._epoch_steps = 0
        self._counters: dict[str, float] = {}
        self.replayed: Batch | None = None

    @property
    def trained_images(self) -> int:
        """Of all ranks, in all steps so far."""
        return self._trained_steps * self.images_per_step

    @property
    def images_per_s(self) -> float:
        """Of all steps so far, evaluation and checkpoints left out; 0 before the first."""
        return self.trained_images / self.trained_s if self._trained_steps else 0.0

    @property
    def data_wait_frac(self) -> float:
        """Share of the same time that ranks, on average, waited for data."""
        return self._waited_s / self.trained_s if self._trained_steps else 0.0

    def state_dict(self) -> dict[str, Any]:
        return self.loss_limit.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss_limit.put_back(state_dict)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # In the all-reduce of the metrics: seconds waited for data, seconds passed, the device's peak and use, and what
        # the reader counts.
        self._counters = counters_of(self.loader.reader)
        self.utilisation.start(pl_module.device)
        pl_module.num_extra_sums = 4 + len(self._counters)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is None:  # not in the middle of epochs that are not evaluated
            self._open_epoch(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if self._bar is None:  # resumed in the middle of an epoch
            self._open_epoch(trainer, pl_module)
        if batch.micro == 0 and trainer.global_step + 1 == trainer.max_steps:
            self.replayed = batch

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        if is_logged(trainer.global_step + 1, every_steps=self.log_every_steps, plan=pl_module.plan):
            pl_module.measure_grad_norm()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if batch.micro + 1 < pl_module.plan.micro_batches:
            return
        self._bar.update(1)
        if is_logged(step, every_steps=self.log_every_steps, plan=pl_module.plan):
            self._log_training(trainer, pl_module, step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.state.fn != "fit" or self._bar is None:
            return
        metrics = pl_module.eval_metrics
        self._bar.close()
        self._bar = None
        self._reset_clock()
        if self.metric_log is None:
            return
        step = trainer.global_step
        val = {f"val/{key}": value for key, value in metrics.items() if key != "samples"}
        self.metric_log.write(step=step, row={"epoch": step / pl_module.plan.steps_per_epoch, **val})
        epoch_s = max(self._epoch_s, 1e-9)
        last_epoch = -(-pl_module.plan.total_steps // pl_module.plan.steps_per_epoch)
        sys.stdout.write(
            f"epoch {-(-step // pl_module.plan.steps_per_epoch)}/{last_epoch}"
            f"  train loss {self._epoch_loss / max(self._epoch_weight, 1e-300):.4f}"
            f"  val loss {metrics['loss']:.4f}  {_quality(metrics)}"
            f"  {self._epoch_steps * self.images_per_step / epoch_s:,.0f} images/s  {epoch_s:.1f} s\n"
        )
        sys.stdout.flush()

    def _open_epoch(self, trainer: pl.Trainer, pl_module: Any) -> None:
        steps = pl_module.plan.steps_per_evaluation
        first = trainer.global_step % steps
        self._bar = tqdm(
            total=min(steps, pl_module.plan.total_steps - trainer.global_step + first),
            initial=first,
            desc=f"epoch {trainer.global_step // pl_module.plan.steps_per_epoch + 1}",
            unit=" steps",
            leave=False,
            disable=self.metric_log is None or not sys.stderr.isatty(),
        )
        self._epoch_loss = self._epoch_weight = self._epoch_s = 0.0
        self._epoch_steps = 0
        self._logged_step = trainer.global_step
        self._reset_clock()

    def _reset_clock(self) -> None:
        self._asked_s, self._waited_before_s = time.perf_counter(), self.loader.wait_s

    def _log_training(self, trainer: pl.Trainer, module: ClassifierModule, step: int) -> None:
        passed_s = time.perf_counter() - self._asked_s
        waited_s = self.loader.wait_s - self._waited_before_s
        counters = counters_of(self.loader.reader)
        counted = {name: value - self._counters[name] for name, value in counters.items()}
        self._counters = counters
        extra = (waited_s, passed_s, *self.utilisation.of_this_rank(), *counted.values())
        metrics, totals = module.train_sums.read(extra=extra)
        total_waited_s, total_passed_s, peak_flops_per_s, gpu_use, *total_counted = totals
        steps = step - self._logged_step
        self._trained_steps += steps
        self.trained_s += passed_s
        self._waited_s += total_waited_s / max(1, trainer.world_size)
        self._trained_by_all_s += total_passed_s
        self._epoch_loss += metrics["loss"] * metrics["samples"]
        self._epoch_weight += metrics["samples"]
        self._epoch_s += passed_s
        self._epoch_steps += steps
        self._logged_step = step
        if not math.isfinite(metrics["loss"]):
            raise UserError(
                f"the training loss is not finite between steps {step - steps + 1} and {step}: try a smaller"
                f" optimizer.rate, or trainer.clip_norm=1; the last checkpoint is from before; to see the images:"
                f" python -m pipeline.inspect run={self._folder_name()} step={step - steps + 1}"
            )
        images_per_s = steps * self.images_per_step / max(passed_s, 1e-9)
        speed = self.utilisation.row(
            images_per_s=images_per_s,
            peak_flops_per_s=peak_flops_per_s,
            gpu_use=gpu_use,
            world_size=trainer.world_size,
        )
        if self.metric_log is not None:
            row_bytes = steps * self.images_per_step * math.prod(self.loader.reader.image_shape)
            row = {
                "epoch": step / module.plan.steps_per_epoch,
                **{f"train/{name}": value for name, value in metrics.items() if name != "samples"},
                "rate/learning_rate": module.plan.rate_at(step - 1),
                "rate/images_per_s": images_per_s,
                **speed,
                "rate/data_wait_frac": total_waited_s / max(total_passed_s, 1e-9),
                "rate/data_bytes_per_s": row_bytes / max(passed_s, 1e-9),
                **counter_rates(
                    dict(zip(counted, total_counted, strict=True)),
                    passed_s=passed_s,
                    num_threads=torch.get_num_threads() * trainer.world_size,
                ),
                "mem/rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
            if module.grad_norm is not None:
                row["grad/norm"] = float(module.grad_norm)  # known by now: the host has waited for what came after it
            if module.device.type == "cuda":
                row["mem/gpu_bytes"] = torch.cuda.max_memory_allocated(module.device)
            self.metric_log.write(step=step, row=row)
            self._bar.set_postfix_str(f"loss {metrics['loss']:.3f}", refresh=False)
        if self.loss_limit.is_over(metrics["loss"]):
            raise UserError(
                f"the training loss is {metrics['loss']:.4g} after step {step}, over {self.loss_limit.ratio:g} times"
                " its start (trainer.max_loss_ratio): try a smaller optimizer.rate, or trainer.clip_norm=1"
            )
        self.utilisation.measure_when_due(self._trained_by_all_s / trainer.world_size)
        self._reset_clock()

    def _folder_name(self) -> str:
        return str(self.metric_log.path.parent) if self.metric_log is not None else "..."


def is_logged(step: int, *, every_steps: int, plan: StepPlan) -> bool:
    """Return whether there is a row after `step` updates: every so many, before an evaluation, and at the end."""
    return step % every_steps == 0 or step % plan.steps_per_evaluation == 0 or step == plan.total_steps


def _quality(metrics: dict[str, float]) -> str:
    """Return how good the model is: its accuracy, of several labels average precision, of a regression R squared."""
    if "r2_frac" in metrics:
        return f"val variance explained {100 * metrics['r2_frac']:.2f} %"
    if "map_frac" in metrics:
        return f"val average precision {100 * metrics['map_frac']:.2f} %"
    return f"val accuracy {100 * metrics['top1_frac']:.2f} %"
