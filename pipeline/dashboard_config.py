"""Schema of `conf/dashboard.yaml`: which runs the live page shows, and where it can be seen."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.compose import require

RUNS_FOLDER = "runs"


@dataclass(slots=True, kw_only=True)
class DashboardConfig:
    runs: list[str] = field(
        default_factory=lambda: [RUNS_FOLDER], metadata={"help": "folders in which runs lie, at any depth, or runs"}
    )
    port: int = field(default=7860, metadata={"help": "the next free one is taken where it is in use; 0: any"})
    host: str = field(
        default="127.0.0.1", metadata={"help": "address to listen at; 0.0.0.0: whoever reaches this machine may look"}
    )

    def __post_init__(self) -> None:
        require(bool(self.runs), f"runs={self.runs}: at least one folder wanted")
        require(0 <= self.port < 65_536, f"port={self.port}: 0 to 65535 wanted")


DASHBOARD_SCHEMAS = {"root": DashboardConfig}
