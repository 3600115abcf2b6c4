"""Weights & Biases as a view of the metric log: offline unless asked, so that no account and no network is needed.

Rows go under the run's own `step`, so that a resumed run continues its curves.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline.track.media import Kind, Medium


class WandbTracker:
    """One wandb run in the run folder; `wandb sync RUN_DIR/wandb/offline-run-*` sends it later."""

    def __init__(self, folder: Path, *, mode: str, project: str, config: dict[str, Any]) -> None:
        # Both are read when wandb is imported, and it is slow to import.
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._run = wandb.init(
            mode="offline" if mode == "offline" else "online",
            project=project,
            name=folder.name,
            dir=str(folder),
            config=config,
            settings=wandb.Settings(console="off", x_disable_stats=True),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, *, step: int, row: dict[str, float]) -> None:
        self._run.log({"step": step, **row})

    def show(self, medium: Medium) -> None:
        import wandb

        if medium.kind is Kind.picture:
            shown: Any = wandb.Image(str(medium.path), caption=medium.caption)
        else:
            columns, rows = medium.table()
            shown = wandb.Table(columns=[*columns], data=rows)
        self._run.log({"step": medium.step, medium.name: shown})

    def close(self) -> None:
        self._run.finish()
