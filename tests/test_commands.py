"""The commands as they are typed: real processes, exit codes, one line for what a user can mend."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fork_server import run_forked
from pipeline.launch import read_count
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from synthetic_data import make_synthetic
from tiny_data import ROOT

pytestmark = pytest.mark.slow

SMALL = ["model=mlp", "model.hidden=[16]", "batch.size=10", "trainer.max_epochs=1"]


def run(module: str, *options: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **variables}
    return run_forked(module, *options, folder=cwd, environment=environment, timeout_s=300)


def test_train_then_evaluate_as_typed_with_wandb_offline(synthetic: DataSet, tmp_path: Path) -> None:
    """Two ranks by default, run folders numbered, numbers and folder named at the end, wandb without an account."""
    trained = run("pipeline.launch", "pipeline.train", f"data.path={synthetic.root}", *SMALL, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "on 2 CPU ranks -> runs/0001" in trained.stdout
    assert "\nepoch 1/1  train loss " in trained.stdout
    summary = json.loads((tmp_path / "runs" / "0001" / "summary.json").read_text())
    assert f"accuracy    {100 * summary['val/top1_frac']:.2f} % of 41 validation images" in trained.stdout
    assert "of the time waiting for data" in trained.stdout
    assert list((tmp_path / "runs" / "0001" / "wandb").glob("offline-run-*"))
    evaluated = run("pipeline.launch", "pipeline.evaluate", cwd=tmp_path, NPROC="3")
    assert evaluated.returncode == 0, evaluated.stderr
    printed = json.loads(evaluated.stdout)
    assert printed == json.loads((tmp_path / "runs" / "0001" / "evaluation.json").read_text())
    assert printed["top1_frac"] == summary["val/top1_frac"]
    assert printed["samples"] == 41


@pytest.mark.parametrize(
    ("command", "variables", "message"),
    [
        (["pipeline.launch", "pipeline.train", "batch.sise=3"], {}, "did you mean batch.size"),
        (["pipeline.launch", "pipeline.train", "data.path=DATA", "batch.size=9"], {}, "does not divide by 2 ranks"),
        (["pipeline.launch", "pipeline.train"], {"NPROC": "two"}, "NPROC=two: a whole number"),
        (["pipeline.train", "data.path=nowhere"], {}, "nowhere: no such folder"),
        (["pipeline.train", "--multirun", "seed=1,2"], {}, "not of the form name=value"),
        (["pipeline.evaluate", "run=nowhere"], {}, "no config.yaml, so no run"),
        (["pipeline.evaluate"], {}, "no config.yaml, so no run"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    synthetic: DataSet, tmp_path: Path, command: list[str], variables: dict[str, str], message: str
) -> None:
    command = [part.replace("DATA", str(synthetic.root)) for part in command]
    done = run(*command, cwd=tmp_path, **variables)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_evaluation_on_data_of_another_shape_is_refused(synthetic: DataSet, tmp_path: Path) -> None:

    assert (
        run(
            "pipeline.train", f"data.path={synthetic.root}", "run_dir=run", *SMALL, "logger=none", cwd=tmp_path
        ).returncode
        == 0
    )
    other = make_synthetic(tmp_path / "other", "source.samples=20", "source.val_samples=5", "layout.resolution=4")
    done = run("pipeline.evaluate", "run=run", f"data.path={other.root}", cwd=tmp_path)
    assert done.returncode == 2
    assert "do not fit the model" in done.stderr
    assert not (tmp_path / "run" / "evaluation.json").exists()


def test_help_names_every_option(tmp_path: Path) -> None:
    done = run("pipeline.launch", "pipeline.train", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for option in ("batch.size=256", "resume=null", "|bottleneck_mlp|", "model.width=256", "log_sample_ids=false"):
        assert option in done.stdout


def test_ranks_are_as_many_as_asked_for() -> None:
    assert read_count("NPROC", {"NPROC": "3"}, least=1, default=2) == 3
    assert read_count("RESTARTS", {"RESTARTS": "0"}, least=0, default=2) == 0
    for unset in ({}, {"NPROC": ""}):
        assert read_count("NPROC", unset, least=1, default=2) == 2
    for text in ("0", "-1", "x"):
        with pytest.raises(UserError, match=f"NPROC={text}"):
            read_count("NPROC", {"NPROC": text}, least=1, default=2)
