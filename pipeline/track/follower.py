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
import json
import logging
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass

log = logging.getLogger(__name__)


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
        retry_s: seconds between two tries to reach a server at the start; later its own library sees to that.
    """

    folder: str
    tracker: str
    finish_s: float
    world_size: int
    parent: int
    mode: str = "auto"
    project: str | None = None
    entity: str | None = None
    retry_s: float = 60.0


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
    command = [sys.executable, "-m", "pipeline.track.follow_process", json.dumps(dataclasses.asdict(options))]
    try:
        # A session of its own: what ends training by a signal to its group lets this process come to its own end.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        log.warning("%s could not be started (%s); the run folder has everything", options.tracker, error)
        return None
    return Follower(process, tracker=options.tracker, finish_s=options.finish_s)
