"""Lightning's training loop without what this project does not use: a step is the same to the bit.

    trainer = pl.Trainer(...)
    use_step_loop(trainer)

Lightning's own calls each of some thirty hooks on every callback and on the module, whether it does anything or not,
keeps results of `self.log`, and wraps the optimiser three times. This one calls the hooks that somebody has written, in
Lightning's order, and keeps Lightning's counters: checkpoints, resumes and `trainer.global_step` are as ever. It saves
0.46 ms a step of the thread that trains (median of 7 pairs, 0.39 to 0.86), of 1.5 where the model is tiny. The first
batch after a resume goes through Lightning's loop, which alone knows how to start in the middle.

Not there: `self.log`, learning-rate schedulers, several optimisers, manual optimisation, a hook that returns -1, and
the hooks on zero_grad and of the strategy. None of them is used (`tests/training/test_step_loop.py` holds both loops
against each other).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.strategies import ParallelStrategy

# In the order of a step.
HOOKS = (
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class StepLoop(_TrainingEpochLoop):
    """One epoch's steps: fetch, forward, backward and, after the last micro-batch, the update."""

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        module = self.trainer.lightning_module
        self._callback_hooks = {
            name: [getattr(one, name) for one in self.trainer.callbacks if _is_written(one, name, pl.Callback)]
            for name in HOOKS
        }
        self._module_hooks = {
            name: getattr(module, name) for name in HOOKS if _is_written(module, name, pl.LightningModule)
        }

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if self.restarting:
            super().advance(data_fetcher)
            return
        strategy, progress = self.trainer.strategy, self.batch_progress
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        progress.is_last_batch = data_fetcher.done
        batch = self.trainer.datamodule.transfer_batch_to_device(batch, strategy.root_device, 0)
        progress.increment_ready()
        self._call("on_train_batch_start", batch, batch_idx)
        progress.increment_started()
        loss = self._step(batch, batch_idx)
        progress.increment_processed()
        self._call("on_train_batch_end", {"loss": loss}, batch, batch_idx)
        progress.increment_completed()

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        if self.batch_progress.is_last_batch or self._skip_next_val or self.trainer.should_stop:
            super().on_advance_end(data_fetcher)
        elif not self._should_accumulate():
            self._batches_that_stepped += 1

    def _should_check_val_epoch(self) -> bool:
        """Return whether this epoch ends with an evaluation; the last one does, whatever its number."""
        is_done = self.trainer.global_step == self.trainer.max_steps
        return super()._should_check_val_epoch() or (is_done and self.trainer.enable_validation)

    def _step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Run a micro-batch, and update after the last one of a step; return the loss."""
        trainer, optimizer = self.trainer, self.trainer.optimizers[0]
        micro_batches = trainer.accumulate_grad_batches
        accumulates = self._should_accumulate()
        counters = self.automatic_optimization.optim_progress.optimizer
        with self._exchange(accumulates):
            loss: torch.Tensor = trainer.strategy.training_step(batch, batch_idx)
            if micro_batches > 1:
                loss = loss / micro_batches
            if batch_idx % micro_batches == 0:
                optimizer.zero_grad()
                counters.zero_grad.increment_ready()
                counters.zero_grad.increment_started()
                counters.zero_grad.increment_completed()
            self._call("on_before_backward", loss)
            loss.backward()  # type: ignore[no-untyped-call]
            self._call("on_after_backward")
        if not accumulates:
            counters.step.increment_ready()
            self._call("on_before_optimizer_step", optimizer)
            trainer.lightning_module.configure_gradient_clipping(optimizer)
            optimizer.step()
            counters.step.increment_completed()
        return loss.detach()

    def _exchange(self, accumulates: bool) -> AbstractContextManager[None]:
        """Return the context in which ranks exchange gradients, or, while they accumulate, do not."""
        strategy = self.trainer.strategy
        return (
            strategy.block_backward_sync() if accumulates and isinstance(strategy, ParallelStrategy) else nullcontext()
        )

    def _call(self, name: str, *arguments: Any) -> None:
        for hook in self._callback_hooks[name]:
            hook(self.trainer, self.trainer.lightning_module, *arguments)
        if name in self._module_hooks:
            self._module_hooks[name](*arguments)


def use_step_loop(trainer: pl.Trainer) -> None:
    """Give a trainer this loop in the place of its own, before it fits anything."""
    own = trainer.fit_loop.epoch_loop
    trainer.fit_loop.epoch_loop = StepLoop(trainer, min_steps=own.min_steps, max_steps=own.max_steps)


def _is_written(one: object, name: str, base: type) -> bool:
    return getattr(type(one), name) is not getattr(base, name)
