"""Rows on each layer while a run trains (what they are of: layers.py), at almost no cost.

    LayerWatch(metric_log=metric_log, every_steps=200)      # at steps 1, 200, 400, ... and the last

A measured step is an ordinary one that is looked at; the others meet no hook.
"""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from pipeline.data.loader import Batch
from pipeline.track.layers import Layer, LayerSums, layers_of
from pipeline.track.metric_log import MetricLog

log = logging.getLogger(__name__)


class LayerWatch(pl.Callback):
    """Logs a row on the layers at the first step, every `every_steps` steps, and the last; on every rank.

    Of a compiled model only the weights and their gradients are seen, since hooks would cut or change its graph.
    """

    def __init__(self, *, metric_log: MetricLog | None, every_steps: int) -> None:
        self._metric_log, self._every_steps = metric_log, every_steps
        self._layers: list[Layer] = []
        self._is_compiled = False
        self._sums: LayerSums | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        model: nn.Module = pl_module.model
        self._layers = layers_of(model)
        self._is_compiled = any(getattr(part, "_compiled_call_impl", None) is not None for part in model.modules())
        if self._is_compiled:
            log.info("layers: trainer.compile leaves weights and their gradients alone to be watched, no activations")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        step = batch.step + 1
        if step % self._every_steps and step not in (1, pl_module.plan.total_steps):
            return
        if batch.micro == 0 or self._sums is None:
            self._sums = LayerSums(self._layers, device=pl_module.device)
        if not self._is_compiled:
            # The loss that is differentiated is that of the whole batch's mean, times the number of ranks.
            self._sums.attach(batch.weights_B, grad_scale=batch.global_weight / trainer.world_size)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: torch.Tensor) -> None:
        if self._sums is not None:
            self._sums.end_forward()

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        if self._sums is not None:
            self._sums.add_weight_gradients()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self._sums is None:
            return
        self._sums.detach()
        if batch.micro + 1 < pl_module.plan.micro_batches:
            return
        self._sums.add_weights()
        row = self._sums.read()
        self._sums = None
        if self._metric_log is not None:
            self._metric_log.write(step=batch.step + 1, row=row)
