"""Several runs set against each other: which of them differ by their seed alone, and in what the others differ.

    groups = groups_of(runs)
    groups[0].label, [run.name for run in groups[0].runs]       # "rate=0.1", ["0001", "0002", "0003"]
    differences(groups)                                         # {"optimizer.rate": ["0.1", "0.01"]}

The spread is the sample's standard deviation (n - 1 below), so it needs two seeds. Axes: R runs, S steps.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.track.report.run_facts import final, group, number
from pipeline.track.report.text import NONE, unit_of, value_text
from pipeline.track.run_reading import RunRecord, Series, flat

SEED = "seed"
# What has no part in a run's result: with other values of these a run is the same one.
NO_PART = ("run_dir", "resume", "logger", "track", "log_sample_ids", "cache", "checkpoint", "trainer.hang_s")
# Where the data lies does not matter where its checksum is known.
PLACES = ("data.path", "data.paths")
MOST_OPTIONS_IN_A_LABEL, MOST_SIGNS_IN_A_LABEL = 3, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs that differ by their seed alone, and what they are called."""

    label: str
    runs: tuple[RunRecord, ...]


def groups_of(runs: Sequence[RunRecord]) -> list[Group]:
    """Return the configurations in the order of their first run; labels are unique."""
    gathered: dict[str, list[RunRecord]] = {}
    for run in runs:
        gathered.setdefault(json.dumps([*_identity(run).items()], default=str, sort_keys=True), []).append(run)
    unnamed = [Group(label="", runs=tuple(members)) for members in gathered.values()]
    names = names_of([run.folder for run in runs])
    options = {name for run in runs for name, _ in flat(run.config)}
    differing = {name: values for name, values in differences(unnamed).items() if name in options}
    labels = [_label(members, place, differing, names) for place, members in enumerate(unnamed)]
    return [
        Group(label=label if labels.count(label) == 1 else f"{label} ({place + 1})", runs=members.runs)
        for place, (label, members) in enumerate(zip(labels, unnamed, strict=True))
    ]


def differences(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Return what differs: options between groups, and facts such as the commit, inside of them too."""
    options = [dict(_options(members.runs[0])) for members in groups]
    facts = [_facts(members.runs) for members in groups]
    found = {
        name: [values.get(name, NONE) for values in options]
        for name in dict.fromkeys(name for values in options for name in values)
        if not _is_under(name, ("run_dir", "resume", SEED))
    }
    found |= {
        name: [", ".join(values.get(name, [NONE])) for values in facts]
        for name in dict.fromkeys(name for values in facts for name in values)
    }
    mixed = {name for values in facts for name, several in values.items() if len(several) > 1}
    return {name: values for name, values in found.items() if len(set(values)) > 1 or name in mixed}


def names_of(folders: Sequence[Path]) -> dict[Path, str]:
    """Return the folders' names, with as much of the path before them as keeps them apart."""
    resolved = {folder: folder.resolve().parts for folder in folders}
    names = {}
    for folder, parts in resolved.items():
        others = [other for other in resolved.values() if other != parts]
        size = next((n for n in range(1, len(parts)) if all(other[-n:] != parts[-n:] for other in others)), len(parts))
        names[folder] = "/".join(parts[-size:])
    return names


def seeds_of(members: Group) -> str:
    return ", ".join(str(run.config.get(SEED, NONE)) for run in members.runs)


def values_of(members: Group, key: str) -> list[float]:
    """Return a metric at the end of each run that has it."""
    return [value for run in members.runs if (value := final(run, key)) is not None]


def spread_text(key: str, values: Sequence[float]) -> str:
    """Return a mean, and of two values or more the standard deviation, to two digits of that: 47.12 ± 0.34 %."""
    if not values:
        return NONE
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    if spread == 0:
        return value_text(key, mean)
    factor, sign = _scale(key)
    decimals = max(0, 1 - math.floor(math.log10(factor * spread)))
    return f"{factor * mean:,.{decimals}f} ± {factor * spread:,.{decimals}f}{sign}"


def _scale(key: str) -> tuple[float, str]:
    """Return what a mean and its spread are multiplied by, and the unit that stands behind both."""
    unit, last = unit_of(key), key.rpartition("/")[2]
    if unit == "frac":
        return 100.0, " %"
    if unit == "bytes" or last.endswith("_bytes_per_s"):
        return 1e-6, " MB/s" if unit == "per_s" else " MB"
    if unit == "per_s":
        return 1.0, f" {last.removesuffix('_per_s').rpartition('_')[2]}/s"
    return 1.0, f" {unit}" if unit else ""


def mean_series(several: Sequence[Series]) -> tuple[Series, list[float | None], list[float | None]]:
    """Return the mean of two series or more at the steps that all have, and a standard deviation below and above it."""
    steps = sorted(set.intersection(*(set(series.steps) for series in several)))
    columns = (dict(zip(series.steps, series.values, strict=True)) for series in several)
    # None becomes nan, and whatever is made of nan is nan.
    values_RS = np.array([[column[step] for step in steps] for column in columns], dtype=np.float64)
    means_S, spreads_S = values_RS.mean(axis=0), values_RS.std(axis=0, ddof=1)
    return (
        Series(steps=steps, values=_finite(means_S)),
        _finite(means_S - spreads_S),
        _finite(means_S + spreads_S),
    )


def _finite(values_S: npt.NDArray[np.float64]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values_S.tolist()]


def _identity(run: RunRecord) -> dict[str, Any]:
    """Return what makes two runs one configuration: options that have a part in the result, and the data."""
    checksum = group(run.facts, "fingerprint").get("data")
    left_out = (*NO_PART, SEED, *(PLACES if checksum else ()))
    options = {name: value for name, value in flat(run.config) if not _is_under(name, left_out)}
    return {**options, "data": checksum}


def _is_under(name: str, tops: Sequence[str]) -> bool:
    return any(name == top or name.startswith(f"{top}.") for top in tops)


def _options(run: RunRecord) -> Iterator[tuple[str, str]]:
    for name, value in flat(run.config):
        yield name, "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _facts(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Return what runs were made with, by fact, each value that occurs among them once."""
    found: dict[str, list[str]] = {}
    for run in runs:
        ranks = number(run.summary, "world_size")
        told: Mapping[str, Any] = {
            "git commit": str(run.facts.get("git_commit") or NONE)[:12],
            "data SHA-256": str(group(run.facts, "fingerprint").get("data", NONE))[:12],
            "ranks": None if ranks is None else f"{ranks:.0f}",
            **{f"version of {name}": value for name, value in group(run.facts, "versions").items()},
            "processor": group(run.facts, "machine").get("processor"),
        }
        for name, value in told.items():
            if value is not None and str(value) not in found.setdefault(name, []):
                found[name].append(str(value))
    return {name: values for name, values in found.items() if values}


def _label(members: Group, place: int, differing: Mapping[str, list[str]], names: Mapping[Path, str]) -> str:
    """Return a group's name: by the options in which it differs where they are few, or else by its runs."""
    leaves = [name.rpartition(".")[2] for name in differing]
    short = {name: leaf if leaves.count(leaf) == 1 else name for name, leaf in zip(differing, leaves, strict=True)}
    options = ", ".join(f"{short[name]}={values[place]}" for name, values in differing.items())
    fits = 0 < len(differing) <= MOST_OPTIONS_IN_A_LABEL and len(options) <= MOST_SIGNS_IN_A_LABEL
    if len(members.runs) == 1:
        name = names[members.runs[0].folder]
        return f"{name}: {options}" if fits else name
    several = f"{names[members.runs[0].folder]} and {len(members.runs) - 1} more"
    return f"{options}, {len(members.runs)} seeds" if fits else several
