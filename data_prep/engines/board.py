"""The board: a shared folder through which jobs that know nothing of each other share out tasks.

    board = Board(Path("data/pets/plan/slurm/board"))
    board.open()
    board.claim("train-000003", key="job-2")       # True for the first who asks, on every node
    board.tell("job-2", done="train-000003")
    board.news()                                   # [("job-2", {"done": "train-000003"})]
    board.close()                                  # jobs look, and end

A claim is a symbolic link whose target is the claimant: made atomically, with its content, on network file systems
too. What a job tells is appended to a file of its own, which is opened anew each time, so that other nodes see it.
Nothing here is needed by the data set, and nothing here is trusted by it: a shard is done when its receipt says so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_prep.shard_task import PLAN_FOLDER

BOARD_FOLDER = f"{PLAN_FOLDER}/slurm"
JOB_ID = re.compile(r"\d+(_\d+)?")
COMMAND_S = 60.0


class Board:
    """A folder of claims and news; `key` is a job's name, which a requeued job keeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._claims, self._news, self._open = folder / "claims", folder / "news", folder / "open"
        self._known_claims: set[str] = set()
        self._read_bytes: dict[str, int] = {}

    def open(self) -> None:
        """Make the board, for its owner's eyes alone."""
        for path in (self.folder, self._claims, self._news):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open.touch()

    def close(self) -> None:
        """Tell the jobs to end."""
        self._open.unlink(missing_ok=True)

    def is_open(self) -> bool:
        return self._open.exists()

    def claim(self, name: str, *, key: str) -> bool:
        """Take a task, unless another job has it."""
        if name in self._known_claims:
            return False
        try:
            (self._claims / name).symlink_to(key)
        except FileExistsError:
            # One listing spares a try for each of the others that are taken.
            self._known_claims.update(path.name for path in self._claims.iterdir())
            return False
        return True

    def claims_of(self, key: str) -> list[str]:
        """Return the names that a job has claimed."""
        found = []
        for path in self._claims.iterdir():
            with suppress(OSError):
                if str(path.readlink()) == key:
                    found.append(path.name)
        return sorted(found)

    def release(self, names: Iterable[str]) -> None:
        """Give tasks back that a lost job had claimed."""
        for name in names:
            (self._claims / name).unlink(missing_ok=True)

    def tell(self, key: str, **event: Any) -> None:
        """Append an event to a job's news; without one, only show that the job is alive."""
        with (self._news / key).open("ab") as stream:
            if event:
                stream.write(json.dumps(event).encode() + b"\n")
            else:
                os.utime(stream.fileno())

    def has_told(self, key: str) -> bool:
        return (self._news / key).exists()

    def pulse(self, key: str) -> tuple[int, int] | None:
        """Return what changes while a job is alive; None before its start."""
        try:
            status = (self._news / key).stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def news(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what jobs told since the last call."""
        found = []
        for path in sorted(self._news.iterdir()):
            start = self._read_bytes.get(path.name, 0)
            if path.stat().st_size <= start:
                continue
            with path.open("rb") as stream:
                stream.seek(start)
                content = stream.read()
            # A line may be half there.
            whole = content[: content.rfind(b"\n") + 1]
            self._read_bytes[path.name] = start + len(whole)
            found += [(path.name, json.loads(line)) for line in whole.splitlines()]
        return found

    def note_jobs(self, job_ids: Iterable[str]) -> None:
        """Keep Slurm's numbers of the jobs, for whoever must end them when this process was killed."""
        with (self.folder / "jobs").open("a") as stream:
            stream.writelines(f"{job_id}\n" for job_id in job_ids)


def end_left_jobs(out: Path) -> None:
    """End the jobs that a killed run left at work for `out`, and remove its board and logs.

    They stop at their next look at the board; where Slurm is at hand they are cancelled too.
    """
    folder = out / BOARD_FOLDER
    if not folder.is_dir():
        return
    board = folder / "board"
    Board(board).close()
    with suppress(OSError):
        cancel_jobs((board / "jobs").read_text().split())
    shutil.rmtree(folder, ignore_errors=True)


def cancel_jobs(job_ids: Iterable[str]) -> None:
    """Cancel Slurm's jobs by their numbers; those that have ended are no error."""
    numbers = [job_id for job_id in job_ids if JOB_ID.fullmatch(job_id)]
    if numbers and shutil.which("scancel"):
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["scancel", *numbers], check=False, capture_output=True, timeout=COMMAND_S)


def queued_jobs(job_ids: Iterable[str]) -> set[str] | None:
    """Return which of Slurm's jobs wait or run, arrays one by one (`17_3`); None where Slurm does not say.

    squeue, not sacct: it works without an accounting service, and says at once when a job is gone.
    """
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={','.join(job_ids)}"]
    try:
        asked = subprocess.run(command, check=False, capture_output=True, text=True, timeout=COMMAND_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode == 0:
        return set(asked.stdout.split())
    # All are gone, and forgotten.
    return set() if "Invalid job id" in asked.stderr else None
