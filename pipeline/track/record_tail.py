"""The record of a run, read as it grows: each row of metrics.jsonl and each picture and table once, in order of steps.

    tail = RecordTail(Path("runs/0001"))
    tail.read()         # [MetricRow(step=50, ...), Medium(step=50, ...)]
    tail.read()         # what was written since

Files are opened once: where another attempt cuts the record meanwhile, this one reads on in the files that it knew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.track.media import MEDIA_FILE, Medium, medium_of
from pipeline.track.metric_log import METRICS_FILE
from pipeline.track.run_reading import finite
from pipeline.track.step_rows import parse


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """The finite numbers of a row."""

    step: int
    values: dict[str, float]


class RecordTail:
    """Reads a run folder from its start; close it when done."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._metrics, self._media = _Lines(folder / METRICS_FILE), _Lines(folder / MEDIA_FILE)

    def read(self) -> list[MetricRow | Medium]:
        """Return what was written since the last call, steps ascending; of one step, numbers first."""
        # In this order: what was drawn before a row was written is found with that row.
        rows: list[MetricRow | Medium] = [
            MetricRow(step=row["step"], values=_numbers(row)) for row in self._metrics.new_rows()
        ]
        media = [medium_of(self._folder, row) for row in self._media.new_rows()]
        return sorted([*rows, *(medium for medium in media if medium is not None)], key=lambda entry: entry.step)

    def close(self) -> None:
        self._metrics.close()
        self._media.close()


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != "step" and finite(value) is not None}


class _Lines:
    """Whole lines of a file that may not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._begun = b""

    def new_rows(self) -> Iterator[dict[str, Any]]:
        if self._stream is None:
            if not self._path.exists():
                return
            self._stream = self._path.open("rb")
        *lines, self._begun = (self._begun + self._stream.read()).split(b"\n")
        for line in lines:
            if (row := parse(line.decode(errors="replace"))) is not None:
                yield row

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
