"""Run folders for tests of pages about runs, written by the metric log as training writes them.

run = write_run(tmp_path / "0001", rows={50: {"train/loss": 2.0}, 100: {"train/loss": 1.5, "val/loss": 1.6}})
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from pipeline.track.metric_log import MetricLog
from pipeline.track.run_reading import RunRecord, Series, read_run
from tiny_data import random_pixels

LAYERS = ("input", "blocks.2", "blocks.10", "head")
SHARES = {"rate/compute_frac": 0.7, "rate/data_frac": 0.1, "rate/framework_frac": 0.2}
BOUND = "compute, 70 % of the time: the model alone does 4,100 images/s"
# What a name, a caption or an option may hold.
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e"
Rows = Mapping[int, Mapping[str, float]]


def write_run(
    folder: Path,
    *,
    rows: Rows | None = None,
    seed: int = 0,
    rate: float = 0.1,
    options: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    is_finished: bool = True,
) -> RunRecord:
    """Write a run of a small model and read it back; without `rows` a run of 400 steps with what runs log."""
    folder.mkdir(parents=True)
    config = {
        "run_dir": str(folder),
        "seed": seed,
        "data": {"path": "data/default"},
        "batch": {"size": 64},
        "model": {"kind": "Mlp", "hidden": [512]},
        "optimizer": {"kind": "Sgd", "rate": rate},
        **(options or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    facts = {
        "command": ["/somewhere/pipeline/train.py", f"seed={seed}", f"optimizer.rate={rate}", f"run_dir={folder}"],
        "started": "2026-01-02T03:04:05+00:00",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "fingerprint": {"data": "298c55e9", "seed": seed},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "machine": {"system": "Linux", "processor": "EPYC"},
    }
    (folder / "run.json").write_text(json.dumps(facts))
    log = MetricLog(folder, resume_step=0)
    for step, row in (rows if rows is not None else usual_rows(seed=seed, rate=rate)).items():
        log.write(step=step, row=dict(row))
    log.close()
    if is_finished:
        last = max(rows) if rows else 400
        told = {
            "val/top1_frac": 0.5,
            "steps": last,
            "rate/images_per_s": 9_500.0,
            "bounded_by": BOUND,
            **SHARES,
            "wall_s": 75.5,
            "world_size": 1,
            "parameters": 1_234_567,
            "data": {"name": "CIFAR-10", "train_samples": 50_000},
            **(summary or {}),
        }
        (folder / "summary.json").write_text(json.dumps(told))
    return read_run(folder)


def usual_rows(*, seed: int, rate: float) -> dict[int, dict[str, float]]:
    """Return rows like training's: loss, rates, layers, the noise scale with its band, a metric that nobody knows."""
    rows: dict[int, dict[str, float]] = {}
    for step in range(10, 401, 10):
        loss = math.exp(-rate * step / 10) + 0.2 + 0.05 * math.sin(step + seed)
        rows[step] = {
            "epoch": step / 100,
            "train/loss": loss,
            "train/top1_frac": 1 - loss / 3,
            "rate/learning_rate": rate,
            "rate/images_per_s": 9_000.0 + step,
            "grad/norm": 1 + loss,
            "mem/rss_bytes": 7e8 + step,
            "weather/wind_speed": 3 + math.sin(step),
        }
        if step % 20 == 0:
            rows[step] |= {
                "grad/noise_scale_images": 10.0 * step,
                "grad/noise_scale_low_images": 8.0 * step,
                "grad/noise_scale_high_images": 13.0 * step,
            }
            for depth, name in enumerate(LAYERS):
                rows[step] |= {f"layers/weight_norm/{name}": 5 + depth, f"layers/dead_frac/{name}": 0.1 * depth}
        if step % 100 == 0:
            rows[step] |= {"val/loss": loss + 0.1, "val/top1_frac": 1 - loss / 2}
    rows[400] |= SHARES
    return rows


def add_media(
    run: RunRecord, *, steps: tuple[int, ...] = (100, 400), caption: str = "units of largest norm"
) -> RunRecord:
    """Add pictures and tables and read the run again."""
    log = MetricLog(run.folder, resume_step=400)
    for step in steps:
        log.picture(step=step, name="model/first_layer", png=png(step), caption=f"{caption} {step}")
    log.picture(step=steps[-1], name="val/worst", png=png(7), caption=caption)
    rows: list[list[Any]] = [["cat", 0.41, 1000], ["dog", None, 900], ["horse", 0.9, 1100], ["frog", 0.05, 10]]
    log.table(
        step=steps[-1], name="val/per_class", columns=["class", "top1_frac", "images"], rows=rows, caption="classes"
    )
    cockpit = [["noise scale", 1800, "gradients"], ["batch", 64, "batch.size"]]
    log.table(step=steps[-1], name="batch/cockpit", columns=["what", "images", "from"], rows=cockpit, caption="sizes")
    log.close()
    return read_run(run.folder)


def png(seed: int, *, side: int = 24) -> bytes:
    """Return a picture of noise, which does not compress."""
    stream = io.BytesIO()
    Image.fromarray(random_pixels(seed, height=side, width=side)).save(stream, format="PNG", compress_level=0)
    return stream.getvalue()


def series(values: list[float | None], *, every: int = 1) -> Series:
    return Series(steps=[every * (place + 1) for place in range(len(values))], values=values)
