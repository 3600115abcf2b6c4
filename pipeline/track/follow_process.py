"""The process that follows a run and shows it by its tracker: `python -m pipeline.track.follow_process OPTIONS`.

Started by pipeline.track.follower, with FollowerOptions as JSON. Its standard input is a pipe that nothing is written
to: it is closed when training ends, however that happens.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

from pipeline.track.follower import FollowerOptions
from pipeline.track.following import Tracker, Unreachable, first_line, follow, hold_tracker
from pipeline.track.run_reading import read_run

log = logging.getLogger(__name__)

POLL_S = 1.0
EXIT_FAILED = 1
# Lower than training: where cores are scarce, training has them.
NICENESS = 10


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
        reason = f"{type(error).__name__}: {first_line(error)}"
        log.warning("%s failed (%s); the run folder has everything", options.tracker, reason)
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
                    options.retry_s,
                )
            is_told = True
        if ending.wait(options.retry_s):
            return None


def open_tracker(options: FollowerOptions) -> Tracker | None:
    """Return the tracker that is wanted, or None where it is switched off.

    Raises:
        Unreachable: its server does not answer.
    """
    folder = Path(options.folder)
    if options.tracker == "tensorboard":
        from pipeline.track.tensorboard_tracker import TensorBoardTracker

        return TensorBoardTracker(folder)
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
    return WandbTracker(read_run(folder), options=wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
