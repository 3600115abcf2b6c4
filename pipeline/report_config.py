"""Schemas of `conf/report.yaml` and `conf/compare.yaml`: which runs a page is about, and where it goes.

config = compose("report", REPORT_SCHEMAS, ["run=runs/0001"])
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.compose import require


@dataclass(slots=True, kw_only=True)
class ReportConfig:
    run: str = field(default="runs/latest", metadata={"help": "folder of the run"})
    out: str | None = field(default=None, metadata={"help": "file to write; null: report.html in the run's folder"})


@dataclass(slots=True, kw_only=True)
class CompareConfig:
    runs: list[str] = field(
        default_factory=lambda: ["runs"],
        metadata={"help": "folders of runs, or of many runs, such as a sweep's; * stands for any name"},
    )
    out: str | None = field(
        default=None, metadata={"help": "file to write; null: compare.html in the folder that the runs share"}
    )

    def __post_init__(self) -> None:
        require(len(self.runs) >= 1, "runs=[]: at least one folder wanted, as in runs=[runs/0001,runs/0002]")


REPORT_SCHEMAS = {"root": ReportConfig}
COMPARE_SCHEMAS = {"root": CompareConfig}
