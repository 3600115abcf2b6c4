"""`python -m pipeline.sync` against a server: whatever was sent before, one run with each step once."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from loopback import free_port
from pipeline.track.following import hold_tracker
from pipeline.track.metric_log import MetricLog
from wandb_files import environment_without_key, log_run, png_of
from wandb_server import KEY, SentRun, WandbServer, wandb_server

pytestmark = pytest.mark.slow


def sync(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = environment_without_key(folder / "home") | variables
    command = [sys.executable, "-m", "pipeline.sync", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def sync_to(server: WandbServer, folder: Path, *options: str) -> list[str]:
    """Send runs and return what was said of each."""
    done = sync(folder, *options, **server.environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def only_run(server: WandbServer) -> SentRun:
    (run,) = server.runs.values()
    return run


def test_a_finished_run_is_sent_whole_and_once(tmp_path: Path) -> None:
    log_run(tmp_path / "runs" / "0001", last_step=300, is_finished=True)
    with wandb_server() as server:
        (told,) = sync_to(server, tmp_path)
        assert told.startswith("runs/0001: 30 steps sent to http")
        num_asked = len(server.operations)
        assert sync_to(server, tmp_path) == ["runs/0001: sent before"]
        assert len(server.operations) == num_asked
    run = only_run(server)
    assert run.steps() == list(range(10, 301, 10))
    assert run.series("train/loss") == pytest.approx({step: 1 / step for step in range(10, 301, 10)})
    assert run.series("val/loss") == pytest.approx({step: 2 / step for step in (100, 200, 300)})
    assert 10 not in run.series("grad/norm")
    for step, picture in run.series("model/first_layer").items():
        assert picture["sha256"] == hashlib.sha256(run.files[picture["path"]]).hexdigest()
        assert run.files[picture["path"]] == png_of(step)
        assert picture["caption"] == f"at {step}"
    assert sorted(run.series("model/first_layer")) == [100, 200, 300]
    assert run.config["model"] == {"width": 16}
    assert run.config["run"] == {"git_commit": "abc", "fingerprint": {"data": "f00"}, "world_size": 2}
    assert run.summary["val/loss"] == 0.5
    assert run.exit_codes == [0]


def test_a_run_sent_while_unfinished_and_cut_back_by_a_resume_has_each_step_once_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "0001"
    log_run(folder, last_step=150, is_finished=False)
    with wandb_server() as server:
        (told,) = sync_to(server, tmp_path)
        assert "14 steps sent to" in told
        assert "(not finished: its last step goes when it is)" in told
        assert only_run(server).steps() == list(range(10, 141, 10))
        log_run(folder, last_step=160, resume_step=90, is_finished=False)
        assert "1 step sent to" in sync_to(server, tmp_path)[0]
        log_run(folder, last_step=300, resume_step=120, is_finished=True)
        sync_to(server, tmp_path)
    run = only_run(server)
    assert run.steps() == list(range(10, 301, 10))
    assert run.series("train/loss") == pytest.approx({step: 1 / step for step in range(10, 301, 10)})
    assert sorted(run.series("val/loss")) == [100, 200, 300]
    assert run.exit_codes == [1, 1, 0]


def test_runs_of_other_folders_are_runs_of_their_own_in_the_project_that_is_typed(tmp_path: Path) -> None:
    for name in ("0001", "0002"):
        log_run(tmp_path / "runs" / name, last_step=100, is_finished=True)
    with wandb_server() as server:
        assert len(sync_to(server, tmp_path, "runs=[runs/0001,runs]", "project=mine")) == 2
    assert [(run.project, run.name) for run in server.runs.values()] == [("mine", "0001"), ("mine", "0002")]


def test_a_damaged_table_or_picture_is_left_out_and_the_rest_sent(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "0001"
    log_run(folder, last_step=200, is_finished=True)
    log = MetricLog(folder, resume_step=200)
    log.table(step=200, name="val/per_class", columns=["class"], rows=[["cat"]], caption="")
    log.close()
    (table,) = (folder / "media").glob("*.json")
    table.write_text('{"columns": ["class"], "rows": [["cat", 1]]}')
    (folder / "media" / "model-first_layer-00000100.png").write_bytes(b"no picture")
    with wandb_server() as server:
        assert "20 steps sent to" in sync_to(server, tmp_path)[0]
    run = only_run(server)
    assert sorted(run.series("model/first_layer")) == [200]
    assert run.series("val/per_class") == {}


def test_a_run_whose_config_is_damaged_keeps_no_other_from_being_sent(tmp_path: Path) -> None:
    for name in ("0001", "0002"):
        log_run(tmp_path / "runs" / name, last_step=20, is_finished=True)
    (tmp_path / "runs" / "0001" / "config.yaml").write_text("a: {")
    with wandb_server() as server:
        first, second = sync_to(server, tmp_path)
    assert first.startswith("runs/0001: left out: run=runs/0001: config.yaml cannot be read")
    assert second.startswith("runs/0002: 2 steps sent to")


def test_a_run_that_is_being_sent_is_left_out(tmp_path: Path) -> None:
    log_run(tmp_path / "runs" / "0001", last_step=20, is_finished=True)
    with wandb_server() as server, hold_tracker(tmp_path / "runs" / "0001", wait_s=0):
        assert sync_to(server, tmp_path) == ["runs/0001: left out, as it is training or being sent now"]
    assert server.runs == {}


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ([], None, "no key of Weights & Biases: type"),
        ([], "short", "WANDB_API_KEY invalid"),
        (["runs=[nowhere]"], KEY, "runs=nowhere: no run there"),
        (["runs=[]"], KEY, "runs=[]: at least one folder wanted"),
        ([], KEY, "runs/0001: Weights & Biases cannot be reached"),
    ],
)
def test_what_a_user_can_mend_is_one_line(tmp_path: Path, options: list[str], key: str | None, message: str) -> None:
    log_run(tmp_path / "runs" / "0001", last_step=20, is_finished=True)
    variables = {"WANDB_BASE_URL": f"http://127.0.0.1:{free_port()}", "WANDB_INIT_TIMEOUT": "2"}
    done = sync(tmp_path, *options, **variables, **({} if key is None else {"WANDB_API_KEY": key}))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
