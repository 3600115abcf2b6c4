"""The metric log: what a run logs, once. metrics.jsonl and media.jsonl are the record; a tracker shows the same.

    log = MetricLog(folder, resume_step=0, tracker=WandbTracker(...))
    log.write(step=50, row={"train/loss": 1.9, "rate/images_per_s": 12_000.0})
    log.picture(step=50, name="model/first_layer", png=png, caption="weights of the first layer's largest units")

A tracker that fails is dropped with one warning; the record and the training go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.track.media import MediaLog, Medium
from pipeline.track.step_rows import StepRows

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


class Tracker(Protocol):
    def write(self, *, step: int, row: dict[str, float]) -> None:
        """Show a row of metrics."""

    def show(self, medium: Medium) -> None:
        """Show a picture or a table, which lies in the run folder."""

    def close(self) -> None:
        """Finish, and wait for what is under way."""


class MetricLog:
    """Keeps what rank 0 logs; opening it for a resumed run cuts what is after the checkpoint's step."""

    def __init__(self, folder: Path, *, resume_step: int, tracker: Tracker | None = None) -> None:
        self.path = folder / METRICS_FILE
        self._tracker = tracker
        self._rows = StepRows(self.path, resume_step=resume_step)
        self._media = MediaLog(folder, resume_step=resume_step)

    def write(self, *, step: int, row: dict[str, float]) -> None:
        """Append a row; a number that is not finite is written as null, as JSON has no other word."""
        finite = {key: value if abs(value) < float("inf") else None for key, value in row.items()}
        self._rows.append({"step": step, **finite})
        self._to_tracker(lambda tracker: tracker.write(step=step, row=row))

    def picture(self, *, step: int, name: str, png: bytes, caption: str) -> None:
        """Keep and show a picture; `name` is `what/which`."""
        self._show(self._media.picture(step=step, name=name, png=png, caption=caption))

    def table(
        self, *, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str
    ) -> None:
        """Keep and show a table of numbers, texts and None."""
        self._show(self._media.table(step=step, name=name, columns=columns, rows=rows, caption=caption))

    def close(self) -> None:
        self._rows.close()
        self._media.close()
        self._to_tracker(lambda tracker: tracker.close())

    def _show(self, medium: Medium | None) -> None:
        if medium is not None:
            self._to_tracker(lambda tracker: tracker.show(medium))

    def _to_tracker(self, call: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            call(self._tracker)
        except Exception as error:  # whatever a tracker raises must not end a run
            log.warning("the tracker failed (%s) and is left out from here on; metrics.jsonl goes on", error)
            self._tracker = None
