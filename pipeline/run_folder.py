"""The run folder: what a run is told, and what it leaves.

    config.yaml  run.json  metrics.jsonl  media.jsonl  media/  checkpoints/  summary.json  report.html
    evaluation.json  evaluation-tta.json  run.lock  sample_ids.rank<R>.jsonl
    wandb.json  wandb/  tensorboard/  tracker.lock

`open_run` decides, on rank 0 alone, whether a run starts, goes on or is refused.
"""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pipeline.compose import CONF_FOLDER, first_difference
from pipeline.config import TrainConfig, from_stored, to_stored
from pipeline.run_lock import LOCK_FILE, hold_run
from pipeline.shards.errors import UserError
from pipeline.shards.publish import PART_SUFFIX, publish_bytes, publish_json, remove_part_files
from pipeline.track.run_reading import read_config, read_facts
from pipeline.training.checkpoint import checkpoint_to_resume, load_checkpoint

log = logging.getLogger(__name__)

RUNS_FOLDER = Path("runs")
LATEST = RUNS_FOLDER / "latest"
CONFIG_FILE = "config.yaml"
RUN_FILE = "run.json"
SUMMARY_FILE = "summary.json"
EVALUATION_FILE = "evaluation.json"
TTA_FILE = "evaluation-tta.json"
CHECKPOINT_FOLDER = "checkpoints"
# These may change between a run and its going on without another folder or resume=true.
FREE_FIELDS = ("run_dir", "resume", "logger", "track", "data", "log_sample_ids", "checkpoint", "trainer.hang_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run folder, opened: the checkpoint to go on from, or None, and the steps already done."""

    folder: Path
    checkpoint: Path | None
    finished_steps: int
    is_finished: bool


def open_run(
    config: TrainConfig,
    *,
    fingerprint: dict[str, Any],
    total_steps: int,
    opened: ExitStack,
    launch: str | None = None,
    is_restart: bool = False,
) -> Run:
    """Create the run folder, or open the one that is there; only rank 0 may call this.

    Args:
        fingerprint: what the order depends on; a checkpoint with another one is refused.
        total_steps: updates that the whole run makes.
        opened: holds the folder's lock until it is closed.
        launch: id that all attempts of one launcher share; `is_restart`: this is not the first of them, so a run that
            an earlier one began goes on, also where no folder was named, and where resume=false.

    Raises:
        UserError: the folder holds another run, or one that must not be resumed.
    """
    folder = Path(config.run_dir) if config.run_dir is not None else None
    if folder is None:
        folder = (_folder_begun_by(launch) if is_restart else None) or _next_free_folder()
    folder.mkdir(parents=True, exist_ok=True)
    stored_config = folder / CONFIG_FILE
    if not stored_config.exists():
        if any(_is_foreign(path) for path in folder.iterdir()):
            raise UserError(f"run_dir={folder}: not empty and not a run; choose another folder")
        opened.enter_context(hold_run(folder))
        _create(folder, config, fingerprint, launch)
        return Run(folder=folder, checkpoint=None, finished_steps=0, is_finished=False)
    opened.enter_context(hold_run(folder))
    if config.resume is False and not (is_restart and _was_begun_by(folder, launch)):
        raise UserError(f"run_dir={folder}: already holds a run; leave resume=false out, or choose another run_dir")
    if config.resume is None:
        _refuse_other_config(folder, config)
    remove_part_files(folder)
    checkpoint = checkpoint_to_resume(folder / CHECKPOINT_FOLDER)
    finished_steps = 0
    if checkpoint is not None:
        content = load_checkpoint(checkpoint, mapped=True)
        finished_steps = int(content["global_step"])
        if difference := first_difference(content["fingerprint"], fingerprint):
            name, old, new = difference
            raise UserError(
                f"run_dir={folder}: cannot go on: {name} was {old}, now {new}, so its batches would be others;"
                " put it back, or start a new run with another run_dir"
            )
    publish_bytes(stored_config, _config_yaml(config))
    is_finished = finished_steps >= total_steps and (folder / SUMMARY_FILE).exists()
    if not is_finished:
        log.info("going on with %s after step %d", folder, finished_steps)
        facts = read_facts(folder)
        resumes = [*facts.get("resumes", []), {"step": finished_steps, **_start_facts()}]
        publish_json(folder / RUN_FILE, {**facts, "resumes": resumes})
    return Run(folder=folder, checkpoint=checkpoint, finished_steps=finished_steps, is_finished=is_finished)


def holds_run(run_dir: str | None) -> bool:
    """Tell whether a run was begun in the folder that a config names."""
    return run_dir is not None and (Path(run_dir) / CONFIG_FILE).exists()


def point_latest_at(folder: Path) -> None:
    """Make runs/latest name the run, where the run lies in runs/."""
    if folder.resolve().parent == RUNS_FOLDER.resolve():
        part = LATEST.with_name(".latest.part")
        part.unlink(missing_ok=True)
        part.symlink_to(folder.name)
        part.replace(LATEST)


def describe_machine() -> dict[str, Any]:
    """Return versions and machine, for run.json and summary.json."""
    packages = ("torch", "pytorch-lightning", "numpy", "hydra-core", "tarmac")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {"system": platform.platform(), "processor": _processor_name()},
    }


def _next_free_folder() -> Path:
    numbers = [int(path.name) for path in RUNS_FOLDER.glob("[0-9]*") if path.name.isdecimal()]
    return RUNS_FOLDER / f"{max(numbers, default=0) + 1:04d}"


def _is_foreign(path: Path) -> bool:
    """Return whether a file is not what a start that was killed early leaves behind."""
    return path.name not in (RUN_FILE, LOCK_FILE) and not path.name.endswith(PART_SUFFIX)


def _folder_begun_by(launch: str | None) -> Path | None:
    """Return the newest run in runs/ that an earlier attempt of this launcher began."""
    begun = (path for path in sorted(RUNS_FOLDER.glob("[0-9]*"), reverse=True) if _was_begun_by(path, launch))
    return next(begun, None)


def _was_begun_by(folder: Path, launch: str | None) -> bool:
    return launch is not None and read_facts(folder).get("launch") == launch


def _create(folder: Path, config: TrainConfig, fingerprint: dict[str, Any], launch: str | None) -> None:
    facts = {**_start_facts(), "launch": launch, "fingerprint": fingerprint, **describe_machine()}
    publish_json(folder / RUN_FILE, facts)
    publish_bytes(folder / CONFIG_FILE, _config_yaml(config))
    point_latest_at(folder)


def _start_facts() -> dict[str, Any]:
    """Return what is told of each start of a run, the first one and those that go on."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"command": sys.argv, "started": now, "git_commit": _git_commit()}


def _config_yaml(config: TrainConfig) -> bytes:
    return OmegaConf.to_yaml(OmegaConf.create(to_stored(config))).encode()


def _refuse_other_config(folder: Path, config: TrainConfig) -> None:
    # By way of the schema: an option that the stored file does not know yet had its default.
    old = to_stored(from_stored(read_config(folder)))
    new = to_stored(config)
    for tree in (old, new):
        for name in FREE_FIELDS:
            parent, _, leaf = name.rpartition(".")
            (tree[parent] if parent else tree).pop(leaf, None)
    if difference := first_difference(old, new):
        name, before, now = difference
        raise UserError(
            f"run_dir={folder}: holds a run with {name}={before}, now {name}={now};"
            " choose another run_dir, or add resume=true to go on with the new value"
        )


def _git_commit() -> str | None:
    try:
        command = ["git", "-C", str(CONF_FOLDER), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content
