"""Checkpoints: written whole or not at all, verified before they are trusted, loaded without unpickling code.

checkpoints/step-0000000391.ckpt            torch.save, loads with weights_only=True
checkpoints/step-0000000391.ckpt.sha256     published first, so a checkpoint under its name has its checksum
checkpoints/best.ckpt                       a link to the one with the best metric, with checkpoint.keep_best

newest = newest_whole_checkpoint(Path("runs/0001/checkpoints"))      # a damaged one falls back to the one before
steps_to_keep([8, 16, 24, 32], {8: 0.41, 16: 0.48, 24: 0.43}, keep=1, keep_best=1, lowest=False)      # {16, 32}
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO

from pipeline.shards.check import file_sha256
from pipeline.shards.errors import UserError
from pipeline.shards.publish import PART_SUFFIX, fsync_folder, publish, publish_bytes

log = logging.getLogger(__name__)

NAME_PATTERN = re.compile(r"step-(\d{10})\.ckpt")
SHA256_SUFFIX = ".sha256"
DAMAGED_SUFFIX = ".damaged"
BEST_LINK = "best.ckpt"


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
        if is_whole(path):
            return path
        log.warning("%s: damaged (its checksum does not fit); falling back to the one before", path)
    return None


def is_whole(path: Path) -> bool:
    """Return whether a checkpoint's bytes are those that were written."""
    checksum = _sha256_path(path)
    return checksum.is_file() and checksum.read_text().strip() == file_sha256(path)


def checkpoint_to_resume(folder: Path) -> Path | None:
    """Return the newest whole checkpoint, None where there is none at all; damaged newer ones are set aside.

    They get the suffix `.damaged`: under their names they would count among the newest that are kept.

    Raises:
        UserError: there are checkpoints, and every one is damaged: to start anew is not for us to decide.
    """
    found = newest_whole_checkpoint(folder)
    stored = stored_checkpoints(folder)
    if stored and found is None:
        raise UserError(
            f"{folder}: every checkpoint is damaged ({', '.join(path.name for _, path in stored)}): restore one, or"
            " remove them all to start the run again from its first step"
        )
    for _, path in stored:
        if path == found:
            break
        path.replace(path.with_name(path.name + DAMAGED_SUFFIX))
    return found


def load_checkpoint(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Load a checkpoint onto the CPU; only tensors and plain containers are accepted.

    Args:
        mapped: map the file into memory, so that of each tensor no more is read than is looked at; the tensors hold
            on to the file.
    """
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    return content


def collect_checkpoint(trainer: pl.Trainer) -> dict[str, Any]:
    """Return all that a run needs to go on, as it lies on this rank: of a sharded model, shards.

    The tensors are the run's own: the next step changes them.
    """
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Publish a checkpoint and, before it, the checksum of the bytes as they were handed to the file.

    Raises:
        OSError: it could not be written; what was there before is there still.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with publish(path) as stream:
        hashing = _HashingStream(stream)
        torch.save(content, hashing)  # type: ignore[arg-type]  # anything with write and flush
        publish_bytes(_sha256_path(path), f"{hashing.finish()}\n".encode())


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and its checksum."""
    path.unlink(missing_ok=True)
    _sha256_path(path).unlink(missing_ok=True)


def steps_to_keep(
    steps: Iterable[int], metric_of: Mapping[int, float], *, keep: int, keep_best: int, lowest: bool
) -> set[int]:
    """Return the `keep` newest steps and the `keep_best` with the best metric, of equal ones the newest.

    Steps without a metric, and metrics that are not finite, are no candidates for the best.
    """
    steps = sorted(steps, reverse=True)
    measured = [step for step in steps if math.isfinite(metric_of.get(step, math.nan))]
    by_metric = sorted(measured, key=lambda step: metric_of[step] if lowest else -metric_of[step])
    return {*steps[:keep], *by_metric[:keep_best]}


def prune_checkpoints(
    folder: Path, metric_of: Mapping[int, float], *, keep: int, keep_best: int, lowest: bool = False
) -> None:
    """Remove the checkpoints that `steps_to_keep` does not name, and let best.ckpt point at the best."""
    stored = dict(stored_checkpoints(folder))
    if keep_best and (best := steps_to_keep(stored, metric_of, keep=0, keep_best=1, lowest=lowest)):
        part = folder / f".{BEST_LINK}{PART_SUFFIX}"
        part.unlink(missing_ok=True)
        part.symlink_to(checkpoint_name(*best))
        part.replace(folder / BEST_LINK)
    for step in stored.keys() - steps_to_keep(stored, metric_of, keep=keep, keep_best=keep_best, lowest=lowest):
        remove_checkpoint(stored[step])
    for checksum in folder.glob(f"step-*{SHA256_SUFFIX}"):  # left by a kill between two removals
        if not checksum.with_suffix("").exists():
            checksum.unlink()
    fsync_folder(folder)


class AtomicCheckpointIO(CheckpointIO):
    """How Lightning's strategies write and read checkpoints."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if storage_options is not None:
            raise TypeError("storage_options are not supported")
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        remove_checkpoint(Path(path))


class _HashingStream:
    """Hashes what it passes on; keeps the first OSError for later, as torch's writer in C++ would change it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._sha256 = stream, hashlib.sha256()
        self._error: OSError | None = None

    def write(self, content: bytes | memoryview) -> int:
        if self._error is None:
            try:
                self._stream.write(content)
                self._sha256.update(content)
            except OSError as error:
                self._error = error
        return memoryview(content).nbytes

    def flush(self) -> None:
        """Nothing: `finish` does it."""

    def finish(self) -> str:
        """Return the hexadecimal SHA-256 of all bytes.

        Raises:
            OSError: of the first write that failed.
        """
        if self._error is not None:
            raise self._error
        self._stream.flush()
        return self._sha256.hexdigest()


def _sha256_path(path: Path) -> Path:
    return path.with_name(path.name + SHA256_SUFFIX)
