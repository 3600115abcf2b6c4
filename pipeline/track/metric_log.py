"""The metric log: rows of metrics.jsonl, and the same rows to a tracker.

    log = MetricLog(folder, resume_step=0, tracker=WandbTracker(...))
    log.write(step=50, row={"train/loss": 1.9, "rate/images_per_s": 12_000.0})

A tracker that fails is dropped with one warning; the record and the training go on.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, Protocol

from pipeline.shards.publish import publish_bytes

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


class Tracker(Protocol):
    def write(self, *, step: int, row: dict[str, float]) -> None:
        """Show a row of metrics."""

    def close(self) -> None:
        """Finish, and wait for what is under way."""


class MetricLog:
    """Appends rows on rank 0; opening it for a resumed run cuts the rows after the checkpoint's step."""

    def __init__(self, folder: Path, *, resume_step: int, tracker: Tracker | None = None) -> None:
        self.path = folder / METRICS_FILE
        self._tracker = tracker
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= resume_step]
            publish_bytes(self.path, "".join(f"{line}\n" for line in kept).encode())
        self._stream = self.path.open("ab", buffering=0)
        self._pending = b""
        self._is_behind = False

    def write(self, *, step: int, row: dict[str, float]) -> None:
        """Append a row; a number that is not finite is written as null, as JSON has no other word."""
        finite = {key: value if abs(value) < float("inf") else None for key, value in row.items()}
        self._pending += json.dumps({"step": step, **finite}).encode() + b"\n"
        self._write_pending()
        self._to_tracker(lambda tracker: tracker.write(step=step, row=row))

    def close(self) -> None:
        self._write_pending()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._to_tracker(lambda tracker: tracker.close())

    def _write_pending(self) -> None:
        """Write what is not in the file yet; a full disk keeps it for the next time, and training goes on."""
        try:
            while self._pending:
                self._pending = self._pending[self._stream.write(self._pending) :]
            self._is_behind = False
        except OSError as error:
            if not self._is_behind:
                log.warning("%s cannot be written (%s); its rows wait in memory until it can", self.path, error)
            self._is_behind = True

    def _to_tracker(self, call: Any) -> None:
        if self._tracker is None:
            return
        try:
            call(self._tracker)
        except Exception as error:  # whatever a tracker raises must not end a run
            log.warning("the tracker failed (%s) and is left out from here on; metrics.jsonl goes on", error)
            self._tracker = None


def _step_of(line: str) -> float:
    """Return a row's step; a torn last line counts as after every step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
