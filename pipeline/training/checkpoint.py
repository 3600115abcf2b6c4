"""Checkpoints: written whole or not at all, verified before they are trusted, loaded without unpickling code.

checkpoints/step-0000000391.ckpt            torch.save, loads with weights_only=True
checkpoints/step-0000000391.ckpt.sha256     published first, so a checkpoint under its name has its checksum

newest = newest_whole_checkpoint(Path("runs/0001/checkpoints"))      # a damaged one falls back to the one before
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO

from pipeline.shards.check import file_sha256
from pipeline.shards.publish import fsync_folder, publish, publish_bytes

log = logging.getLogger(__name__)

NAME_PATTERN = re.compile(r"step-(\d{10})\.ckpt")
SHA256_SUFFIX = ".sha256"


def checkpoint_name(step: int) -> str:
    """Return the file name of the checkpoint after `step` updates."""
    return f"step-{step:010d}.ckpt"


def stored_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of every checkpoint, newest first, unverified."""
    matches = ((NAME_PATTERN.fullmatch(path.name), path) for path in folder.glob("step-*.ckpt"))
    return sorted(((int(match.group(1)), path) for match, path in matches if match), reverse=True)


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint whose bytes fit its checksum, with a warning for each that was passed over."""
    for _, path in stored_checkpoints(folder):
        checksum = path.with_name(path.name + SHA256_SUFFIX)
        if checksum.is_file() and checksum.read_text().strip() == file_sha256(path):
            return path
        log.warning("%s: damaged (its checksum does not fit); falling back to the one before", path)
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU; only tensors and plain containers are accepted."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


class AtomicCheckpointIO(CheckpointIO):
    """How Lightning's strategies write and read checkpoints: part file, fsync, checksum, rename."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if storage_options is not None:
            raise TypeError("storage_options are not supported")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with publish(path) as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            checksum = file_sha256(Path(stream.name))
            publish_bytes(path.with_name(path.name + SHA256_SUFFIX), f"{checksum}\n".encode())

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        path = Path(path)
        path.unlink(missing_ok=True)
        path.with_name(path.name + SHA256_SUFFIX).unlink(missing_ok=True)
        fsync_folder(path.parent)


class CheckpointCallback(pl.Callback):
    """Saves every `every_steps` updates and at the end of each epoch, after its evaluation; keeps the newest."""

    def __init__(self, folder: Path, *, every_steps: int | None, keep: int, fingerprint: dict[str, Any]) -> None:
        self.folder, self.every_steps, self.keep = folder, every_steps, keep
        self.fingerprint = fingerprint

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["fingerprint"] = self.fingerprint

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        epoch_loop = trainer.fit_loop.epoch_loop
        stepped = not epoch_loop._should_accumulate()
        last_of_epoch = epoch_loop.batch_progress.is_last_batch
        if self.every_steps and stepped and not last_of_epoch and trainer.global_step % self.every_steps == 0:
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not (self.folder / checkpoint_name(trainer.global_step)).exists():  # the run ended inside an epoch
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Save now; every rank must call it."""
        path = self.folder / checkpoint_name(trainer.global_step)
        # A checkpoint promises that every rank has written what belongs to its steps, so none may lag behind.
        trainer.strategy.barrier("before a checkpoint")
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            for _, old in stored_checkpoints(self.folder)[self.keep :]:
                AtomicCheckpointIO().remove_checkpoint(old)
