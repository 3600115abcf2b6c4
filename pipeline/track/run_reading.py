"""A run folder read back, for everything that shows runs: report, comparison, live page, trackers.

    run = read_run(Path("runs/0001"))
    run.series["val/top1_frac"].steps, run.series["val/top1_frac"].values       # [390, 780], [0.41, 0.47]
    run.config["model"]["width"], run.summary["wall_s"], [medium.name for medium in run.media]

Read while a run is at work, too. What the folder holds is not trusted: torn rows, foreign types and paths are left out.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.shards.errors import UserError
from pipeline.track.media import Medium, read_media
from pipeline.track.metric_log import METRICS_FILE
from pipeline.track.step_rows import read_rows

CONFIG_FILE = "config.yaml"
RUN_FILE = "run.json"
SUMMARY_FILE = "summary.json"
# libyaml's, where PyYAML has it, reads ten times as fast.
SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric over the run: steps ascend, one value each, None where it was not a finite number."""

    steps: list[int]
    values: list[float | None]

    @property
    def last(self) -> float | None:
        return self.values[-1] if self.values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What a run folder tells.

    Attributes:
        name: the folder's name, for people.
        config: config.yaml as plain containers.
        facts: run.json: command, git commit, fingerprint of the data, versions, machine.
        summary: summary.json, empty before the run is finished.
        series: by metric, in the order in which they were first logged: layers stand in the model's order.
        media: pictures and tables, in the order in which they were made.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    facts: dict[str, Any]
    summary: dict[str, Any]
    series: dict[str, Series]
    media: list[Medium]

    @property
    def is_finished(self) -> bool:
        return bool(self.summary)


def read_run(folder: Path) -> RunRecord:
    """Return what a run has written so far.

    Raises:
        UserError: the folder holds no run.
    """
    return RunRecord(
        folder=folder,
        name=folder.resolve().name,
        config=read_config(folder),
        facts=read_facts(folder),
        summary=read_summary(folder),
        series=series_of(read_rows(folder / METRICS_FILE)),
        media=read_media(folder),
    )


def series_of(rows: Iterable[dict[str, Any]]) -> dict[str, Series]:
    """Return the series that rows make, by metric as they first appear; the later of two values at a step counts."""
    series: dict[str, dict[int, float | None]] = {}
    for row in rows:
        for key, value in row.items():
            if key != "step" and (value is None or (isinstance(value, int | float) and not isinstance(value, bool))):
                series.setdefault(key, {})[row["step"]] = finite(value)
    return {
        key: Series(steps=sorted(values), values=[values[step] for step in sorted(values)])
        for key, values in series.items()
    }


def finite(value: object) -> float | None:
    """Return a number as it is, None for anything else: no bool, nan or infinity, no integer beyond a float's range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else None


def flat(tree: Mapping[str, Any], *, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a tree of mappings by their dotted names; lists are leaves, and so are empty mappings."""
    for key, value in tree.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from flat(value, path=name)
        else:
            yield name, value


def find_runs(root: Path) -> Iterator[Path]:
    """Yield the run folders under `root`, itself included, those of sweeps too.

    Links are not followed, and nothing inside a run is one: trackers keep files of the same names there.
    """
    for folder, names, files in os.walk(root):
        if CONFIG_FILE in files and not (Path(folder) / CONFIG_FILE).is_symlink():
            names.clear()
            yield Path(folder)
        names.sort()


def read_facts(folder: Path) -> dict[str, Any]:
    """Return run.json, empty where there is none."""
    return _json_of(folder / RUN_FILE)


def read_summary(folder: Path) -> dict[str, Any]:
    """Return summary.json, empty before the run is finished."""
    return _json_of(folder / SUMMARY_FILE)


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.yaml.

    Raises:
        UserError: there is none, or it is not of that form.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"run={folder}: no {CONFIG_FILE}, so no run; train one with `make train`")
    try:
        content = yaml.load(path.read_bytes(), Loader=SAFE_LOADER)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"run={folder}: {CONFIG_FILE} cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise UserError(f"run={folder}: {CONFIG_FILE} is not the config of a run")
    return content


def _json_of(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
