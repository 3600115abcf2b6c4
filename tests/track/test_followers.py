"""A process that follows the record: what it shows, and that nothing it does reaches training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.track.follower import Follower, FollowerOptions, start_follower
from pipeline.track.following import follow, hold_tracker
from pipeline.track.media import Medium
from pipeline.track.metric_log import MetricLog
from pipeline.track.run_reading import RunRecord
from started import processes_in
from tiny_data import ROOT
from waiting import wait_until


class Seen:
    """A tracker that keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, str]] = []
        self.num_flushed = 0
        self.closed_with: RunRecord | None = None

    def write(self, *, step: int, row: dict[str, float]) -> None:
        self.shown += [(step, key) for key in row]

    def show(self, medium: Medium) -> None:
        self.shown.append((medium.step, medium.name))

    def flush(self) -> None:
        self.num_flushed += 1

    def close(self, run: RunRecord) -> None:
        self.closed_with = run


def make_run(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("seed: 0\nlogger: {kind: NoLogger}\n")
    return folder


def options_for(folder: Path, *, tracker: str = "tensorboard", finish_s: float = 30.0) -> FollowerOptions:
    return FollowerOptions(
        folder=str(folder), tracker=tracker, finish_s=finish_s, world_size=1, parent=os.getpid(), mode="offline"
    )


def test_a_follower_shows_all_while_it_is_written_and_ends_when_all_is_shown(tmp_path: Path) -> None:
    run, tracker, is_over = make_run(tmp_path / "run"), Seen(), threading.Event()
    thread = threading.Thread(
        target=lambda: follow(run, tracker, is_ended=lambda: is_over.wait(0.01)),
    )
    thread.start()
    log = MetricLog(run, resume_step=0)
    log.write(step=1, row={"train/loss": 1.0})
    wait_until(lambda: tracker.num_flushed == 1, what="the first row shown while the run goes on")
    log.picture(step=2, name="a/b", png=b"png", caption="")
    log.write(step=2, row={"train/loss": 0.5})
    log.close()
    is_over.set()
    thread.join()
    # A picture comes before its row when it is seen before that is written, else after it.
    assert tracker.shown[0] == (1, "train/loss")
    assert sorted(tracker.shown[1:]) == [(2, "a/b"), (2, "train/loss")]
    assert tracker.closed_with is not None
    assert tracker.closed_with.series["train/loss"].values == [1.0, 0.5]


def test_a_log_opens_its_view_when_the_record_is_cut_and_closes_it_when_it_is_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    log = MetricLog(run, resume_step=0)
    log.write(step=5, row={"train/loss": 1.0})
    log.close()
    seen = []

    class View:
        def close(self) -> None:
            seen.append((run / "metrics.jsonl").read_text())

    def open_view() -> View:
        seen.append((run / "metrics.jsonl").read_text())
        return View()

    log = MetricLog(run, resume_step=3, open_view=open_view)
    log.write(step=4, row={"train/loss": 2.0})
    log.close()
    assert seen == ["", '{"step": 4, "train/loss": 2.0}\n']


def test_a_hanging_process_is_ended_in_time_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hanging = [sys.executable, "-c", "import time; time.sleep(1000)"]
    process = subprocess.Popen(hanging, stdin=subprocess.PIPE)
    began_s = time.monotonic()
    Follower(process, tracker="wandb", finish_s=0.2).close()
    assert process.returncode == -signal.SIGKILL
    assert time.monotonic() - began_s < 100
    (record,) = caplog.records
    assert "wandb had not taken everything after 0.2 s" in record.message
    assert "`make sync` sends the rest" in record.message


def test_a_process_that_was_killed_is_told_once_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process.kill()
    Follower(process, tracker="tensorboard", finish_s=60).close()
    assert [record.message for record in caplog.records] == [
        "tensorboard was ended by signal 9; the run folder has it all"
    ]


LOGGING = """
import os, sys, time
from pathlib import Path
from pipeline.track.follower import FollowerOptions, start_follower
from pipeline.track.metric_log import MetricLog
folder = Path(sys.argv[1])
options = FollowerOptions(folder=str(folder), tracker="tensorboard", finish_s=250, world_size=1, parent=os.getpid())
log = MetricLog(folder, resume_step=0, open_view=lambda: start_follower(options))
if os.fork():
    (folder / "forked").touch()
time.sleep(1000)
"""


@pytest.mark.slow
def test_a_killed_training_is_noticed_though_a_process_that_it_forked_lives_on(tmp_path: Path) -> None:
    """That one holds the pipe open, whose end tells that training has ended."""
    pytest.importorskip("tensorboard")
    run = make_run(tmp_path / "run")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    training = subprocess.Popen([sys.executable, "-c", LOGGING, str(run)], cwd=tmp_path, env=environment)
    try:
        wait_until((run / "forked").exists, what="a forked process")
        wait_until((run / "tensorboard").exists, what="the tracker at work")
        assert len(processes_in(tmp_path)) == 3
        training.kill()
        training.wait()
        wait_until(lambda: len(processes_in(tmp_path)) == 1, what="the end of the tracker's process")
    finally:
        training.kill()
        for process in processes_in(tmp_path):
            os.kill(process, signal.SIGKILL)


def test_a_tracker_that_fails_is_one_line_and_the_log_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    run = make_run(tmp_path / "run")
    (run / "tensorboard").write_text("in the way")
    log = MetricLog(run, resume_step=0, open_view=lambda: start_follower(options_for(run)))
    log.write(step=1, row={"train/loss": 1.0})
    log.close()
    told = capfd.readouterr().err
    assert told.startswith("tensorboard failed (FileExistsError")
    assert told.endswith("the run folder has everything\n")
    assert told.count("\n") == 1
    assert (run / "metrics.jsonl").read_text().count("\n") == 1


def test_without_a_process_the_log_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    run = make_run(tmp_path / "run")
    log = MetricLog(run, resume_step=0, open_view=lambda: start_follower(options_for(run)))
    log.write(step=1, row={"train/loss": 1.0})
    log.close()
    assert "could not be started" in caplog.text
    assert (run / "metrics.jsonl").read_text().count("\n") == 1


def test_one_process_at_a_time_shows_a_run(tmp_path: Path) -> None:
    with hold_tracker(tmp_path, wait_s=0) as first:
        assert first
        with hold_tracker(tmp_path, wait_s=0) as second:
            assert not second
    with hold_tracker(tmp_path, wait_s=0) as third:
        assert third
