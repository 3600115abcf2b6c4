"""Rows of a run that stand in a file, one JSON object a line, each with its step.

    rows = StepRows(folder / "metrics.jsonl", resume_step=200)     # what an earlier attempt wrote after step 200 is cut
    rows.append({"step": 250, "train/loss": 1.9})

A full disk never ends a run: what cannot be written waits in memory until it can.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.shards.publish import publish_bytes

log = logging.getLogger(__name__)

# Beyond these neither a float nor a browser counts one by one.
MAX_STEP = 2**53


class StepRows:
    """Appends rows; opening it for a resumed run cuts the rows after the checkpoint's step."""

    def __init__(self, path: Path, *, resume_step: int) -> None:
        self.path = path
        self._written: set[str] = set()
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()
            kept = [line for line in lines if (row := parse(line)) is not None and row["step"] <= resume_step]
            publish_bytes(path, "".join(f"{line}\n" for line in kept).encode())
            # What follows a run's last step is done again where the run was killed before its end.
            self._written = {line for line in kept if json.loads(line)["step"] == resume_step}
        self._stream = path.open("ab", buffering=0)
        self._pending = b""
        self._is_behind = False
        self._lock = threading.Lock()

    def append(self, row: dict[str, Any]) -> None:
        """Append a row, in the file before this returns; from any thread.

        A row of the checkpoint's step that an earlier attempt has written is not written again.
        """
        line = json.dumps(row)
        if line in self._written:
            return
        with self._lock:
            self._pending += line.encode() + b"\n"
            self._write_pending()

    def close(self) -> None:
        """Have everything on the disk, as far as it has room, and close."""
        with self._lock:
            self._write_pending()
            try:
                os.fsync(self._stream.fileno())
            except OSError as error:
                log.warning("%s may be incomplete (%s)", self.path, error)
            self._stream.close()

    def _write_pending(self) -> None:
        try:
            while self._pending:
                self._pending = self._pending[self._stream.write(self._pending) :]
            self._is_behind = False
        except OSError as error:
            if not self._is_behind:
                log.warning("%s cannot be written (%s); its rows wait in memory until it can", self.path, error)
            self._is_behind = True


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, also while it is written: a line that a kill or a full disk tore is left out."""
    if path.exists():
        with path.open(errors="replace") as stream:
            for line in stream:
                if (row := parse(line)) is not None:
                    yield row


def parse(line: str) -> dict[str, Any] | None:
    """Return a line's row, or None for what is not an object with a whole number as `step`."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    is_row = isinstance(step, int) and not isinstance(step, bool) and abs(step) <= MAX_STEP
    return row if is_row else None
