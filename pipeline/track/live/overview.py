"""The runs under some folders, each in a line: what it is called, whether it is at work, how far and how good it is.

    runs = RunIndex([Path("runs")])
    runs.overviews()          # [Overview(id="runs/0002", state=State.running, step=1200, ...), ...], the newest first
    runs.folder_of("runs/0002")

Folders are looked through again at most every few seconds, and a run's config and rows are read again only when they
changed, so that hundreds of runs may be watched.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.shards.errors import UserError
from pipeline.track.metric_log import METRICS_FILE
from pipeline.track.report.curves import EPOCH
from pipeline.track.report.run_facts import QUALITY_KEYS
from pipeline.track.run_reading import CONFIG_FILE, RUN_FILE, find_runs, finite, flat, read_config, read_summary
from pipeline.track.step_rows import parse

LOCK_FILE = "run.lock"
# Where the system's locks cannot be seen, a run that wrote so lately counts as being at work.
AT_WORK_S = 120.0
LOOK_AGAIN_S = 2.0
TAIL_BYTES = 1 << 18
LOCKS = Path("/proc/locks")
# Told beside a run's name, and the epoch, from which its whole length follows.
SHOWN = (EPOCH, "train/loss", *QUALITY_KEYS)
# Differ from run to run without telling anything.
UNTOLD = ("run_dir", "resume")


class State(Enum):
    running = "running"
    finished = "finished"
    stopped = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A run in a line.

    Attributes:
        id: names the run in requests: its folder as it was found.
        name: its folder below the one that is looked through.
        step: the last one that was logged.
        total_steps: updates that the run is to make, None before that can be told.
        started_s: seconds since 1970.
        last: newest values of SHOWN.
        config: options by their dotted names.
    """

    id: str
    name: str
    state: State
    step: int
    total_steps: int | None
    started_s: float
    last: dict[str, float]
    config: dict[str, Any]


class Stamp(NamedTuple):
    """What of a file changes with its content."""

    inode: int
    size_bytes: int
    changed_ns: int


def stamp_of(path: Path) -> Stamp | None:
    """Return a file's stamp, None where it is not."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return Stamp(stat.st_ino, stat.st_size, stat.st_mtime_ns)


class RunIndex:
    """Knows the runs under `roots`; may be asked from several threads."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = roots
        self._lock = threading.Lock()
        self._names: dict[Path, str] = {}
        self._looked_s = float("-inf")
        self._configs: dict[Path, tuple[Stamp, dict[str, Any] | None]] = {}
        self._tails: dict[Path, tuple[Stamp, dict[str, float]]] = {}

    def overviews(self) -> list[Overview]:
        """Return all runs, the newest first."""
        with self._lock:
            self._look()
            locked = _locked_inodes()
            found = [self._overview(folder, name, locked) for folder, name in self._names.items()]
        return sorted((run for run in found if run), key=lambda run: (-run.started_s, run.id))

    def folder_of(self, run_id: str) -> Path | None:
        """Return the folder of a run that was found; what a request names is never taken for a path."""
        with self._lock:
            self._look()
            return next((folder for folder in self._names if str(folder) == run_id), None)

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_AGAIN_S:
            return
        self._names = {}
        for root in self._roots:
            for folder in find_runs(root):
                name = str(folder.relative_to(root)) if folder != root else folder.resolve().name
                self._names[folder] = name if len(self._roots) == 1 else f"{root.name or root}/{name}"
        self._looked_s = time.monotonic()
        for known in (self._configs, self._tails):
            for folder in known.keys() - self._names.keys():
                known.pop(folder)

    def _overview(self, folder: Path, name: str, locked: set[int] | None) -> Overview | None:
        config = self._config(folder)
        if config is None:
            return None
        last = self._last(folder)
        step = int(last.pop("step", 0))
        return Overview(
            id=str(folder),
            name=name,
            state=state_of(folder, locked=locked),
            step=step,
            total_steps=total_steps(config, step=step, epoch=last.get(EPOCH)),
            started_s=_changed_s(folder / RUN_FILE) or _changed_s(folder / CONFIG_FILE),
            last=last,
            config=config,
        )

    def _config(self, folder: Path) -> dict[str, Any] | None:
        """Return the options by their dotted names, or None where this is no run after all."""
        stamp = stamp_of(folder / CONFIG_FILE)
        if stamp is None:
            return None
        if folder not in self._configs or self._configs[folder][0] != stamp:
            try:
                plain = dict(flat(read_config(folder)))
            except UserError:
                plain = None
            self._configs[folder] = stamp, plain
        return self._configs[folder][1]

    def _last(self, folder: Path) -> dict[str, float]:
        """Return the newest values; evaluation's may lie before the end of the file, so what was seen is kept."""
        path = folder / METRICS_FILE
        stamp = stamp_of(path)
        if stamp is None:
            return {}
        known, values = self._tails.get(folder, (None, {}))
        if known != stamp:
            before = values if known is not None and known.inode == stamp.inode else {}
            values = {**before, **_last_values(path, size=stamp.size_bytes)}
            self._tails[folder] = stamp, values
        return dict(values)


def state_of(folder: Path, *, locked: set[int] | None) -> State:
    """Tell whether a run is at work; `locked`: inodes of files that processes of this machine have locked, if known.

    Of a run on another machine its last row tells, by its age.
    """
    path = folder / LOCK_FILE
    try:
        inode, owner = path.stat().st_ino, path.read_text(errors="replace").strip()
    except OSError:
        inode, owner = 0, ""
    host = owner.rpartition(" on ")[2]
    is_seen = locked is not None and host in ("", socket.gethostname())
    if locked is not None and inode in locked:
        return State.running
    if read_summary(folder):
        return State.finished
    age_s = time.time() - max(_changed_s(folder / METRICS_FILE), _changed_s(folder / CONFIG_FILE))
    return State.running if not is_seen and age_s < AT_WORK_S else State.stopped


def total_steps(config: Mapping[str, Any], *, step: int, epoch: float | None) -> int | None:
    """Return the updates of the whole run, from its options and, where these count epochs, from how far it is."""
    most = config.get("trainer.max_steps")
    if isinstance(most, int):
        return most
    epochs = config.get("trainer.max_epochs")
    return round(step * epochs / epoch) if isinstance(epochs, int) and epoch and step else None


def differing(overviews: Sequence[Overview]) -> dict[str, dict[str, Any]]:
    """Return, by id, the options in which not all of the runs agree."""
    names = dict.fromkeys(name for run in overviews for name in run.config if name not in UNTOLD)
    differ = [name for name in names if any(run.config.get(name) != overviews[0].config.get(name) for run in overviews)]
    return {run.id: {name: run.config[name] for name in differ if name in run.config} for run in overviews}


def _last_values(path: Path, *, size: int) -> dict[str, float]:
    values: dict[str, float] = {}
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, size - TAIL_BYTES))
            lines = stream.read().splitlines()
    except OSError:
        return values
    for line in lines:
        row = parse(line.decode(errors="replace")) or {}
        for key in ("step", *SHOWN):
            if (value := finite(row.get(key))) is not None:
                values[key] = value
    return values


def _locked_inodes() -> set[int] | None:
    """Return the inodes of locked files, or None where the system does not list them."""
    try:
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return None
    # "1: FLOCK  ADVISORY  WRITE 19481 fe:00:5515217 0 EOF"
    fields = [line.split() for line in lines]
    return {int(parts[5].rpartition(":")[2]) for parts in fields if len(parts) > 5 and parts[1] == "FLOCK"}


def _changed_s(path: Path) -> float:
    stamp = stamp_of(path)
    return 0.0 if stamp is None else stamp.changed_ns / 1e9
