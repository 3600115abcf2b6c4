"""An environment in which wandb finds no key, no settings and no question to ask; run folders without a training."""

from __future__ import annotations

import json
import os
from io import BytesIO
from pathlib import Path

from PIL import Image

from pipeline.track.metric_log import MetricLog
from tiny_data import ROOT


def environment_without_key(home: Path) -> dict[str, str]:
    """Return the environment with `home` as an empty home folder, and nothing of wandb's."""
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "NETRC"))}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def log_run(folder: Path, *, last_step: int, resume_step: int = 0, is_finished: bool, loss: float = 1.0) -> None:
    """Log steps 10, 20 ... `last_step` as training would: a row each, evaluation and a picture at each hundredth."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("seed: 3\nmodel: {width: 16}\nlogger: {kind: Wandb, project: null}\n")
    (folder / "run.json").write_text(json.dumps({"git_commit": "abc", "fingerprint": {"data": "f00"}}))
    log = MetricLog(folder, resume_step=resume_step)
    for step in range(resume_step + 10, last_step + 1, 10):
        log.write(step=step, row={"train/loss": loss / step, "grad/norm": float("nan") if step == 10 else 1.0})
        if step % 100 == 0:
            log.picture(step=step, name="model/first_layer", png=png_of(step), caption=f"at {step}")
            log.write(step=step, row={"val/loss": 2 * loss / step})
    log.close()
    if is_finished:
        (folder / "summary.json").write_text(json.dumps({"steps": last_step, "val/loss": 0.5, "world_size": 2}))


def png_of(step: int) -> bytes:
    """Return a picture of one colour, as PNG."""
    stream = BytesIO()
    Image.new("RGB", (4, 2), (step % 256, 0, 0)).save(stream, format="PNG")
    return stream.getvalue()
