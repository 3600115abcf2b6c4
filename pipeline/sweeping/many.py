"""From resolved runs to their results: what is finished is taken as it is, the rest is run.

runs = resolved(["model=mlp"], [{"seed": "0"}, {"seed": "1"}])      # each composed and checked, once
with open_sweep(folder, [run.identity for run in runs], options=[...]) as sweep:
    results = carry_out(sweep, runs, config, on_end=...)
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.compose import first_difference
from pipeline.config import TrainConfig
from pipeline.run_folder import SUMMARY_FILE
from pipeline.shards.errors import UserError
from pipeline.sweep_config import RunsConfig, Where
from pipeline.sweeping.axes import Point
from pipeline.sweeping.folder import OpenSweep, PlannedRun
from pipeline.sweeping.local_runs import (
    Job,
    last_line,
    may_fork,
    run_here,
    slot_environment,
    training_command,
    visible_gpus,
)
from pipeline.sweeping.resolve import check_explicit, explicit_options, identity, resolve
from pipeline.sweeping.slurm_runs import run_as_jobs
from pipeline.sweeping.table import Result
from pipeline.track.run_reading import read_config

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRun:
    """A run whose config is decided: what is swept of it, its config, and what makes it this run."""

    options: Point
    config: TrainConfig
    identity: dict[str, Any]


# What became of a run, and seconds since the first one was started.
OnEnd = Callable[[Result, float], None]


def resolved(
    fixed: Sequence[str],
    points: Sequence[Point],
    *,
    change: Callable[[TrainConfig], TrainConfig] = lambda config: config,
) -> list[ResolvedRun]:
    """Compose every run's config.

    Args:
        change: what is made of each before it is checked.

    Raises:
        UserError: one does not compose, with its options; or two runs are the same.
    """
    runs: list[ResolvedRun] = []
    seen: dict[str, Point] = {}
    for point in points:
        options = [f"{name}={value}" for name, value in point.items()]
        with naming(point):
            config = change(resolve([*fixed, *options]))
            check_explicit(config)
        run = ResolvedRun(options=point, config=config, identity=identity(config))
        spelling = json.dumps(run.identity, sort_keys=True)
        if spelling in seen:
            first = " ".join(f"{name}={value}" for name, value in seen[spelling].items())
            raise UserError(f"{first} and {' '.join(options)} are the same run; leave one out")
        seen[spelling] = point
        runs.append(run)
    return runs


@contextmanager
def naming(point: Point) -> Iterator[None]:
    """Put the swept options of a run before an error that comes of them."""
    try:
        yield
    except UserError as error:
        options = " ".join(f"{name}={value}" for name, value in point.items())
        raise UserError(f"run {options}: {error}" if options else str(error)) from None


def carry_out(
    sweep: OpenSweep, runs: Sequence[ResolvedRun], config: RunsConfig, *, on_end: OnEnd = lambda result, passed_s: None
) -> list[Result]:
    """Run what is not finished, and return what became of each run, in order.

    A run that fails is a result too; the others go on.
    """
    results = {place.number: _finished(place) for place in sweep.runs}
    todo = {
        place.number: (place, run) for place, run in zip(sweep.runs, runs, strict=True) if not results[place.number]
    }
    jobs = [
        Job(
            number=place.number,
            command=training_command([*explicit_options(run.config), f"run_dir={place.folder}"], ranks=config.ranks),
            log=place.log,
        )
        for place, run in todo.values()
    ]
    started_s = time.monotonic()
    with ended_by_signals():
        for number, exit_code in _start(jobs, sweep, config):
            place, run = todo[number]
            result = _finished(place) if exit_code == 0 else None
            if result is not None:
                _check_config(place, run)
            else:
                failure = f"exit code {exit_code}: {last_line(place.log)}"
                result = Result(number=number, options=place.options, failure=failure)
            results[number] = result
            on_end(result, time.monotonic() - started_s)
    return [result for result in results.values() if result is not None]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Take SIGTERM and SIGHUP as Ctrl-C while runs are under way, so that these are ended too."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(jobs: Sequence[Job], sweep: OpenSweep, config: RunsConfig) -> Iterator[tuple[int, int]]:
    if config.where is not Where.here:
        return run_as_jobs(jobs, config=config, folder=sweep.folder)
    gpus = visible_gpus(torch.cuda.device_count())
    num_slots = max(1, min(config.jobs, len(jobs)))
    return run_here(
        jobs,
        num_at_once=num_slots,
        keep_open=[sweep.lock],
        environment=lambda slot: slot_environment(slot, num_slots=num_slots, ranks=config.ranks, gpus=gpus),
        forked=may_fork(ranks=config.ranks, gpus=gpus),
    )


def _finished(place: PlannedRun) -> Result | None:
    path = place.folder / SUMMARY_FILE
    if not path.is_file():
        return None
    return Result(number=place.number, options=place.options, summary=json.loads(path.read_bytes()))


def _check_config(place: PlannedRun, run: ResolvedRun) -> None:
    """Make sure that the run was the one that was decided on here; only another version of the code could differ."""
    stored = {name: value for name, value in read_config(place.folder).items() if name in run.identity}
    if difference := first_difference(run.identity, stored):
        name, wanted, got = difference
        log.warning("%s: ran with %s=%s where %s was wanted", place.folder, name, got, wanted)
