"""Following the record of a run: each entry goes to a tracker once, until training has ended and all is shown.

with hold_tracker(folder, wait_s=0) as is_held:                     # one process at a time shows a run
    follow(folder, WandbTracker(...), is_ended=lambda: True)        # shows what there is
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pipeline.track.media import Medium
from pipeline.track.record_tail import MetricRow, RecordTail
from pipeline.track.run_reading import RunRecord, read_run

LOCK_FILE = "tracker.lock"


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


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its name where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


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
