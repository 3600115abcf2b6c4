"""What a study declares, and what it is given back.

    STUDY = Study(
        name="linear-limits",
        claim="...",                       # a sentence that is true or not
        groups=groups,                     # Scale, seeds -> the runs, by name
        measure=measure,                   # the finished runs -> checks, figure, table
    )

A study has no training of its own: its groups are options of `python -m pipeline.train`, as a sweep has them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pipeline.shards.errors import UserError
from pipeline.studies.verdict import Check
from pipeline.sweeping.axes import Point
from pipeline.track.plots import Panel
from pipeline.track.run_reading import RunRecord

# The share of right answers on the validation split, 0 to 1, in a run's metrics.
ACCURACY = "val/top1_frac"


class Scale(Enum):
    """For whom: minutes on two cores, or the bigger twin for a machine with a GPU."""

    laptop = "laptop"
    gpu = "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs that belong together.

    Attributes:
        name: by which `measure` asks for them.
        data: name of a data set in `data_sets.DATA_SETS`.
        options: training's; one with commas outside of brackets is swept, as in `pipeline.sweep`.
    """

    name: str
    data: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """A finished run: which group it belongs to, what was swept of it, and its folder read back."""

    group: str
    options: Point
    record: RunRecord

    @property
    def seed(self) -> int:
        return int(self.record.config["seed"])

    def metric(self, name: str) -> float:
        """Return a number of summary.json, or the last value that was logged.

        Raises:
            UserError: the run has none of that name.
        """
        value = self.record.summary.get(name)
        if value is None and name in self.record.series:
            value = self.record.series[name].last
        if not isinstance(value, int | float):
            raise UserError(f"{self.record.folder}: no {name}; run the study anew with another dir=")
        return float(value)

    def logged(self, name: str) -> dict[int, float]:
        """Return what was logged of a metric, by step, ascending.

        Raises:
            UserError: the run has none of that name, or one that is not finite: it diverged.
        """
        series = self.record.series.get(name)
        if series is None:
            raise UserError(f"{self.record.folder}: no {name}; run the study anew with another dir=")
        found = {}
        for step, value in zip(series.steps, series.values, strict=True):
            if value is None:
                raise UserError(f"{self.record.folder}: its {name} at step {step} is not finite")
            found[step] = value
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRuns:
    """All runs of a study."""

    runs: Sequence[StudyRun]

    def of(self, group: str, options: Mapping[str, str] | None = None) -> list[StudyRun]:
        """Return a group's runs with these swept values, by seed.

        Raises:
            ValueError: there are none, so the study asks for what it did not declare.
        """
        wanted = options or {}
        found = [
            run
            for run in self.runs
            if run.group == group and all(run.options.get(name) == value for name, value in wanted.items())
        ]
        if not found:
            raise ValueError(f"no runs of group {group} with {wanted}")
        return sorted(found, key=lambda run: run.seed)

    def values(self, group: str, metric: str, options: Mapping[str, str] | None = None) -> list[float]:
        """Return a metric of such runs, by seed."""
        return [run.metric(metric) for run in self.of(group, options)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The study's figure: it must be understood alone, so its caption has n, seeds and what the spread is."""

    title: str
    caption: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a study measured.

    Attributes:
        checks: the parts of the claim; the first one's statistic stands for the study.
        columns, rows: the numbers with their spread.
        notes: sentences on how to read them, made from the numbers.
    """

    checks: Sequence[Check]
    picture: Picture
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A claim of the lecture and the way to test it.

    Attributes:
        name: of the command: small letters and hyphens.
        title, claim, question: for people; the claim is one sentence.
        seeds: how many, on a laptop and on a GPU.
        groups: of a scale and its seeds ("0,1,2", to be put behind `seed=`).
        follow_up: groups that run after those, decided by what they found: rates tuned on seeds of their own, say.
            `measure` gets them all. It must decide alike each time, or a study typed again would run others.
    """

    name: str
    title: str
    claim: str
    question: str
    groups: Callable[[Scale, str], Sequence[Group]]
    measure: Callable[[StudyRuns], Outcome]
    seeds: Mapping[Scale, int]
    follow_up: Callable[[StudyRuns, Scale, str], Sequence[Group]] | None = None


def spread_text(values: Sequence[float], *, factor: float = 1.0, decimals: int = 1) -> str:
    """Return "53.4 ± 0.4": the mean and the standard deviation over seeds; of one seed the value alone."""
    mean = statistics.fmean(values) * factor
    if len(values) == 1:
        return f"{mean:.{decimals}f}"
    return f"{mean:.{decimals}f} ± {statistics.stdev(values) * factor:.{decimals}f}"
