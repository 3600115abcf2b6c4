"""The metric log: what a run logs, once. metrics.jsonl and media.jsonl are the record; trackers follow it.

log = MetricLog(folder, resume_step=0, open_view=lambda: start_follower(...))
log.write(step=50, row={"train/loss": 1.9, "rate/images_per_s": 12_000.0})
log.picture(step=50, name="model/first_layer", png=png, caption="weights of the first layer's largest units")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.track.media import MediaLog
from pipeline.track.step_rows import StepRows

METRICS_FILE = "metrics.jsonl"


class View(Protocol):
    """Shows the record as it grows, in a process of its own."""

    def close(self) -> None:
        """Let it come to its end, now that the record is whole; never raises."""


class MetricLog:
    """Keeps what rank 0 logs; opening it for a resumed run cuts what is after the checkpoint's step.

    Attributes:
        path: metrics.jsonl.
    """

    def __init__(self, folder: Path, *, resume_step: int, open_view: Callable[[], View | None] | None = None) -> None:
        """Open the log; `open_view` is called when the record is cut, and what it returns is closed with the log."""
        self.path = folder / METRICS_FILE
        self._rows = StepRows(self.path, resume_step=resume_step)
        self._media = MediaLog(folder, resume_step=resume_step)
        self._view = None if open_view is None else open_view()

    def write(self, *, step: int, row: dict[str, float]) -> None:
        """Append a row; a number that is not finite is written as null, as JSON has no other word."""
        finite = {key: value if abs(value) < float("inf") else None for key, value in row.items()}
        self._rows.append({"step": step, **finite})

    def picture(self, *, step: int, name: str, png: bytes, caption: str) -> None:
        """Keep a picture; `name` is `what/which`."""
        self._media.picture(step=step, name=name, png=png, caption=caption)

    def table(
        self, *, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str
    ) -> None:
        """Keep a table of numbers, texts and None."""
        self._media.table(step=step, name=name, columns=columns, rows=rows, caption=caption)

    def close(self) -> None:
        self._rows.close()
        self._media.close()
        if self._view is not None:
            self._view.close()
