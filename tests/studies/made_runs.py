"""Finished runs made from numbers, for studies that read nothing but configs, summaries and series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.studies.study import StudyRun
from pipeline.track.run_reading import RunRecord, Series


def made_run(
    group: str,
    *,
    config: Mapping[str, Any],
    options: Mapping[str, str] | None = None,
    summary: Mapping[str, Any] | None = None,
    series: Mapping[str, Sequence[float | None]] | None = None,
) -> StudyRun:
    """Return a run whose series were logged at steps 1, 2, ..."""
    return StudyRun(
        group=group,
        options=dict(options or {}),
        record=RunRecord(
            folder=Path("made"),
            name=group,
            config=dict(config),
            facts={},
            summary=dict(summary or {}),
            series={
                name: Series(steps=list(range(1, len(values) + 1)), values=list(values))
                for name, values in (series or {}).items()
            },
            media=[],
        ),
    )
