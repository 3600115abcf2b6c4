"""Real ranks, real kills: what two processes do equals what one does, and SIGKILL changes nothing."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from forked import fork_ranks, kill_ranks, wait_for_step
from pipeline.shards.manifest import DataSet
from pipeline.training.checkpoint import stored_checkpoints
from runs import SMALL, assert_equal_weights, metric_rows, run_ranks, sample_ids, train_here, weights_of

pytestmark = pytest.mark.slow

# 100 samples in batches of 12: 8 steps an epoch.
OPTIONS = [*SMALL, "trainer.max_epochs=3", "log_sample_ids=true", "trainer.log_every_steps=4"]


def train_options(data: DataSet, run_dir: Path) -> list[str]:
    return [f"data.path={data.root}", f"run_dir={run_dir}", *OPTIONS]


def test_two_ranks_take_the_halves_of_the_batches_that_one_rank_takes(synthetic: DataSet, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train_here(synthetic.root, one, *OPTIONS)
    run_ranks(2, "pipeline.train", *train_options(synthetic, two))
    ids = [sample_ids(two, rank=rank) for rank in range(2)]
    assert [(step, left + right) for (step, left), (_, right) in zip(*ids, strict=True)] == sample_ids(one)
    for name, value in weights_of(one).items():
        torch.testing.assert_close(weights_of(two)[name], value, rtol=1e-4, atol=1e-6)
    accuracies = [[row.get("val/top1_frac") for row in metric_rows(run)] for run in (one, two)]
    assert accuracies[0] == accuracies[1]
    assert any(accuracies[0])
    summary = json.loads((two / "summary.json").read_text())
    assert summary["val/samples"] == 41
    assert summary["world_size"] == 2


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_killed_in_the_middle_and_resumed_the_weights_are_bit_equal(
    synthetic: DataSet, tmp_path: Path, num_ranks: int
) -> None:
    """SIGKILL to all ranks at once, twice, at whatever step they are; the ids and the weights are as undisturbed."""
    options = ["checkpoint.every_steps=3", "trainer.max_epochs=20", "model.dropout=0.1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_ranks(num_ranks, "pipeline.train", *train_options(synthetic, whole), *options)
    resume = ["resume=true"]
    for wanted_step in (20, 60):
        ranks = fork_ranks(num_ranks, tmp_path / "log", *train_options(synthetic, killed), *options, *resume)
        wait_for_step(killed, wanted_step, ranks)
        kill_ranks(ranks)
        assert [rank.exitcode for rank in ranks] == [-signal.SIGKILL] * num_ranks, (tmp_path / "log").read_text()
    reached = stored_checkpoints(killed / "checkpoints")[0][0]
    assert 60 <= reached < 160
    output = run_ranks(num_ranks, "pipeline.train", *train_options(synthetic, killed), *options, *resume)
    assert f"going on with {killed} after step {reached}" in output
    assert_equal_weights(whole, killed)
    for rank in range(num_ranks):
        assert sample_ids(killed, rank=rank) == sample_ids(whole, rank=rank)
    assert [row["step"] for row in metric_rows(killed)] == [row["step"] for row in metric_rows(whole)]


def test_evaluation_is_equal_to_the_last_digit_on_one_two_and_three_ranks(synthetic: DataSet, tmp_path: Path) -> None:
    """41 samples: Lightning's own sampler would count some twice on two ranks."""
    run_dir = tmp_path / "run"
    train_here(synthetic.root, run_dir, "trainer.max_epochs=1")
    results = []
    for num_ranks in (1, 2, 3):
        run_ranks(num_ranks, "pipeline.evaluate", f"run={run_dir}", "device=cpu", "slots_per_rank=4")
        results.append(json.loads((run_dir / "evaluation.json").read_text()))
    assert results[0]["samples"] == 41
    assert results[0]["top1_frac"] * 41 == pytest.approx(round(results[0]["top1_frac"] * 41), abs=1e-12)
    for result in results[1:]:
        assert result["top1_frac"] == results[0]["top1_frac"]
        assert result["top5_frac"] == results[0]["top5_frac"]
        assert result["samples"] == 41
        assert result["loss"] == pytest.approx(results[0]["loss"], rel=1e-12)


def test_ranks_agree_on_a_run_folder_that_nobody_named(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder named after the clock would differ between ranks."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        run_ranks(2, "pipeline.train", f"data.path={synthetic.root}", *SMALL, "trainer.max_epochs=1")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["0001", "0002", "latest"]
    assert (tmp_path / "runs" / "latest").resolve().name == "0002"


def test_a_resumed_run_with_another_number_of_ranks_goes_on_with_the_same_batches(
    synthetic: DataSet, tmp_path: Path
) -> None:
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    train_here(synthetic.root, whole, *OPTIONS)
    train_here(synthetic.root, moved, *OPTIONS, "trainer.max_epochs=1")
    run_ranks(2, "pipeline.train", *train_options(synthetic, moved), "resume=true")
    ids = [dict(sample_ids(moved, rank=rank)) for rank in range(2)]
    for step, whole_ids in sample_ids(whole)[8:]:
        assert ids[0][step] + ids[1][step] == whole_ids
