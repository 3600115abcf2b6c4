"""The tracker of wandb in a process that does nothing else: where it sends, and what it makes of the record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.track.metric_log import MetricLog
from wandb_files import environment_without_key, log_run
from wandb_server import KEY, wandb_server

pytestmark = pytest.mark.slow


def test_a_table_is_one_at_wandb_too(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    log_run(run_dir, last_step=100, is_finished=True)
    log = MetricLog(run_dir, resume_step=100)
    log.table(step=100, name="val/per_class", columns=["class", "n"], rows=[["cat", 1], [None, 0.5]], caption="")
    log.close()
    script = """
import sys
from pathlib import Path
from pipeline.track.following import follow
from pipeline.track.run_reading import read_run
from pipeline.track.wandb_tracker import WandbOptions, WandbTracker
folder = Path(sys.argv[1])
options = WandbOptions(mode="offline", project=None, entity=None)
follow(folder, WandbTracker(read_run(folder), options=options), is_ended=lambda: True)
"""
    environment = environment_without_key(tmp_path / "home")
    subprocess.run([sys.executable, "-c", script, str(run_dir)], env=environment, check=True, timeout=120)
    (path,) = run_dir.glob("wandb/offline-run-*/files/media/table/val/per_class_*.table.json")
    stored = json.loads(path.read_text())
    assert (stored["columns"], stored["data"]) == (["class", "n"], [["cat", 1], [None, 0.5]])


def test_a_picture_that_is_ready_when_its_row_was_sent_goes_with_a_later_one(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    log_run(run_dir, last_step=100, is_finished=False)
    script = """
import sys
from pathlib import Path
from pipeline.track.run_reading import read_run
from pipeline.track.wandb_tracker import WandbOptions, WandbTracker
run = read_run(Path(sys.argv[1]))
tracker = WandbTracker(run, options=WandbOptions(mode="online", project=None, entity=None))
tracker.write(step=100, row={"train/loss": 1.0})
tracker.write(step=150, row={"train/loss": 1.0})
tracker.show(run.media[0])
tracker.write(step=200, row={"train/loss": 1.0})
tracker.close(run)
"""
    with wandb_server() as server:
        environment = environment_without_key(tmp_path / "home") | server.environment
        subprocess.run([sys.executable, "-c", script, str(run_dir)], env=environment, check=True, timeout=120)
    (run,) = server.runs.values()
    assert run.steps() == [100, 150]
    assert run.series("model/first_layer")[150]["caption"] == "at 100"


@pytest.mark.parametrize(
    ("variables", "netrc", "expected"),
    [
        ({}, False, "offline"),
        ({"WANDB_API_KEY": KEY}, False, "online"),
        ({}, True, "online"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, False, "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, False, "disabled"),
        ({"WANDB_API_KEY": "short"}, False, "offline"),
    ],
)
def test_the_mode_is_what_is_said_else_by_whether_there_is_a_key(
    tmp_path: Path, variables: dict[str, str], netrc: bool, expected: str
) -> None:
    environment = environment_without_key(tmp_path / "home") | variables
    if netrc:
        path = tmp_path / "home" / ".netrc"
        path.write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
        path.chmod(0o600)
    script = "from pipeline.track.wandb_tracker import resolve_mode as r; print(r('auto'), r('online'), r('offline'))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == [expected, "online", "offline"], done.stderr
