"""What is kept, what a background write promises, and what a full disk, a NaN or damage leave behind."""

from __future__ import annotations

import errno
import itertools
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from forked import DEADLINE_S, wait_long
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.training.background import BackgroundWriter, Snapshot, is_finite
from pipeline.training.checkpoint import (
    checkpoint_name,
    is_whole,
    load_checkpoint,
    newest_whole_checkpoint,
    steps_to_keep,
    stored_checkpoints,
    write_checkpoint,
)
from runs import SMALL, assert_equal_weights, metric_rows, train_here
from tiny_data import ROOT, command


def kept(run_dir: Path) -> list[int]:
    return sorted(step for step, _ in stored_checkpoints(run_dir / "checkpoints"))


def losses(run_dir: Path) -> dict[int, float]:
    return {row["step"]: row["val/loss"] for row in metric_rows(run_dir) if "val/loss" in row}


def test_the_newest_and_the_best_are_kept() -> None:
    """Against a brute force over all subsets: no step left out is newer, or better, than one taken for that."""
    metric_of = {1: 0.5, 2: 0.7, 3: math.nan, 4: 0.7, 5: 0.6}  # 6 was not evaluated
    steps = range(1, 7)
    for keep, keep_best, lowest in itertools.product(range(1, 5), range(4), (False, True)):
        found = steps_to_keep(steps, metric_of, keep=keep, keep_best=keep_best, lowest=lowest)
        newest = set(range(7 - keep, 7))
        sign = -1 if lowest else 1
        good = [step for step in metric_of if step != 3]
        best = max(
            itertools.combinations(good, min(keep_best, len(good))),
            key=lambda chosen: sorted(((sign * metric_of[step], step) for step in chosen), reverse=True),
        )
        assert found == newest | set(best)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["val/loss", "val/top1_frac"])
def test_a_run_keeps_its_best_checkpoint_also_when_it_is_resumed(
    synthetic: DataSet, tmp_path: Path, metric: str
) -> None:
    options = ["schedule=constant", "checkpoint.keep=1", "checkpoint.keep_best=1", f"checkpoint.metric={metric}"]
    run_dir = tmp_path / "run"
    for epochs in (3, 6):
        train_here(synthetic.root, run_dir, *options, f"trainer.max_epochs={epochs}", "resume=true")
        sign = -1 if metric == "val/loss" else 1
        values = {row["step"]: sign * row[metric] for row in metric_rows(run_dir) if metric in row}
        best = max(values, key=lambda step: (values[step], step))
        assert kept(run_dir) == sorted({best, 8 * epochs})
        assert (run_dir / "checkpoints" / "best.ckpt").resolve().name == checkpoint_name(best)


def test_a_metric_that_evaluation_does_not_give_is_refused_with_those_that_it_gives(
    synthetic: DataSet, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"val/lo: evaluation gives .*val/loss"):
        train_here(synthetic.root, tmp_path / "run", "checkpoint.keep_best=1", "checkpoint.metric=val/lo")


def test_written_beside_training_a_checkpoint_holds_what_it_would_hold_otherwise(
    synthetic: DataSet, tmp_path: Path
) -> None:
    options = ["trainer.max_epochs=2", "checkpoint.every_steps=1", "checkpoint.keep=100", "optimizer=adamw"]
    for name in ("true", "false"):
        train_here(synthetic.root, tmp_path / name, *options, f"checkpoint.background={name}")
    assert kept(tmp_path / "true") == kept(tmp_path / "false") == list(range(1, 17))
    for step in range(1, 17):
        one, other = (
            load_checkpoint(tmp_path / name / "checkpoints" / checkpoint_name(step)) for name in ("true", "false")
        )
        torch.testing.assert_close(one["state_dict"], other["state_dict"], rtol=0, atol=0)
        for left, right in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
            torch.testing.assert_close(left["state"], right["state"], rtol=0, atol=0)
            assert left["param_groups"] == right["param_groups"]
        assert one["loops"] == other["loops"]


def test_a_write_holds_up_the_next_write_and_nothing_else() -> None:
    may_write, written = threading.Event(), []

    def write(step: int, content: Mapping[str, Any]) -> None:
        assert may_write.wait(DEADLINE_S)
        written.append((step, float(content["state"]["w"][0])))

    writer = BackgroundWriter(write)
    weights = torch.zeros(3)
    writer.write(1, {"state": {"w": weights}})
    weights += 1  # training goes on while the write waits
    assert written == []
    may_write.set()
    writer.write(2, {"state": {"w": weights}})
    writer.wait()
    assert written == [(1, 0.0), (2, 1.0)]
    assert writer.stored_step == 2
    writer.close()


def test_a_snapshot_is_a_copy_in_memory_used_again() -> None:
    snapshot = Snapshot()
    weights = torch.arange(12.0).view(3, 4)
    with torch.inference_mode():  # as in Lightning's evaluation
        first = snapshot.take({"a": weights.T, "b": [1, (weights[0], "x")], 3: weights.bool()})
    assert torch.equal(first["a"], weights.T)
    assert torch.equal(first["b"][1][0], weights[0])
    weights += 1
    assert torch.equal(first["a"], weights.T - 1)
    second = snapshot.take({"a": weights.T, "b": [1, (weights[0], "x")], 3: weights.bool()})
    assert second["a"].data_ptr() == first["a"].data_ptr()
    assert torch.equal(second["a"], weights.T)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_stored(tmp_path: Path, bad: float, caplog: pytest.LogCaptureFixture) -> None:
    writer = BackgroundWriter(lambda step, content: write_checkpoint(content, tmp_path / checkpoint_name(step)))
    writer.write(1, {"optimizer": [{"momentum": torch.tensor([1.0, 2.0])}], "rows": torch.zeros(0, dtype=torch.int64)})
    writer.write(2, {"optimizer": [{"momentum": torch.tensor([1.0, bad])}]})
    writer.close()
    assert writer.stored_step == 1
    assert [step for step, _ in stored_checkpoints(tmp_path)] == [1]
    assert "step 2: not saved" in caplog.text


def test_a_run_that_diverges_leaves_a_checkpoint_from_before(synthetic: DataSet, tmp_path: Path) -> None:
    """Checkpoints are more frequent than looks at the loss, and one is kept."""
    run_dir = tmp_path / "run"
    options = ["optimizer=sgd", "optimizer.rate=1e30", "checkpoint.every_steps=1", "checkpoint.keep=1"]
    with pytest.raises(UserError, match="not finite between steps 1 and"):
        train_here(synthetic.root, run_dir, *options, "trainer.log_every_steps=7", "schedule=constant")
    newest = newest_whole_checkpoint(run_dir / "checkpoints")
    assert newest is None or is_finite(load_checkpoint(newest)["state_dict"])
    assert kept(run_dir) != [7]


def test_with_one_kept_a_damaged_one_does_not_push_out_the_whole_one(synthetic: DataSet, tmp_path: Path) -> None:
    """The damaged one has the higher step, so it would count as the newest."""
    options = ["checkpoint.every_steps=3", "trainer.max_epochs=2"]
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    train_here(synthetic.root, whole, *options)
    train_here(synthetic.root, run_dir, *options, "checkpoint.keep=2")
    (run_dir / "summary.json").unlink()
    damaged = run_dir / "checkpoints" / checkpoint_name(16)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    train_here(synthetic.root, run_dir, *options, "checkpoint.keep=1")
    assert kept(run_dir) == [16]
    assert (run_dir / "checkpoints" / f"{damaged.name}.damaged").exists()
    assert_equal_weights(whole, run_dir)


def test_where_every_checkpoint_is_damaged_the_run_is_not_begun_again_unasked(
    synthetic: DataSet, tmp_path: Path
) -> None:
    train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=2")
    for _, path in stored_checkpoints(tmp_path / "run" / "checkpoints"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=2")
    assert kept(tmp_path / "run") == [8, 16]


@pytest.mark.slow
def test_two_processes_do_not_train_in_one_folder(synthetic: DataSet, tmp_path: Path) -> None:
    options = [f"data.path={synthetic.root}", f"run_dir={tmp_path / 'run'}", *SMALL, "trainer.max_epochs=100000"]
    process = start_training(tmp_path, *options)
    try:
        wait_long(lambda: (tmp_path / "run" / "checkpoints").exists(), what="a first checkpoint")
        with pytest.raises(UserError, match=rf"process {process.pid} on .* is training there now"):
            train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=100000")
    finally:
        process.kill()
        process.wait()
    (tmp_path / "run" / "summary.json").unlink(missing_ok=True)
    train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=1", "resume=true")  # the lock died with its owner


@pytest.mark.slow
def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """RLIMIT_FSIZE in a process of its own: a write beyond 100 kB fails with EFBIG."""
    path = tmp_path / checkpoint_name(1)
    write_checkpoint({"w": torch.ones(10)}, path)
    code = (
        "import resource, sys, torch; from pathlib import Path; from pipeline.training.checkpoint import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: write_checkpoint({'w': torch.ones(100_000)}, Path(sys.argv[1]))\n"
        "except OSError as error: print('refused', error.errno)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["refused", "27"]
    assert is_whole(path)
    assert torch.equal(load_checkpoint(path)["w"], torch.ones(10))
    assert sorted(found.name for found in tmp_path.iterdir()) == [path.name, f"{path.name}.sha256"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB; only root may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_training_outlasts_a_full_disk_and_then_saves_again(
    synthetic: DataSet, tmp_path: Path, small_disk: Path
) -> None:
    options = [f"data.path={synthetic.root}", *SMALL, "checkpoint.every_steps=2", "trainer.log_every_steps=2"]
    options += ["schedule=constant", "trainer.max_epochs=100000"]
    run_dir, ballast = small_disk / "run", small_disk / "ballast"
    process = start_training(tmp_path, *options, f"run_dir={run_dir}")
    try:
        wait_long(lambda: len(kept(run_dir)) == 2, what="two checkpoints")
        fill(ballast)
        wait_long(lambda: "could not be saved (" in (tmp_path / "log").read_text(), what="a warning")
        assert kept(run_dir)
        assert all(is_whole(path) for _, path in stored_checkpoints(run_dir / "checkpoints"))
        at_full_disk = kept(run_dir)[-1]
        wait_long(lambda: "metrics.jsonl cannot be written" in (tmp_path / "log").read_text(), what="the other one")
        ballast.unlink()
        wait_long(lambda: kept(run_dir)[-1] > at_full_disk, what="a checkpoint after room was made")
        wait_long(lambda: metric_rows(run_dir)[-1]["step"] > at_full_disk, what="rows after room was made")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    steps = [row["step"] for row in metric_rows(run_dir)[:-1] if "train/loss" in row]
    assert steps == list(range(2, steps[-1] + 1, 2)), "no row was lost"


@pytest.mark.slow
def test_a_last_checkpoint_that_cannot_be_saved_is_an_error_and_then_trained_again(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["trainer.max_epochs=2", "checkpoint.keep=1"]

    def write_until_full(content: Mapping[str, Any], path: Path) -> None:
        if content["global_step"] > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_checkpoint(content, path)

    train_here(synthetic.root, tmp_path / "whole", *options)
    monkeypatch.setattr("pipeline.training.checkpoint_callback.write_checkpoint", write_until_full)
    with pytest.raises(UserError, match="trained to its last step, 16, which could not be saved"):
        train_here(synthetic.root, tmp_path / "run", *options)
    assert kept(tmp_path / "run") == [8]
    monkeypatch.undo()
    train_here(synthetic.root, tmp_path / "run", *options)
    assert_equal_weights(tmp_path / "whole", tmp_path / "run")


def fill(path: Path) -> None:
    """Leave no block free on the file system of `path`."""
    with path.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            pass


def start_training(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start the real command on one rank; what it prints goes into folder/log."""
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [*command("pipeline.train"), *options],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
