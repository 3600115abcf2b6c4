"""wandb as it is used: real runs, real kills, a server that answers, hangs or goes away, and none at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.shards.manifest import DataSet
from pipeline.track.follower import FollowerOptions, start_follower
from pipeline.track.metric_log import MetricLog
from pipeline.track.step_rows import read_rows
from runs import SMALL, run_ranks
from started import processes_in
from waiting import wait_until
from wandb_files import environment_without_key, log_run
from wandb_server import WandbServer, wandb_server

pytestmark = pytest.mark.slow

# 100 samples in batches of 12: 8 steps an epoch, each with a row; evaluation adds to the last of an epoch.
LAST_STEP = 120
OPTIONS = [
    *(option for option in SMALL if not option.startswith("logger")),
    *("logger=wandb", f"trainer.max_steps={LAST_STEP}", "trainer.max_epochs=1000", "trainer.log_every_steps=1"),
    *("track.pictures=false", "track.gap=false", "track.report=false", "track.noise_scale_every_steps=null"),
    # It waits for a tracker that has little of a busy machine.
    *("checkpoint.every_steps=10", "logger.finish_s=250"),
]


def train_command(data: DataSet, run_dir: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.train", f"data.path={data.root}", f"run_dir={run_dir}", *OPTIONS, *options]


def train(data: DataSet, folder: Path, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = train_command(data, folder / "run", *options)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def train_and_kill(data: DataSet, folder: Path, environment: dict[str, str], *options: str) -> None:
    """Kill training when it has a checkpoint and some rows after it."""
    run_dir = folder / "run"
    process = subprocess.Popen(train_command(data, run_dir, *options), cwd=folder, env=environment)
    try:
        wait_until(lambda: num_rows(run_dir) >= 35, what="35 rows")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def use_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Have the processes that this one starts find themselves in `environment`."""
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def num_rows(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def recorded(run_dir: Path, key: str) -> dict[int, float]:
    return {row["step"]: row[key] for row in read_rows(run_dir / "metrics.jsonl") if row.get(key) is not None}


def test_a_run_that_is_killed_and_goes_on_on_two_ranks_is_one_run_with_each_step_once(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wandb_server() as server:
        environment = environment_without_key(tmp_path / "home") | server.environment
        train_and_kill(synthetic, tmp_path, environment)
        wait_until(lambda: ended(server) == [1], what="the follower of a killed run at its end")
        (run_id,) = server.runs
        at_kill = server.runs[run_id].steps()
        assert at_kill == list(range(1, len(at_kill) + 1))
        use_environment(monkeypatch, environment)
        run_ranks(2, *train_command(synthetic, tmp_path / "run")[2:])
    assert ended(server) == [1, 0]
    (sent,) = server.runs.values()
    assert sent.steps() == list(range(1, LAST_STEP + 1))
    for key in ("train/loss", "val/loss"):
        assert sent.series(key) == pytest.approx(recorded(tmp_path / "run", key), rel=1e-3)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert sent.summary["val/top1_frac"] == summary["val/top1_frac"]
    assert sent.config["batch"]["size"] == 12
    assert sent.config["run"]["fingerprint"]["batch.size"] == 12
    assert set(sent.config["run"]) == {"command", "git_commit", "fingerprint", "versions", "machine", "world_size"}
    assert (sent.project, sent.name) == ("tarmac", "run")
    known = json.loads((tmp_path / "run" / "wandb.json").read_text())
    assert (known["id"], known["sent_step"], known["project"]) == (run_id, LAST_STEP, "tarmac")


def ended(server: WandbServer) -> list[int]:
    return [code for run in server.runs.values() for code in run.exit_codes]


LOGGING = """
import os, sys, time
from pathlib import Path
from pipeline.track.follower import FollowerOptions, start_follower
from pipeline.track.metric_log import MetricLog
folder, resume_step, last_step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
options = FollowerOptions(folder=str(folder), tracker="wandb", finish_s=250, world_size=1, parent=os.getpid())
log = MetricLog(folder, resume_step=resume_step, open_view=lambda: start_follower(options))
for step in range(resume_step + 10, last_step + 1, 10):
    log.write(step=step, row={"train/loss": 1 / step})
if last_step < 300:
    time.sleep(1000)
(folder / "summary.json").write_text('{"steps": 300}')
log.close()
"""


@pytest.mark.parametrize("moment", ["starting", "shown"])
def test_offline_a_killed_run_is_one_folder_which_wandb_sync_sends_with_each_step_once(
    tmp_path: Path, moment: str
) -> None:
    """The process that logs is killed right after a burst of rows, before or after its tracker has begun."""
    run_dir = tmp_path / "run"
    log_run(run_dir, last_step=50, is_finished=False)
    environment = environment_without_key(tmp_path / "home")
    command = [sys.executable, "-c", LOGGING, str(run_dir)]
    process = subprocess.Popen([*command, "50", "200"], env=environment)
    wait_until(lambda: 200 in recorded(run_dir, "train/loss"), what="the rows of the first attempt")
    if moment == "shown":
        wait_until(lambda: bool(list(run_dir.glob("wandb/offline-run-*/*.wandb"))), what="wandb's file")
    process.kill()
    process.wait()
    subprocess.run([*command, "120", "300"], env=environment, check=True, timeout=300)
    (folder,) = (run_dir / "wandb").glob("offline-run-*")
    with wandb_server() as server:
        command = [sys.executable, "-m", "wandb", "sync", str(folder)]
        environment |= server.environment
        sent = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert sent.returncode == 0, sent.stderr
    (run,) = server.runs.values()
    assert run.steps() == list(range(10, 301, 10))
    assert run.series("train/loss") == pytest.approx(recorded(run_dir, "train/loss"))


def test_a_server_that_hangs_does_not_hold_the_end_of_a_run(synthetic: DataSet, tmp_path: Path) -> None:
    with wandb_server() as server:
        server.is_stuck = True
        environment = environment_without_key(tmp_path / "home") | server.environment
        done = train(synthetic, tmp_path, environment, "logger.finish_s=0.5", "trainer.max_steps=8")
        assert done.returncode == 0
        assert "wandb had not taken everything after 0.5 s" in done.stderr
        assert "Traceback" not in done.stderr
        assert list(recorded(tmp_path / "run", "train/loss")) == list(range(1, 9))
        wait_until(lambda: not processes_in(tmp_path), what="the end of wandb's processes")


def test_a_server_that_does_not_answer_at_the_start_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log_run(tmp_path / "run", last_step=200, is_finished=True)
    with wandb_server() as server:
        server.is_stuck = True
        environment = environment_without_key(tmp_path / "home") | server.environment
        use_environment(monkeypatch, environment | {"WANDB_INIT_TIMEOUT": "1"})
        options = FollowerOptions(
            folder=str(tmp_path / "run"), tracker="wandb", finish_s=60, world_size=1, parent=os.getpid(), retry_s=0.1
        )
        follower = start_follower(options)
        assert follower is not None
        told = ""

        def is_told() -> bool:
            nonlocal told
            told += capfd.readouterr().err
            return "\n" in told

        wait_until(is_told, what="a word on the server")
        assert told.startswith("wandb cannot be reached (")
        server.is_stuck = False
        server.release.set()
        wait_until(lambda: bool(server.runs), what="a run at the server")
        follower.close()
    (run,) = server.runs.values()
    assert run.steps() == list(range(10, 201, 10))


def test_what_a_lost_server_lacks_is_sent_later_and_each_step_is_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "run"
    log_run(run_dir, last_step=100, is_finished=False)
    with wandb_server() as server:
        use_environment(monkeypatch, environment_without_key(tmp_path / "home") | server.environment)
        options = FollowerOptions(
            folder=str(run_dir), tracker="wandb", finish_s=1, world_size=1, parent=os.getpid(), mode="online"
        )
        log = MetricLog(run_dir, resume_step=100, open_view=lambda: start_follower(options))
        wait_until(lambda: any(run.history for run in server.runs.values()), what="the first row at the server")
    for step in range(110, 301, 10):
        log.write(step=step, row={"train/loss": 1 / step})
    (run_dir / "summary.json").write_text('{"steps": 300}')
    log.close()
    assert (
        "wandb had not taken everything after 1 s; the run folder has it all; `make sync` sends the rest" in caplog.text
    )
    (run,) = server.runs.values()
    assert 0 < len(run.history) < 30
    with wandb_server(server):
        command = [sys.executable, "-m", "pipeline.sync", f"runs=[{run_dir}]"]
        environment = {**os.environ, **server.environment}
        sent = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert (sent.returncode, sent.stderr) == (0, "")
    assert list(server.runs.values()) == [run]
    assert run.steps() == list(range(10, 301, 10))
    assert run.series("train/loss") == pytest.approx(recorded(run_dir, "train/loss"))


def test_on_a_disk_that_is_full_for_a_while_the_record_is_whole_and_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here, which takes root")
    try:
        use_environment(monkeypatch, environment_without_key(tmp_path / "home"))
        run_dir = disk / "run"
        log_run(run_dir, last_step=10, is_finished=False)
        options = FollowerOptions(folder=str(run_dir), tracker="wandb", finish_s=20, world_size=1, parent=os.getpid())
        log = MetricLog(run_dir, resume_step=10, open_view=lambda: start_follower(options))
        wait_until(lambda: bool(list(run_dir.glob("wandb/offline-run-*/*.wandb"))), what="wandb's file")
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(2**20))
        for step in range(20, 10001, 10):
            log.write(step=step, row={"train/loss": 1 / step, "grad/norm": 1.0, "rate/images_per_s": 1.0})
        assert len(recorded(run_dir, "train/loss")) < 1000
        filler.unlink()
        log.write(step=10010, row={"train/loss": 0.0})
        log.close()
        assert list(recorded(run_dir, "train/loss")) == list(range(10, 10011, 10))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_switched_off_by_wandb_mode_nothing_is_written(synthetic: DataSet, tmp_path: Path) -> None:
    environment: dict[str, Any] = environment_without_key(tmp_path / "home") | {"WANDB_MODE": "disabled"}
    done = train(synthetic, tmp_path, environment, "trainer.max_steps=4")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "run" / "wandb").exists()
