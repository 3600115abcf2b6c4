"""A tracker in a process of its own, which follows the record of a run and shows it elsewhere.

    follower = start_follower(FollowerOptions(folder="runs/0001", tracker="wandb", ...))     # training goes on at once
    follower.close()                                    # at the end: waits for it, at most `finish_s` seconds

Training writes metrics.jsonl and media.jsonl and knows nothing of trackers; the process reads those files. So a
tracker that crashes, hangs or has no network takes nothing from training, and drops nothing: what it has not shown
is in the record, and is shown by the next attempt of the run, or by `python -m pipeline.sync`. When training is
killed, the process reads the record to its end and comes to its own.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.track.media import Medium
from pipeline.track.record_tail import MetricRow, RecordTail
from pipeline.track.run_reading import RunRecord, read_run

log = logging.getLogger(__name__)

POLL_S = 1.0
# Between two tries to reach a tracker's server at the start; its own library sees to what comes later.
RETRY_S = 60.0
LOCK_FILE = "tracker.lock"
EXIT_FAILED = 1
# Lower than training: where cores are scarce, training has them.
NICENESS = 10


class Tracker(Protocol):
    """Shows a run elsewhere. It may raise whatever it likes."""

    def write(self, *, step: int, row: dict[str, float]) -> None:
        """Show a row of metrics; steps ascend, and a step may have several rows."""

    def show(self, medium: Medium) -> None:
        """Show a picture or a table, which lies in the run folder."""

    def flush(self) -> None:
        """Nothing new for now: let people see what there is."""

    def close(self, run: RunRecord) -> None:
        """Finish with what the run folder holds now."""


class Unreachable(Exception):
    """A tracker's server does not answer, or refuses; it is worth another try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowerOptions:
    """What the process is told.

    Attributes:
        folder: of the run.
        tracker: `wandb` or `tensorboard`.
        mode, project, entity: of wandb, as in its config.
        finish_s: seconds that it may go on when training has ended.
        world_size: ranks that train.
        parent: id of the process that trains.
    """

    folder: str
    tracker: str
    finish_s: float
    world_size: int
    parent: int
    mode: str = "auto"
    project: str | None = None
    entity: str | None = None


class Follower:
    """The process as training sees it."""

    def __init__(self, process: subprocess.Popen[bytes], *, tracker: str, finish_s: float) -> None:
        self._process, self._tracker, self._finish_s = process, tracker, finish_s

    def close(self) -> None:
        """Let the process come to its end, and end it after `finish_s` seconds."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            status = self._process.wait(self._finish_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            log.warning("%s had not taken everything after %g s; %s", self._tracker, self._finish_s, self._remedy())
            return
        if status < 0:  # else it has said itself what was wrong
            log.warning("%s was ended by signal %d; %s", self._tracker, -status, self._remedy())

    def _remedy(self) -> str:
        rest = "; `make sync` sends the rest" if self._tracker == "wandb" else ""
        return f"the run folder has it all{rest}"


def start_follower(options: FollowerOptions) -> Follower | None:
    """Start the process, or return None with a warning where that cannot be done."""
    command = [sys.executable, "-m", "pipeline.track.follower", json.dumps(dataclasses.asdict(options))]
    try:
        # A session of its own: what ends training by a signal to its group lets this process come to its own end.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        log.warning("%s could not be started (%s); the run folder has everything", options.tracker, error)
        return None
    return Follower(process, tracker=options.tracker, finish_s=options.finish_s)


def follow(folder: Path, tracker: Tracker, *, is_ended: Callable[[], bool]) -> None:
    """Show the record until training has ended and all of it is shown.

    Args:
        is_ended: waits for a moment and tells whether training has ended.
    """
    tail = RecordTail(folder)
    try:
        has_ended = False
        while not has_ended:
            has_ended = is_ended()
            entries = tail.read()
            for entry in entries:
                if isinstance(entry, MetricRow):
                    tracker.write(step=entry.step, row=entry.values)
                else:
                    tracker.show(entry)
            if entries:
                tracker.flush()
    finally:
        tail.close()
    tracker.close(read_run(folder))


@contextmanager
def hold_tracker(folder: Path, *, wait_s: float) -> Iterator[bool]:
    """Hold the run's lock of trackers; the value is False where another process holds it for all of `wait_s`."""
    deadline_s = time.monotonic() + wait_s
    with (folder / LOCK_FILE).open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    yield False
                    return
                time.sleep(0.1)
            except OSError:  # a file system without locks is trusted
                break
            else:
                break
        yield True


class Ending:
    """Notices that training has ended, and ends this process `finish_s` seconds later, whatever it is doing."""

    def __init__(self, *, parent: int, finish_s: float) -> None:
        self._parent, self._finish_s = parent, finish_s
        self._event = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Return whether training has ended, at the latest after `timeout_s` seconds."""
        return self._event.wait(timeout_s)

    def _watch(self) -> None:
        # Its end of the pipe is closed when it ends, however; a process that it forked may still hold another.
        while os.getppid() == self._parent and not select.select([sys.stdin], [], [], POLL_S)[0]:
            pass
        self._event.set()
        time.sleep(self._finish_s)
        os._exit(EXIT_FAILED)


def main(argv: list[str]) -> int:
    options = FollowerOptions(**json.loads(argv[0]))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("wandb", "tensorboard", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.nice(NICENESS)
    # Whoever ends training by signals to all of a machine's processes ends this one by ending training.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Training itself waits for as long and then kills; this is for one that was killed.
    ending = Ending(parent=options.parent, finish_s=options.finish_s + POLL_S)
    folder = Path(options.folder)
    try:
        with hold_tracker(folder, wait_s=options.finish_s + 2 * POLL_S) as is_held:
            if not is_held:
                log.warning("%s: another process still shows %s", options.tracker, folder)
                return EXIT_FAILED
            tracker = _open_patiently(options, ending)
            if tracker is not None:
                follow(folder, tracker, is_ended=lambda: ending.wait(POLL_S))
    except Exception as error:  # whatever a tracker raises is one line here, and nothing to training
        log.warning("%s failed (%s: %s); the run folder has everything", options.tracker, type(error).__name__, error)
        return EXIT_FAILED
    return 0


def _open_patiently(options: FollowerOptions, ending: Ending) -> Tracker | None:
    """Return the tracker, or None where its server could not be reached while training went on."""
    is_told = False
    while True:
        try:
            return open_tracker(options)
        except Unreachable as error:
            if not is_told:
                log.warning(
                    "%s cannot be reached (%s) and is tried again every %g s; the run folder has everything",
                    options.tracker,
                    error,
                    RETRY_S,
                )
            is_told = True
        if ending.wait(RETRY_S):
            return None


def open_tracker(options: FollowerOptions) -> Tracker | None:
    """Return the tracker that is wanted, or None where it is switched off.

    Raises:
        Unreachable: its server does not answer.
    """
    run = read_run(Path(options.folder))
    if options.tracker == "tensorboard":
        from pipeline.track.tensorboard_tracker import TensorBoardTracker

        return TensorBoardTracker(run.folder)
    from pipeline.track.wandb_tracker import WandbOptions, WandbTracker, resolve_mode

    mode = resolve_mode(options.mode)
    if mode == "disabled":
        return None
    wanted = WandbOptions(
        mode=mode,
        project=options.project,
        entity=options.entity,
        finish_s=options.finish_s,
        world_size=options.world_size,
        trainer=options.parent,
    )
    return WandbTracker(run, options=wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
