"""The loaders, handed to Lightning.

datamodule = PackedDataModule(train=loader, val=eval_loader)
trainer.fit(module, datamodule=datamodule)
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from pipeline.data.loader import Batch, BatchLoader


class PackedDataModule(pl.LightningDataModule):
    """Gives the trainer its loaders and copies batches to its device."""

    def __init__(self, *, train: BatchLoader, val: BatchLoader) -> None:
        super().__init__()
        self.train, self.val = train, val

    def train_dataloader(self) -> BatchLoader:
        return self.train

    def val_dataloader(self) -> BatchLoader:
        return self.val

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Any:
        loader = self.train if self.trainer is not None and self.trainer.training else self.val
        return loader.to_device(batch, device)
