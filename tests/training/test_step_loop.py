"""Lightning's own training loop is the oracle: the same weights, counters and order of hooks from the leaner one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from pipeline.shards.manifest import DataSet
from pipeline.training.checkpoint import load_checkpoint
from runs import assert_equal_weights, metric_rows, train_here

OPTIONS = ["trainer.max_epochs=2", "checkpoint.every_steps=3", "checkpoint.keep=9", "trainer.log_every_steps=1"]
CASES = {
    "plain": [],
    "micro-batches, the last one short": ["batch.micro_size=5"],
    "clipped, averaged, in bf16": ["trainer.clip_norm=0.1", "ema.decay=0.9", "trainer.precision=bf16"],
    "ends inside an epoch": ["trainer.max_steps=11"],
    "momentum, mixup, dropout": [
        *("optimizer=sgd", "optimizer.momentum=0.9"),
        *("augment.mixup_alpha=0.5", "model.dropout=0.2"),
    ],
}


class Spy(pl.Callback):
    """Notes which hook was called when, and the counters that it found."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def _note(self, name: str, trainer: pl.Trainer) -> None:
        self.calls.append((name, trainer.global_step, trainer.fit_loop.epoch_loop.batch_idx))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note("epoch start", trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._note("batch start", trainer)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Any) -> None:
        self._note(f"before backward of {loss.item()}", trainer)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note("after backward", trainer)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self._note("before update", trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._note("batch end", trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note("evaluation", trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note("evaluated", trainer)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_runs_are_those_of_lightnings_loop_with_its_checkpoints_counters_and_hooks(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    spies = {"own": Spy(), "lightning": Spy()}
    for name, spy in spies.items():
        monkeypatch.setattr("pipeline.run_tracking.build_tracking", lambda *_, spy=spy, **__: [spy])
        if name == "lightning":
            monkeypatch.setattr("pipeline.build_trainer.use_step_loop", lambda trainer: None)
        train_here(synthetic.root, tmp_path / name, *OPTIONS, *options)
    assert len(spies["own"].calls) > 40
    assert spies["own"].calls == spies["lightning"].calls
    assert_equal_weights(tmp_path / "own", tmp_path / "lightning")
    own, theirs = (sorted((tmp_path / name / "checkpoints").glob("step*.ckpt")) for name in spies)
    assert [path.name for path in own] == [path.name for path in theirs]
    for left, right in zip(own, theirs, strict=True):
        left_loops, right_loops = (load_checkpoint(path)["loops"]["fit_loop"] for path in (left, right))
        for key in left_loops | right_loops:
            assert left_loops[key] == right_loops[key], key
    for left_row, right_row in zip(*(metric_rows(tmp_path / name) for name in spies), strict=True):
        exact = [key for key in left_row if not key.startswith(("rate/", "mem/"))]
        assert {key: left_row[key] for key in exact} == {key: right_row[key] for key in exact}
