"""`python -m pipeline.batch_finder ...`: the largest batch that the memory here bears, found by trying.

    python -m pipeline.batch_finder data.path=data/imagenet-64 model=bottleneck_mlp model.width=1024
    python -m pipeline.batch_finder batch.size=16384 batch_finder.option=micro_size batch_finder.ranks=8

Each try is a training run of its own, of three steps with a rate of 0, on as many ranks as asked for: what it holds is
what training holds. Doubled until it does not fit, then halved in between: pipeline/sweeping/batch_search.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.compose import compose, help_text
from pipeline.config import TrainConfig
from pipeline.data.memory_room import available_bytes
from pipeline.data_config import FULL_BATCH, Check, WindowOrderConfig
from pipeline.logger_config import NoLoggerConfig
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.sweep_config import BATCH_FINDER_SCHEMAS, BatchFinderConfig, BatchFinderRoot, Option, split_options
from pipeline.sweeping.batch_search import Found, search
from pipeline.sweeping.check_data import samples_of
from pipeline.sweeping.local_runs import training_command
from pipeline.sweeping.memory_try import Outcome, try_run
from pipeline.sweeping.resolve import explicit_options, resolve
from pipeline.track.metric_log import METRICS_FILE
from pipeline.track.plots import Axis, Mark, Panel, Series, save_plot
from pipeline.trainer_config import Device

SUMMARY = """Find the largest batch that fits, by trying: each try a few steps in fresh processes.

  python -m pipeline.batch_finder data.path=data/imagenet-64 model=bottleneck_mlp model.width=1024
  python -m pipeline.batch_finder batch.size=16384 batch_finder.option=micro_size batch_finder.ranks=8

All options but those below are training's, and mean what they mean there (trainer.*: precision, strategy, ...)."""
# By then the loader has as many batches in flight as it will ever have, and the optimiser its state.
STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """A size that was tried; `peak_bytes` of the first rank, where it got as far as to measure it."""

    size: int
    outcome: Outcome
    peak_bytes: int | None
    wall_s: float


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("batch_finder", BATCH_FINDER_SCHEMAS, summary=SUMMARY))
        return 0
    own, typed = split_options("batch_finder", argv)
    root: BatchFinderRoot = compose("batch_finder", BATCH_FINDER_SCHEMAS, own)
    found, tries = find(resolve(typed), root.batch_finder)
    if root.batch_finder.plot is not None:
        draw(Path(root.batch_finder.plot), tries, root.batch_finder, fixed=typed)
    sys.stdout.write(report(found, tries, root.batch_finder))
    return 0 if found.largest is not None else 1


def find(config: TrainConfig, finder: BatchFinderConfig) -> tuple[Found, list[Try]]:
    """Search, with a line for each try.

    Raises:
        UserError: no size is possible, or a try failed by something else than its memory.
    """
    multiple, most = bounds(config, finder)
    limit_bytes = memory_limit(config, finder)
    if limit_bytes is not None:
        sys.stdout.write(f"each rank may have {limit_bytes / 1e9:.2f} GB\n")
    tries: list[Try] = []

    def fits(size: int) -> bool:
        tries.append(try_size(size, config, finder, limit_bytes=limit_bytes))
        sys.stdout.write(f"{try_text(tries[-1], finder)}\n")
        sys.stdout.flush()
        return tries[-1].outcome.fits

    found = search(first=finder.first, most=most, multiple=multiple, tolerance_frac=finder.tolerance_frac, fits=fits)
    return found, tries


def bounds(config: TrainConfig, finder: BatchFinderConfig) -> tuple[int, int]:
    """Return what a size must be a multiple of, and the largest that can be tried.

    Raises:
        UserError: no multiple is small enough.
    """
    num_samples = samples_of(config)
    if finder.option is Option.size and config.batch.micro_size is not None:
        raise UserError(
            f"batch.micro_size={config.batch.micro_size}: what is held in memory goes by it, whatever batch.size is;"
            " leave it out, or look for it with batch_finder.option=micro_size"
        )
    if finder.option is Option.micro_size:
        multiple = finder.ranks
        most = num_samples if config.batch.size == FULL_BATCH else int(config.batch.size)
        where = f"batch.size={config.batch.size}"
    else:
        lanes = config.order.lanes if isinstance(config.order, WindowOrderConfig) else 1
        multiple = math.lcm(finder.ranks, lanes)
        most, where = num_samples, f"the {num_samples:,} samples of the split"
    if finder.most is not None and finder.most < most:
        most, where = finder.most, f"batch_finder.most={finder.most}"
    if most < multiple:
        raise UserError(f"batch.{finder.option.name}: no multiple of {multiple} (ranks, lanes) is within {where}")
    return multiple, most


def memory_limit(config: TrainConfig, finder: BatchFinderConfig) -> int | None:
    """Return what each rank may have on the CPU; None on a GPU, which has a limit of its own.

    Raises:
        UserError: a limit for a GPU.
    """
    on_gpu = config.trainer.device is not Device.cpu and torch.cuda.is_available()
    if on_gpu:
        if finder.memory_bytes is not None:
            raise UserError("batch_finder.memory_bytes: of ranks on the CPU; a GPU's memory is its limit")
        return None
    return finder.memory_bytes or available_bytes() // finder.ranks


def with_size(config: TrainConfig, size: int, option: Option) -> TrainConfig:
    """Return the config of a try: a few steps that change no weight, so that no rate can break them."""
    if option is Option.size:
        batch = dataclasses.replace(config.batch, size=size)
    else:
        batch = dataclasses.replace(config.batch, micro_size=size)
    return dataclasses.replace(
        config,
        resume=None,
        batch=batch,
        # Its checksums were checked by whoever trains; a try a minute must not do it again.
        data=dataclasses.replace(config.data, check=Check.sizes),
        optimizer=dataclasses.replace(config.optimizer, rate=0.0),
        trainer=dataclasses.replace(
            config.trainer, max_steps=STEPS, max_epochs=STEPS, log_every_steps=1, measure_bound=False
        ),
        logger=NoLoggerConfig(),
    )


def try_size(size: int, config: TrainConfig, finder: BatchFinderConfig, *, limit_bytes: int | None) -> Try:
    """Train a few steps with this size in fresh processes.

    Raises:
        UserError: they failed by something else than their memory.
    """
    folder = Path(tempfile.mkdtemp(prefix="tarmac-batch-"))
    options = [*explicit_options(with_size(config, size, finder.option)), f"run_dir={folder / 'run'}"]
    command = training_command(options, ranks=finder.ranks)
    if finder.launcher is not None:
        command = [*shlex.split(finder.launcher), "-m", "pipeline.train", *options]
    cores = len(os.sched_getaffinity(0))
    variables = {"NPROC": str(finder.ranks), "OMP_NUM_THREADS": str(max(1, cores // finder.ranks))}
    started_s = time.monotonic()
    outcome = try_run(
        command, log=folder / "log", variables=variables, limit_bytes=limit_bytes, timeout_s=finder.timeout_s
    )
    tried = Try(
        size=size,
        outcome=outcome,
        peak_bytes=_peak_bytes(folder / "run" / METRICS_FILE),
        wall_s=time.monotonic() - started_s,
    )
    shutil.rmtree(folder, ignore_errors=True)  # kept where the try failed by something else, for its log
    return tried


def try_text(tried: Try, finder: BatchFinderConfig) -> str:
    """Return the line of one try."""
    peak = f", {tried.peak_bytes / 1e9:.2f} GB" if tried.peak_bytes is not None and tried.outcome.fits else ""
    told = f"fits{peak}" if tried.outcome.fits else f"does not fit: {tried.outcome.reason}"
    return f"batch.{finder.option.name}={tried.size}: {told} ({tried.wall_s:.0f} s)"


def report(found: Found, tries: Sequence[Try], finder: BatchFinderConfig) -> str:
    """Return the answer for the terminal."""
    name = f"batch.{finder.option.name}"
    if found.largest is None:
        return f"\nlargest     none: not even {name}={found.too_large} fits\n"
    beyond = f"{name}={found.too_large} does not fit" if found.too_large else "as far as was looked"
    return f"\nlargest     {name}={found.largest}; {beyond}; {len(tries)} tries\n"


def draw(path: Path, tries: Sequence[Try], finder: BatchFinderConfig, *, fixed: Sequence[str]) -> None:
    """Draw peak memory against the size, and where it ended."""
    fitting = sorted((tried.size, tried.peak_bytes / 1e9) for tried in tries if tried.peak_bytes and tried.outcome.fits)
    if not fitting:
        return
    too_large = [tried.size for tried in tries if not tried.outcome.fits]
    marks = [Mark(x=min(too_large), label=f"{min(too_large)} does not fit")] if too_large else []
    caption = (
        f"Peak memory of the first rank over {STEPS} steps in fresh processes, n = 1 each,"
        f" {finder.ranks} rank{'s' if finder.ranks > 1 else ''}. With: {' '.join(fixed) or 'default options'}"
    )
    panel = Panel(
        x=Axis(label=f"batch.{finder.option.name}", unit="samples"),
        y=Axis(label="peak memory", unit="GB", limits=(0, None)),
        series=[Series(x=[size for size, _ in fitting], y=[peak for _, peak in fitting])],
        marks=marks,
    )
    save_plot(path, [panel], title="Memory against batch", caption=caption)


def _peak_bytes(path: Path) -> int | None:
    """Return the most memory that a try's metric log tells of: the GPU's where there is one."""
    try:
        rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        return None
    for key in ("mem/gpu_bytes", "mem/rss_bytes"):
        if values := [int(row[key]) for row in rows if row.get(key)]:
            return max(values)
    return None


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
