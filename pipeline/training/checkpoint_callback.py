"""When a run saves: every so many updates, after each epoch's evaluation, at the end, and when told to stop.

Kept are the newest and, if wanted, those with the best metric; each checkpoint carries the metrics of all before it,
so a resumed run knows which of the files that lie there are the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from pipeline.shards.errors import UserError
from pipeline.training.background import BackgroundWriter
from pipeline.training.checkpoint import checkpoint_name, collect_checkpoint, prune_checkpoints, write_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What is saved when, and kept how long.

    Attributes:
        every_steps: updates between checkpoints within an epoch; None: none.
        newest, best: how many are kept.
        metric: evaluation's, that decides the best, e.g. val/top1_frac; `lowest`: the lowest value is the best.
        background: write in a thread beside training.
    """

    every_steps: int | None = None
    newest: int = 2
    best: int = 0
    metric: str = "val/top1_frac"
    lowest: bool = False
    background: bool = True


class CheckpointCallback(pl.Callback):
    """Saves and prunes; it must come after all callbacks that write what belongs to a step.

    Args:
        resume_step: of the checkpoint that the run goes on from; 0: from the start.
    """

    def __init__(self, folder: Path, *, keeping: Keeping, fingerprint: dict[str, Any], resume_step: int) -> None:
        self.folder, self.keeping, self.fingerprint = folder, keeping, fingerprint
        self.writer = BackgroundWriter(self._publish, background=keeping.background, stored_step=resume_step or None)
        self.saved_step = resume_step
        self._metric_of: dict[int, float] = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["fingerprint"] = self.fingerprint
        checkpoint["metrics"] = {self.keeping.metric: dict(self._metric_of)}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._metric_of = dict(checkpoint.get("metrics", {}).get(self.keeping.metric, {}))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        every_steps = self.keeping.every_steps
        if every_steps and is_inside_epoch(trainer) and trainer.global_step % every_steps == 0:
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics: Mapping[str, float] = pl_module.eval_metrics  # type: ignore[assignment]
        value = metrics.get(self.keeping.metric.removeprefix("val/"))
        if value is not None:
            self._metric_of[trainer.global_step] = float(value)
        self.save(trainer)
        if value is None and self.keeping.best:
            there_are = ", ".join(f"val/{name}" for name in metrics)
            raise UserError(f"checkpoint.metric={self.keeping.metric}: evaluation gives {there_are}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer)  # where the run ended inside an epoch
        self.writer.wait()

    def save(self, trainer: pl.Trainer) -> None:
        """Save the present step, if it is not; every rank must call it. The file may appear later: `writer.wait`."""
        step = trainer.global_step
        if step == self.saved_step:
            return
        self.saved_step = step
        # A checkpoint promises that every rank has written what belongs to its steps, so none may lag behind.
        trainer.strategy.barrier("before a checkpoint")
        self.writer.write(step, collect_checkpoint(trainer), is_writer=trainer.is_global_zero)

    def _publish(self, step: int, content: Mapping[str, Any]) -> None:
        write_checkpoint(content, self.folder / checkpoint_name(step))
        prune_checkpoints(
            self.folder,
            content["metrics"][self.keeping.metric],
            keep=self.keeping.newest,
            keep_best=self.keeping.best,
            lowest=self.keeping.lowest,
        )


def is_inside_epoch(trainer: pl.Trainer) -> bool:
    """Return whether, at the end of a batch, an update has just been made and the epoch goes on after it."""
    epoch_loop = trainer.fit_loop.epoch_loop
    return not epoch_loop._should_accumulate() and not epoch_loop.batch_progress.is_last_batch
