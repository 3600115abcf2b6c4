"""Evaluations that are not of every epoch: where they are, and that training does not depend on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.training.checkpoint import stored_checkpoints
from runs import assert_equal_weights, metric_rows, train_here
from test_optimizer_resume import interrupted_at

# 100 samples in batches of 12: 8 steps an epoch.
OPTIONS = ["trainer.max_epochs=8", "checkpoint.keep=100", "trainer.log_every_steps=1000"]


def steps_of(run: Path, metric: str) -> list[int]:
    return [row["step"] for row in metric_rows(run) if metric in row]


def test_every_third_epoch_and_the_last_are_evaluated_logged_and_kept(
    synthetic: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every, third = tmp_path / "every", tmp_path / "third"
    train_here(synthetic.root, every, *OPTIONS)
    capsys.readouterr()
    train_here(synthetic.root, third, *OPTIONS, "evaluation.every_epochs=3")
    told = [line.split("  ")[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert steps_of(every, "val/loss") == [8 * epoch for epoch in range(1, 9)]
    assert steps_of(third, "val/loss") == steps_of(third, "train/loss") == [24, 48, 64]
    assert sorted(step for step, _ in stored_checkpoints(third / "checkpoints")) == [24, 48, 64]
    assert_equal_weights(every, third)
    # Between evaluations the training loss is that of all epochs since the one before.
    losses = {row["step"]: row["train/loss"] for row in metric_rows(every) if "train/loss" in row}
    means = [sum(losses[8 * epoch] for epoch in epochs) / len(epochs) for epochs in ([1, 2, 3], [4, 5, 6], [7, 8])]
    assert [float(loss.removeprefix("train loss ")) for _, loss in told] == pytest.approx(means, abs=2e-4)
    assert [epoch for epoch, _ in told] == ["epoch 3/8", "epoch 6/8", "epoch 8/8"]


@pytest.mark.parametrize("whole_set", [False, True], ids=["mini-batches", "full batch"])
def test_resumed_between_evaluations_a_run_ends_as_if_nothing_had_happened(
    synthetic: DataSet, tmp_path: Path, whole_set: bool
) -> None:
    options = [*OPTIONS, "evaluation.every_epochs=3", "model.dropout=0.2"]
    options += ["batch.size=full"] if whole_set else ["checkpoint.every_steps=5"]
    train_here(synthetic.root, tmp_path / "whole", *options)
    for step in (3, 6) if whole_set else (5, 24, 30):
        resumed = interrupted_at(step, tmp_path / "whole", tmp_path / f"resumed-{step}")
        train_here(synthetic.root, resumed, *options)
        assert_equal_weights(tmp_path / "whole", resumed)
        assert steps_of(resumed, "val/loss") == ([3, 6, 8] if whole_set else [24, 48, 64])


def test_never_to_evaluate_is_refused() -> None:
    with pytest.raises(UserError, match="every_epochs=0: at least 1"):
        compose("train", TRAIN_SCHEMAS, ["data.path=x", "evaluation.every_epochs=0"])
