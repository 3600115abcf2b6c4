"""Sweeps as typed, with real runs: what is there at the end, after a kill, after more was asked for."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fork_server import start_forked
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.sweep import main, read_command
from pipeline.sweep_config import Goal
from pipeline.sweeping.axes import points
from pipeline.training.checkpoint import stored_checkpoints
from runs import SMALL, assert_equal_weights, train_here
from waiting import wait_until

TINY = [*SMALL, "trainer.max_epochs=1"]


def options(data: DataSet, folder: Path, *more: str) -> list[str]:
    names = {option.partition("=")[0] for option in more}
    tiny = [option for option in TINY if option.partition("=")[0] not in names]
    return [f"data.path={data.root}", f"sweep.dir={folder}", *tiny, *more]


def rows(folder: Path, name: str = "runs.csv") -> list[dict[str, str]]:
    return list(csv.DictReader((folder / name).read_text().splitlines()))


@pytest.mark.slow
def test_each_run_is_the_run_that_its_options_make_and_the_table_has_its_numbers(
    synthetic: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    typed = options(synthetic, folder, "optimizer.rate=0.001,0.01", "seed=0,1", "sweep.jobs=2")
    assert main(typed) == 0
    told = capsys.readouterr().out
    assert "4 runs, 0 of them finished before, 2 at once" in told
    assert [row["run"] for row in rows(folder)] == ["0000", "0001", "0002", "0003"]
    accuracies = []
    for number, (rate, seed) in enumerate((rate, seed) for rate in ("0.001", "0.01") for seed in (0, 1)):
        alone = train_here(
            synthetic.root, tmp_path / f"alone-{number}", *TINY, f"optimizer.rate={rate}", f"seed={seed}"
        )
        accuracies.append(alone["val/top1_frac"])
        assert float(rows(folder)[number]["val/top1_frac"]) == alone["val/top1_frac"]
        assert_equal_weights(tmp_path / f"alone-{number}", folder / f"{number:04d}")
    means = [float(row["val/top1_frac mean"]) for row in rows(folder, "table.csv")]
    assert means == pytest.approx(np.reshape(accuracies, (2, 2)).mean(axis=1).tolist())
    assert "n = 2 seeds (0, 1)" in (folder / "table.md").read_text()
    with Image.open(folder / "plot.png") as picture:
        assert picture.size[0] > 500

    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("0*/summary.json")}
    more = [option.replace("seed=0,1", "seed=0,1,2") for option in typed]
    assert main([option.replace("0.001,0.01", "0.01") for option in more]) == 0
    told = capsys.readouterr().out
    assert "3 runs, 2 of them finished before" in told
    assert [row["run"] for row in rows(folder)] == ["0002", "0003", "0004"]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


@pytest.mark.slow
def test_a_run_that_fails_is_told_at_the_end_and_the_others_go_on(
    synthetic: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    typed = options(synthetic, folder, "optimizer=sgd", "optimizer.rate=1e30,0.01", "trainer.log_every_steps=1")
    assert main(typed) == 1
    told = capsys.readouterr().out
    assert "failed      0000 optimizer.rate=1e30: exit code 2: error: " in told
    assert "not finite" in told
    assert [bool(row["failure"]) for row in rows(folder)] == [True, False]
    assert "failed" in (folder / "table.md").read_text()


@pytest.mark.slow
def test_killed_and_begun_again_it_ends_as_if_nothing_had_happened(synthetic: DataSet, tmp_path: Path) -> None:
    """SIGKILL to the sweep and its run in the middle, then SIGTERM to the sweep alone, then to the end."""
    longer = ["trainer.max_epochs=60", "checkpoint.every_steps=10", "seed=3"]
    whole = tmp_path / "whole"
    train_here(synthetic.root, whole, *TINY, *longer)
    folder = tmp_path / "sweep"
    log = tmp_path / "log"
    for blow in (signal.SIGKILL, signal.SIGTERM):
        before = reached(folder)
        typed = options(synthetic, folder, *longer)
        process = start_forked("pipeline.sweep", *typed, folder=tmp_path, stdout=log, stderr=log)
        assert process.pid is not None
        wait_until(
            lambda before=before, process=process: reached(folder) > before or process.exitcode is not None,
            what="a checkpoint",
            every_s=0.005,
            patience_s=300,  # a start of Python with torch, on a machine that may be busy
        )
        os.kill(process.pid, blow)
        if blow is signal.SIGKILL:
            signal_runs_in(folder, signal.SIGSTOP)
            with pytest.raises(UserError, match="a sweep is at work there"):
                main(options(synthetic, folder, *longer))
            signal_runs_in(folder, signal.SIGKILL)
        process.join(120)
        assert process.exitcode == (130 if blow is signal.SIGTERM else -9), log.read_text()
        wait_until(lambda: not runs_in(folder), what="the end of the sweep's runs")
    assert not (folder / "0000" / "summary.json").exists()
    assert main(options(synthetic, folder, *longer)) == 0
    assert_equal_weights(whole, folder / "0000")


def reached(folder: Path) -> int:
    return max((step for step, _ in stored_checkpoints(folder / "0000" / "checkpoints")), default=0)


def runs_in(folder: Path) -> list[int]:
    """Return the living processes that have named themselves in the locks of the run folders in `folder`."""
    found = []
    for path in folder.glob("0*/run.lock"):
        if named := re.match(r"process (\d+) on ", path.read_text()):
            try:
                state = Path(f"/proc/{named[1]}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state != "Z":
                found.append(int(named[1]))
    return found


def signal_runs_in(folder: Path, number: signal.Signals) -> None:
    for process in runs_in(folder):
        os.kill(process, number)


@pytest.mark.slow
def test_runs_as_jobs_of_submitit_end_like_processes(synthetic: DataSet, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    folder = tmp_path / "sweep"
    ranks = ["sweep.where=submitit_local", "sweep.jobs=2", "sweep.ranks=2", "sweep.slurm.time_min=5"]
    assert main(options(synthetic, folder, "seed=0,1", *ranks)) == 0
    assert [json.loads(path.read_text())["world_size"] for path in sorted(folder.glob("0*/summary.json"))] == [2, 2]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["optimizer.rate=0.1,-1"], r"run optimizer.rate=-1: optimizer.rate=-1.*at least 0"),
        (["optimizer.raet=0.1,1"], "run optimizer.raet=0.1: .*did you mean optimizer.rate"),
        (["seed=0,0"], "seed=0 and seed=0 are the same run"),
        (["seed=1,2", "run_dir=x"], "run_dir=x: the runs' folders are given here"),
        (["batch.size=100,101"], "run batch.size=101: batch.size=101 is over the 100 samples"),
        (["batch.size=10,15", "sweep.ranks=2"], "run batch.size=15: .*does not divide by 2 ranks"),
        (["sweep.jobs=0"], "jobs=0: at least 1"),
        (["sweep.jbos=2"], "did you mean sweep.jobs"),
        (["sweep.file=nowhere.yaml"], "sweep.file=nowhere.yaml: no such file"),
        (["seed=0,1", "data.path=nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_started(
    synthetic: DataSet, tmp_path: Path, more: list[str], told: str
) -> None:
    typed = options(synthetic, tmp_path / "sweep", *more)
    if any(option.startswith("data.path") for option in more):
        typed = typed[1:]
    with pytest.raises(UserError, match=told) as error:
        main(typed)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_gives_options_and_a_list_of_runs_and_what_is_typed_wins(tmp_path: Path) -> None:
    path = tmp_path / "recipes.yaml"
    path.write_text(
        "options: [model=mlp, 'batch.size=64,128', seed=7, sweep.metric=val/loss, sweep.goal=lowest]\n"
        "runs:\n  - [optimizer=sgd, optimizer.rate=0.1]\n  - [optimizer=adamw]\n"
    )
    config, swept = read_command([f"sweep.file={path}", "seed=0,1", "sweep.goal=highest"])
    assert (config.metric, config.goal) == ("val/loss", Goal.highest)
    assert swept.fixed == ("model=mlp",)
    expected = [
        {**run, "batch.size": size, "seed": seed}
        for run in ({"optimizer": "sgd", "optimizer.rate": "0.1"}, {"optimizer": "adamw"})
        for size in ("64", "128")
        for seed in "01"
    ]
    assert points(swept.axes) == expected


@pytest.mark.parametrize(
    "content", ["a: [", "- 1", "options: 3", "runs: [[1]]", "runs: [x=1]", "other: []", "options: [nothing]"]
)
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "recipes.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"sweep.file=.*(wanted|no YAML)") as error:
        read_command([f"sweep.file={path}"])
    assert "\n" not in str(error.value)


def test_a_dry_run_says_which_runs_there_would_be(capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["optimizer.rate=log_uniform(1e-4,1)", "sweep.samples=2", "sweep.dry_run=true", "data.path=nowhere"]
    assert main(typed) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("optimizer.rate=")
    assert first != second


def test_help_names_the_options_and_the_ways_to_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for word in ("sweep.jobs=1", "sweep.where=here", "sweep.slurm.partition=null", "log_uniform(1e-4,1)"):
        assert word in told
