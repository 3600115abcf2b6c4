"""Which samples each update was made of: sample_ids.rank<R>.jsonl, with `log_sample_ids=true`.

{"step": 1, "ids": [8, 3, 77, ...]}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl

from pipeline.data.loader import Batch


class SampleIdLog(pl.Callback):
    """Writes {"step", "ids"} of every update of this rank to sample_ids.rank<R>.jsonl.

    On resume, lines after the checkpoint's step are cut, so the file reads as that of a run never interrupted.
    """

    def __init__(self, folder: Path, *, rank: int, resume_step: int) -> None:
        self.path = folder / f"sample_ids.rank{rank}.jsonl"
        kept_bytes = 0
        if self.path.exists():
            for line in self.path.read_bytes().splitlines(keepends=True):
                try:
                    is_kept = line.endswith(b"\n") and json.loads(line)["step"] <= resume_step
                except ValueError:  # torn by a kill
                    is_kept = False
                if not is_kept:
                    break
                kept_bytes += len(line)
        # Cut in place: a file written anew is empty for a moment, in which this process may be killed.
        self._stream: TextIO = self.path.open("a")
        self._stream.truncate(kept_bytes)
        self._ids: list[int] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._ids += [int(i) for i, weight in zip(batch.sample_ids, batch.weights_B.tolist(), strict=True) if weight]
        if batch.micro + 1 == pl_module.plan.micro_batches:
            self._stream.write(json.dumps({"step": batch.step + 1, "ids": self._ids}) + "\n")
            self._stream.flush()
            self._ids = []

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stream.close()
