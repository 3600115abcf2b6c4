"""Run folders for tests of the live page, written as training writes them, and the page's server around them.

folder = write_run(tmp_path / "runs" / "0001", steps=range(10, 101, 10), rate=0.1)
with live_page(tmp_path / "runs") as address:
    urlopen(f"{address}/api/runs").read()
"""

from __future__ import annotations

import io
import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipeline.track.live.server import serving
from pipeline.track.metric_log import MetricLog

LAYERS = ("input", "blocks.0", "blocks.1", "head")


def write_run(
    folder: Path,
    *,
    steps: range,
    rate: float = 0.1,
    caption: str = "as the model sees them",
    is_finished: bool = True,
    media: bool = True,
) -> Path:
    """Write a run of 100 steps in 2 epochs, of which `steps` are logged."""
    start_run(folder, rate=rate)
    log = MetricLog(folder, resume_step=0)
    for step in steps:
        log.write(step=step, row=row_of(step, rate=rate))
    last = steps[-1]
    if media:
        for step in (steps[0], last):
            log.picture(step=step, name="data/augmented", png=png_of(step), caption=caption)
        log.table(step=last, name="val/per_class", columns=["class", "accuracy"], rows=PER_CLASS, caption="accuracies")
        log.table(step=last, name="batch/cockpit", columns=["what", "images", "from"], rows=COCKPIT, caption=ADVICE)
    log.close()
    if is_finished:
        summary = {"val/loss": 1.5, "bounded_by": "compute, 93 % of the time", "wall_s": 12.5}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


ADVICE = "The noise scale is about 1,800 images; a batch up to that would take fewer steps."
COCKPIT = [["noise scale", 1800, "gradients"], ["batch", 64, "batch.size"], ["memory's largest", None, "not known"]]
PER_CLASS = [["cat", 0.25], ["<b>dog</b>", 0.75], ["owl", 0.5]]


def start_run(folder: Path, *, rate: float = 0.1) -> Path:
    """Write what a run has before its first row."""
    folder.mkdir(parents=True)
    config = {
        "run_dir": str(folder),
        "seed": 0,
        "optimizer": {"kind": "Sgd", "rate": rate},
        "batch": {"size": 64},
        "trainer": {"max_epochs": 2, "max_steps": None},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run.json").write_text(
        json.dumps({"command": ["train.py", f"optimizer.rate={rate}"], "git_commit": "ab"})
    )
    return folder


def row_of(step: int, *, rate: float) -> dict[str, float]:
    loss = math.exp(-rate * step / 10) + 0.1
    row = {
        "epoch": step / 50,
        "train/loss": loss,
        "val/loss": loss + 0.2,
        "val/top1_frac": 1 - loss / 2,
        "rate/images_per_s": 1000.0 + step,
        "grad/noise_scale_images": 1500.0 + step,
        "grad/noise_scale_low_images": 1200.0,
        "grad/noise_scale_high_images": 2000.0,
        "grad/norm": float("nan") if step == 50 else loss,
    }
    for place, layer in enumerate(LAYERS):
        row[f"layers/weight_norm/{layer}"] = 1.0 + place + step / 1000
    return row


def png_of(step: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(step).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


@contextmanager
def live_page(*roots: Path, port: int = 0) -> Iterator[str]:
    """Serve the page for the block; the value is its address."""
    with serving(roots, host="127.0.0.1", port=port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.address
        finally:
            server.shutdown()
            thread.join()


def strict_json(content: bytes) -> Any:
    """Return what a browser reads: NaN and Infinity are no JSON."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return json.loads(content, parse_constant=refuse)
