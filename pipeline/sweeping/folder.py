"""The folder of a sweep: a run folder a number, and what each number stands for.

    sweep.json       {"version": 1, "runs": [{"number": 0, "options": {...}, "config": {...}}, ...]}
    0000/ 0001/ ...  run folders, as training makes them
    logs/0000.log    what the run's process printed
    runs.csv table.csv table.md plot.png

    with open_sweep(folder, identities, options=[...]) as sweep:
        sweep.runs[0].folder                    # .../0000

A run is known by its whole config. The same command again finds the same numbers, and what is finished stays finished;
a command with more seeds or more values in the same folder adds numbers for what is new.

A lock on the folder is held by the sweep and by every run that it has started, so it is free only when none of them is
alive, also after a SIGKILL: two processes never write into one run folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.shards.errors import UserError
from pipeline.shards.publish import publish_json
from pipeline.sweeping.axes import Point

VERSION = 1
SWEEP_FILE = "sweep.json"
LOCK_FILE = ".lock"
LOGS_FOLDER = "logs"
RUNS_FOLDER = Path("runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """A run of the sweep: its number, its swept options as typed, and where it lies."""

    number: int
    options: Point
    folder: Path
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSweep:
    """A sweep's folder while it is held; `lock` is the descriptor that its runs inherit."""

    folder: Path
    runs: tuple[PlannedRun, ...]
    lock: int


def default_folder(kind: str, identities: Sequence[dict[str, Any]]) -> Path:
    """Return runs/KIND-xxxxxxxx, named after what is run: the same command has the same folder."""
    spelling = json.dumps(identities, sort_keys=True).encode()
    return RUNS_FOLDER / f"{kind}-{hashlib.sha256(spelling).hexdigest()[:8]}"


@contextmanager
def open_sweep(folder: Path, identities: Sequence[dict[str, Any]], *, options: Sequence[Point]) -> Iterator[OpenSweep]:
    """Create or open the folder, lock it, and number the runs.

    Args:
        identities: the whole config of each run, without its folder.
        options: what is swept of each.

    Raises:
        UserError: the folder holds something else, or a sweep is at work there.
    """
    path = folder / SWEEP_FILE
    is_foreign = folder.is_dir() and any(item.name != LOCK_FILE for item in folder.iterdir()) and not path.is_file()
    if is_foreign or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder}: not empty and not a sweep; choose another folder")
    (folder / LOGS_FOLDER).mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        known = _read(path) if path.is_file() else []
        numbers = _number(known, identities, options)
        publish_json(path, {"version": VERSION, "runs": known})
        runs = tuple(
            PlannedRun(
                number=number,
                options=point,
                folder=folder / f"{number:04d}",
                log=folder / LOGS_FOLDER / f"{number:04d}.log",
            )
            for number, point in zip(numbers, options, strict=True)
        )
        yield OpenSweep(folder=folder, runs=runs, lock=lock)
    finally:
        os.close(lock)


def _number(known: list[dict[str, Any]], identities: Sequence[dict[str, Any]], options: Sequence[Point]) -> list[int]:
    """Return the number of each run, adding to `known` those that are new."""
    places = {json.dumps(run["config"], sort_keys=True): int(run["number"]) for run in known}
    numbers = []
    for identity, point in zip(identities, options, strict=True):
        spelling = json.dumps(identity, sort_keys=True)
        if spelling not in places:
            places[spelling] = len(known)
            known.append({"number": len(known), "options": point, "config": identity})
        numbers.append(places[spelling])
    return numbers


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_bytes())
        known: list[dict[str, Any]] = content["runs"]
        if content["version"] != VERSION or [run["number"] for run in known] != list(range(len(known))):
            raise ValueError("of another version")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not what a sweep writes ({error}); choose another folder") from None
    return known


def _lock(folder: Path) -> int:
    lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UserError(
            f"{folder}: a sweep is at work there, or runs of one that was killed; wait for their end, or end them"
        ) from None
    return lock
