"""Runs with each optimiser, stopped and gone on with, end as if nothing had happened, to the last bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from forked import fork_ranks, kill_ranks, wait_for_step
from pipeline.run_folder import SUMMARY_FILE
from pipeline.shards.manifest import DataSet
from pipeline.training.checkpoint import load_checkpoint, stored_checkpoints
from runs import SMALL, assert_equal_weights, run_ranks, train_here

MUON = ["optimizer=muon", "model.hidden=[16,16,16]"]
EVERYTHING = [
    *MUON,
    "ema.decay=0.9",
    "optimizer.layer_decay=0.7",
    "optimizer.reference_batch=6",
    "schedule=linear",
    "schedule.decay={value:0.5,unit:frac}",
]
# 100 samples in batches of 12: 8 steps an epoch, 2 epochs.
OPTIONS = ["trainer.max_epochs=2", "checkpoint.every_steps=1", "checkpoint.keep=100", "model.dropout=0.2"]


def interrupted_at(step: int, whole: Path, copy: Path) -> Path:
    """Copy a finished run as it lay on the disk after `step` updates."""
    shutil.copytree(whole, copy)
    (copy / SUMMARY_FILE).unlink()
    for stored_step, path in stored_checkpoints(copy / "checkpoints"):
        if stored_step > step:
            path.unlink()
    return copy


def assert_equal_checkpoints(first: Path, second: Path) -> None:
    """Assert equal weights, optimiser states and averages."""
    assert_equal_weights(first, second)
    left, right = (load_checkpoint(stored_checkpoints(run / "checkpoints")[0][1]) for run in (first, second))
    (momenta,), (others,) = left["optimizer_states"], right["optimizer_states"]
    assert momenta["param_groups"] == others["param_groups"]
    torch.testing.assert_close(momenta["state"], others["state"], rtol=0, atol=0)
    torch.testing.assert_close(left.get("ema", {}), right.get("ema", {}), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [["optimizer=lion"], ["optimizer=sgd"], MUON, ["ema.decay=0.9", "model.norm=batch"], EVERYTHING],
    ids=["lion", "sgd", "muon", "ema", "everything"],
)
def test_resumed_at_any_step_weights_momenta_and_average_are_bit_equal(
    synthetic: DataSet, tmp_path: Path, options: list[str]
) -> None:
    whole = tmp_path / "whole"
    train_here(synthetic.root, whole, *OPTIONS, *options)
    for step in (1, 8, 13):
        resumed = interrupted_at(step, whole, tmp_path / f"resumed-{step}")
        train_here(synthetic.root, resumed, *OPTIONS, *options)
        assert_equal_checkpoints(whole, resumed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [["optimizer=lion", "ema.decay=0.9"], EVERYTHING, [*EVERYTHING, "trainer.strategy=fsdp"]],
    ids=["lion", "everything", "everything, sharded"],
)
def test_two_ranks_killed_and_started_again_end_bit_equal(
    synthetic: DataSet, tmp_path: Path, options: list[str]
) -> None:
    """SIGKILL to all ranks at whatever step they are; Muon's work is dealt out over the ranks."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    common = [*SMALL, *options, f"data.path={synthetic.root}", "trainer.max_epochs=20", "checkpoint.every_steps=3"]
    run_ranks(2, "pipeline.train", *common, f"run_dir={whole}")
    ranks = fork_ranks(2, tmp_path / "log", *common, f"run_dir={killed}")
    wait_for_step(killed, 30, ranks)
    kill_ranks(ranks)
    assert 30 <= stored_checkpoints(killed / "checkpoints")[0][0] < 160
    run_ranks(2, "pipeline.train", *common, f"run_dir={killed}", "resume=true")
    assert_equal_checkpoints(whole, killed)
