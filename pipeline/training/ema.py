"""An exponential moving average of the weights, evaluated in their place.

    average = WeightAverage(decay=0.9999)               # a callback, before the one that saves checkpoints
    with average.in_place(module.model):                # the model has the averaged weights
        ...
    evaluated_weights(load_checkpoint(path))            # the average where there is one, else the weights

Polyak averaging (Polyak and Juditsky 1992) with exponential forgetting, which evens out the noise of the last updates.
The decay of update t is min(decay, (1 + t) / (10 + t)), so that a young average is not that of the initial weights
(TensorFlow's ExponentialMovingAverage): a function of the step, so there is nothing to store but the average.

Floating-point buffers (a batch norm's statistics) are averaged too; they belong to the weights. Whole numbers are
taken as they are. In a checkpoint the average is `ema`, a plain state dict of the model, whole also where FSDP cuts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from pipeline.training.optim_state import local
from pipeline.training.sharding import fill

CHECKPOINT_KEY = "ema"


class WeightAverage(pl.Callback):
    """Keeps the average, on the model's device, and lends it to the model for each evaluation."""

    def __init__(self, *, decay: float) -> None:
        self.decay = decay
        self._average: dict[str, torch.Tensor] | None = None

    def start(self, model: nn.Module) -> None:
        """Begin with the model's present weights, or take what a checkpoint held onto the model's device."""
        state = _state_of(model)
        if self._average is None:
            self._average = {name: value.clone() for name, value in state.items()}
        else:
            # Copies: what a checkpoint held may be loaded elsewhere too, and is a file that is mapped into memory.
            stored = self._average
            self._average = {name: torch.empty_like(value) for name, value in state.items()}
            for name, value in self._average.items():
                fill(value, stored[name])

    @torch.no_grad()
    def update(self, model: nn.Module, *, finished_steps: int) -> None:
        """Take in the weights after an update, the `finished_steps`-th of the run."""
        decay = decay_after(finished_steps, decay=self.decay)
        average, state = self._started(), _state_of(model)
        means = [local(average[name]) for name in state if state[name].is_floating_point()]
        values = [local(value) for value in state.values() if value.is_floating_point()]
        torch._foreach_lerp_(means, values, 1 - decay)
        for name, value in state.items():
            if not value.is_floating_point():
                average[name].copy_(value)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights, and its own ones back at the end, to the last bit."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        # In place, one tensor after the other: nothing else holds the model's tensors by another address, and no
        # third copy of the weights is needed.
        for name, value in _state_of(model).items():
            mine, theirs = local(self._started()[name]), local(value)
            kept = theirs.clone()
            theirs.copy_(mine)
            mine.copy_(kept)

    def _started(self) -> dict[str, torch.Tensor]:
        if self._average is None:
            raise RuntimeError("the average has not been started")
        return self._average

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.start(pl_module.model)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch.micro + 1 == pl_module.plan.micro_batches:
            self.update(pl_module.model, finished_steps=trainer.global_step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._exchange(pl_module.model)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._exchange(pl_module.model)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[CHECKPOINT_KEY] = dict(self._started())

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._average = checkpoint.get(CHECKPOINT_KEY)


def decay_after(finished_steps: int, *, decay: float) -> float:
    """Return the share that the average keeps in the update number `finished_steps`, counted from 1."""
    return min(decay, (1 + finished_steps) / (10 + finished_steps))


def evaluated_weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return a checkpoint's weights to evaluate, under the names of the Lightning module's state dict."""
    if CHECKPOINT_KEY not in checkpoint:
        return dict(checkpoint["state_dict"])
    return {f"model.{name}": value for name, value in checkpoint[CHECKPOINT_KEY].items()}


def _state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model.state_dict().items()}
