"""What a run's files say of it, looked up once and in one place; nothing in them is trusted to be there.

facts_of(run).batch_size, facts_of(run).steps, how_to_repeat(run)
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.track.report.curves import EPOCH
from pipeline.track.run_reading import RunRecord, finite

# The first of these that a run has says how good it is.
QUALITY_KEYS = ("val/map_frac", "val/r2_frac", "val/top1_frac")
# A step's time by what it went to: the metrics rate/<share>_frac.
SHARES = ("compute", "data", "framework")
# The table of the batch sizes.
COCKPIT = "batch/cockpit"


def number(values: Mapping[str, Any], key: str) -> float | None:
    """Return a finite number, None for anything else."""
    return finite(values.get(key))


def group(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a part that holds named values, empty for anything else."""
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def last_step(run: RunRecord) -> int:
    """Return the last step that something was logged at, 0 before the first."""
    return max((series.steps[-1] for series in run.series.values() if series.steps), default=0)


def final(run: RunRecord, key: str) -> float | None:
    """Return a metric at the end: the summary's, or else the last that was logged."""
    found = number(run.summary, key)
    return found if found is not None or key not in run.series else run.series[key].last


def best(run: RunRecord, key: str) -> tuple[float, int] | None:
    """Return the highest value of a metric, or of a loss the lowest, and its step; None where there is none."""
    series = run.series.get(key)
    pairs = (
        [] if series is None else [(v, s) for v, s in zip(series.values, series.steps, strict=True) if v is not None]
    )
    if not pairs:
        return None
    pick = min if "loss" in key or "mse" in key else max
    return pick(pairs, key=lambda pair: pair[0])


def quality_key(run: RunRecord) -> str:
    """Return the metric that says how good a run is."""
    return next((key for key in QUALITY_KEYS if final(run, key) is not None), QUALITY_KEYS[-1])


def model_kind(run: RunRecord) -> str:
    return str(group(run.config, "model").get("kind", "model"))


def data_name(run: RunRecord) -> str:
    data = group(run.config, "data")
    return str(group(run.summary, "data").get("name") or data.get("path") or data.get("paths") or "its data")


def batch_size(run: RunRecord) -> float | None:
    """Return the images of a step; of a batch of all, as many as there are."""
    size = number(group(run.config, "batch"), "size")
    return size if size is not None else number(group(run.summary, "data"), "train_samples")


def axis_factors(run: RunRecord) -> dict[str, float]:
    """Return by name of another axis what steps are multiplied by: epochs of a step, images of a step."""
    factors = {}
    epochs = run.series.get(EPOCH)
    if epochs is not None and epochs.last and epochs.steps[-1]:
        factors[EPOCH] = epochs.last / epochs.steps[-1]
    size = batch_size(run)
    if size is not None:
        factors["images"] = size
    return factors


def how_to_repeat(run: RunRecord) -> str:
    """Return the commands that make the run again, in another folder; they need the same code and data."""
    command = run.facts.get("command")
    if not isinstance(command, list) or not command:
        return "# its command was not kept"
    words = [str(word) for word in command]
    program, options = Path(words[0]), words[1:]
    if program.parent.name != "pipeline" or program.stem != "train":
        return shlex.join(words)
    ranks = int(number(run.summary, "world_size") or 1)
    options = [option for option in options if option.partition("=")[0] not in ("run_dir", "resume")]
    start = "python" if ranks == 1 else f"torchrun --standalone --nproc-per-node {ranks}"
    commit = run.facts.get("git_commit")
    checkout = f"git checkout {shlex.quote(str(commit))}\n" if commit else ""
    return checkout + " ".join(
        [start, "-m pipeline.train", *map(shlex.quote, options), shlex.quote(f"run_dir=runs/{run.name}-again")]
    )
