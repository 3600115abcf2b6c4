"""The callback beside `freeze_body`: what is not trained is not in training mode either.

freeze_body(model)                                                  # initial.py
callbacks.append(FrozenBody(model))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from torch import nn

from pipeline.model.roles import output_layer


class FrozenBody(pl.Callback):
    """Keeps a frozen body in evaluation mode, so that no dropout and no statistics of batches change its features."""

    def __init__(self, model: nn.Module) -> None:
        self._body = list(_body_of(model))

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        # Lightning puts all into training mode at the start, and again after an evaluation.
        for module in self._body:
            module.training = False


def _body_of(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules before the head, without those that it is a part of."""
    head, _ = output_layer(model)
    for name, module in model.named_modules():
        if name == head:
            return
        if name and not head.startswith(f"{name}."):
            yield module
