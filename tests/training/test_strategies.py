"""Whole runs under DDP and FSDP: equal to rounding, one kind of checkpoint, killed, resumed, on more ranks or fewer."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from forked import exit_codes, fork_ranks, kill_ranks, wait_for_step
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS
from pipeline.run_folder import SUMMARY_FILE
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.training.checkpoint import checkpoint_name, load_checkpoint, stored_checkpoints
from runs import assert_equal_weights, metric_rows, run_ranks, train_here, weights_of

# 100 samples in batches of 12: 8 steps an epoch. The width divides by 2 ranks and not by 3.
OPTIONS = [
    *("logger=none", "trainer.device=cpu", "batch.size=12", "trainer.measure_bound=false"),
    "track.peak_flops_per_s=1e9",  # a peak that is not stated has rows only where training took some seconds
    *("model=bottleneck_mlp", "model.depth=2", "model.width=10", "optimizer=adamw", "optimizer.rate=0.003"),
    *("trainer.max_epochs=2", "trainer.log_every_steps=1", "trainer.clip_norm=0.5"),
    *("checkpoint.every_steps=5", "checkpoint.keep=100"),
]
FSDP = "trainer.strategy=fsdp"
LAST_STEP = 16


def options_of(data: DataSet, run_dir: Path, *options: str) -> list[str]:
    return [f"data.path={data.root}", f"run_dir={run_dir}", *OPTIONS, *options]


@pytest.fixture(scope="module")
def runs(synthetic: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training by DDP and by FSDP, on two ranks each."""
    folder = tmp_path_factory.mktemp("runs")
    run_ranks(2, "pipeline.train", *options_of(synthetic, folder / "ddp"))
    run_ranks(2, "pipeline.train", *options_of(synthetic, folder / "fsdp", FSDP))
    return folder


def assert_close_weights(first: Path, second: Path) -> None:
    torch.testing.assert_close(weights_of(first), weights_of(second), rtol=1e-3, atol=1e-5)


def interrupted_at(step: int, whole: Path, copy: Path) -> Path:
    """Copy a finished run as it lay on the disk after `step` updates."""
    shutil.copytree(whole, copy)
    (copy / SUMMARY_FILE).unlink()
    for stored_step, path in stored_checkpoints(copy / "checkpoints"):
        if stored_step > step:
            path.unlink()
    return copy


@pytest.mark.slow
def test_sharded_training_equals_ddp_to_rounding(runs: Path) -> None:
    """Weights, losses, the norm of the gradient before it is clipped, and the metrics of evaluations."""
    assert_close_weights(runs / "ddp", runs / "fsdp")
    rows = [metric_rows(runs / name) for name in ("ddp", "fsdp")]
    assert len(rows[0]) == len(rows[1])
    for ddp, fsdp in zip(*rows, strict=True):
        assert ddp.keys() == fsdp.keys()
        for key in ("step", "train/loss", "grad/norm", "val/loss", "val/top1_frac", "rate/learning_rate"):
            if key in ddp:
                assert fsdp[key] == pytest.approx(ddp[key], rel=1e-3), key
    assert any(row["grad/norm"] > 0.5 for row in rows[1] if "grad/norm" in row)


@pytest.mark.slow
def test_a_checkpoint_does_not_show_how_the_model_was_held(runs: Path) -> None:
    contents = [load_checkpoint(runs / name / "checkpoints" / checkpoint_name(LAST_STEP)) for name in ("ddp", "fsdp")]
    assert shape_of(contents[0]["state_dict"]) == shape_of(contents[1]["state_dict"])
    assert shape_of(contents[0]["optimizer_states"]) == shape_of(contents[1]["optimizer_states"])
    assert contents[0].keys() == contents[1].keys()


def shape_of(tree: Any) -> Any:
    """Return nested containers with shapes and types in place of tensors; mappings as plain ones."""
    if isinstance(tree, torch.Tensor):
        return (type(tree), tree.dtype, tuple(tree.shape), tree.device)
    if isinstance(tree, dict):
        return {key: shape_of(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [shape_of(value) for value in tree]
    return type(tree)


@pytest.mark.slow
def test_one_rank_evaluates_what_two_sharded_ranks_trained(runs: Path) -> None:
    run_ranks(1, "pipeline.evaluate", f"run={runs / 'fsdp'}", "device=cpu")
    summary = json.loads((runs / "fsdp" / SUMMARY_FILE).read_text())
    evaluation = json.loads((runs / "fsdp" / "evaluation.json").read_text())
    assert evaluation["samples"] == 41
    assert evaluation["loss"] == pytest.approx(summary["val/loss"], rel=1e-5)
    assert evaluation["top1_frac"] == summary["val/top1_frac"]


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_a_sharded_run_goes_on_sharded(synthetic: DataSet, runs: Path, tmp_path: Path, num_ranks: int) -> None:
    resumed = interrupted_at(5, runs / "fsdp", tmp_path / "resumed")
    output = run_ranks(num_ranks, "pipeline.train", *options_of(synthetic, resumed, FSDP))
    assert "after step 5" in output
    if num_ranks == 2:
        assert_equal_weights(runs / "fsdp", resumed)
    assert_close_weights(runs / "fsdp", resumed)


@pytest.mark.slow
def test_a_sharded_run_goes_on_whole_and_back(synthetic: DataSet, runs: Path, tmp_path: Path) -> None:
    """On one rank, which has nothing to shard; by DDP; and what DDP began goes on sharded."""
    alone = interrupted_at(5, runs / "fsdp", tmp_path / "alone")
    train_here(synthetic.root, alone, *OPTIONS, FSDP)
    assert_close_weights(runs / "fsdp", alone)
    replicated = interrupted_at(5, runs / "fsdp", tmp_path / "replicated")
    run_ranks(2, "pipeline.train", *options_of(synthetic, replicated, "resume=true"))
    assert_close_weights(runs / "ddp", replicated)
    cut = interrupted_at(10, runs / "ddp", tmp_path / "cut")
    run_ranks(2, "pipeline.train", *options_of(synthetic, cut, FSDP, "resume=true"))
    assert_close_weights(runs / "ddp", cut)


@pytest.mark.slow
def test_killed_and_resumed_a_sharded_run_ends_bit_equal(synthetic: DataSet, tmp_path: Path) -> None:
    """With dropout and momentum, and SIGKILL to all ranks at whatever step they are."""
    options = [
        *(FSDP, "trainer.max_epochs=12", "trainer.measure_bound=true"),
        *("model.dropout=0.2", "checkpoint.every_steps=3", "checkpoint.keep=2"),
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_ranks(2, "pipeline.train", *options_of(synthetic, whole, *options))
    ranks = fork_ranks(2, tmp_path / "log", *options_of(synthetic, killed, *options))
    wait_for_step(killed, 30, ranks)
    kill_ranks(ranks)
    assert [rank.exitcode for rank in ranks] == [-signal.SIGKILL] * 2, (tmp_path / "log").read_text()
    reached = stored_checkpoints(killed / "checkpoints")[0][0]
    assert 30 <= reached < 96
    run_ranks(2, "pipeline.train", *options_of(synthetic, killed, *options))
    assert_equal_weights(whole, killed)


@pytest.mark.slow
def test_copies_of_a_sharded_model_train_alike(synthetic: DataSet, runs: Path, tmp_path: Path) -> None:
    run_ranks(4, "pipeline.train", *options_of(synthetic, tmp_path / "run", FSDP, "trainer.shard_ranks=2"))
    assert_close_weights(runs / "ddp", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_compressed_gradients_change_the_last_bits_alone(
    synthetic: DataSet, runs: Path, tmp_path: Path, strategy: str
) -> None:
    options = ["trainer.gradient_compression=bf16", f"trainer.strategy={strategy}"]
    run_ranks(2, "pipeline.train", *options_of(synthetic, tmp_path / "run", *options))
    plain, compressed = weights_of(runs / strategy), weights_of(tmp_path / "run")
    assert any(not torch.equal(plain[name], compressed[name]) for name in plain)
    for exact, rough in zip(metric_rows(runs / strategy), metric_rows(tmp_path / "run"), strict=True):
        if "train/loss" in exact:
            assert rough["train/loss"] == pytest.approx(exact["train/loss"], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_bf16_trains_like_fp32_but_for_its_rounding(
    synthetic: DataSet, runs: Path, tmp_path: Path, strategy: str
) -> None:
    options = ["trainer.precision=bf16", f"trainer.strategy={strategy}", "trainer.activation_checkpointing=true"]
    run_ranks(2, "pipeline.train", *options_of(synthetic, tmp_path / "run", *options))
    for name, value in weights_of(tmp_path / "run").items():
        assert value.dtype == torch.float32, name
    for exact, rough in zip(metric_rows(runs / strategy), metric_rows(tmp_path / "run"), strict=True):
        if "train/loss" in exact:
            assert rough["train/loss"] == pytest.approx(exact["train/loss"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("num_ranks", "strategy"), [(1, "auto"), (2, "fsdp")])
def test_a_compiled_model_trains_like_an_eager_one(
    synthetic: DataSet, runs: Path, tmp_path: Path, num_ranks: int, strategy: str
) -> None:
    options = ["trainer.compile=true", f"trainer.strategy={strategy}", "trainer.activation_checkpointing=true"]
    run_ranks(num_ranks, "pipeline.train", *options_of(synthetic, tmp_path / "run", *options))
    assert_close_weights(runs / "ddp", tmp_path / "run")


@pytest.mark.slow
def test_ranks_that_do_not_divide_into_copies_are_refused_in_one_line(synthetic: DataSet, tmp_path: Path) -> None:
    log = tmp_path / "log"
    ranks = fork_ranks(2, log, *options_of(synthetic, tmp_path / "run", FSDP, "trainer.shard_ranks=3"))
    assert exit_codes(ranks) == [2, 2]
    assert "trainer.shard_ranks=3 does not divide the 2 ranks" in log.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["trainer.compile_mode=reduce_overhead"], "wants trainer.compile=true"),
        (["trainer.compile_mode=reduce_overhead", "trainer.compile=true", FSDP], "try compile_mode=default"),
        (["trainer.shard_ranks=2"], "with trainer.strategy=fsdp"),
        (["trainer.strategy=zero"], "trainer.strategy"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose("train", TRAIN_SCHEMAS, ["data.path=x", *options])
