"""What a step of a small model takes in a training of this process: what benchmarks of a step's cost share.

    options = step_parser("step_overhead", __doc__, steps=400).parse_args(argv)
    data_set = prepare_steps(options)
    times = train_step_times([*overrides_of(options, data_set), "logger=none"], average=statistics.median)
    times.passed_ms, times.thread_ms

A step goes from one call of the training step to the next; evaluation, checkpoints and what is drawn come between
epochs and are left out. It is told as time passed, and as the processor's time of the thread that trains, which other
programs on the machine disturb less: with one thread of torch it is all of forward and backward, and not the loader's,
whose threads have cores of their own where there are any.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from benchmarks.measure import synthetic_data
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.data.loader import Batch
from pipeline.shards.manifest import DataSet
from pipeline.train import quieten_libraries, train
from pipeline.training.module import ClassifierModule
from pipeline.world import join_world, leave_world

WARMUP_STEPS = 20
# About 10 ms a step on one core of an EPYC.
MODEL = ("model=bottleneck_mlp", "model.depth=2", "model.width=128", "batch.size=128")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Of one training: an average of the time that passed, and the mean of the thread's."""

    passed_ms: float
    thread_ms: float


class StepClock:
    """Notes when each step begins."""

    def __init__(self) -> None:
        self._begun: list[tuple[int, float, float]] = []

    def note(self, *, epoch: int) -> None:
        self._begun.append((epoch, time.perf_counter(), time.thread_time()))

    def step_times(self, *, average: Callable[[Sequence[float]], float]) -> StepTimes:
        """Return the times of a step, the first few and those that end an epoch left out."""
        pairs = itertools.pairwise(self._begun[WARMUP_STEPS:])
        spans = [(after[1] - before[1], after[2] - before[2]) for before, after in pairs if before[0] == after[0]]
        passed_s, thread_s = zip(*spans, strict=True)
        return StepTimes(passed_ms=1000 * average(passed_s), thread_ms=1000 * statistics.fmean(thread_s))


def step_parser(name: str, doc: str | None, *, steps: int) -> argparse.ArgumentParser:
    """Return a parser of the options that the benchmarks share; `steps` is the default of a training."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=(doc or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=20_000, help="training images of 32x32")
    parser.add_argument("--steps", type=int, default=steps, help="steps of each training")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each candidate")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--cache", type=Path, default=Path("data"), help="folder for the data set")
    parser.add_argument("overrides", nargs="*", help="options of pipeline.train, as in model.width=512")
    return parser


def prepare_steps(options: argparse.Namespace) -> DataSet:
    """Set this process up for its trainings and return their data."""
    torch.set_num_threads(options.threads)
    quieten_libraries()
    return synthetic_data(
        options.cache / f"bench-32-{options.samples}-overhead",
        samples=options.samples,
        val_samples=128,
        resolution=32,
        shard_bytes=128 << 20,
    )


def overrides_of(options: argparse.Namespace, data_set: DataSet) -> list[str]:
    """Return the options of the trainings, those that were typed last."""
    return [
        f"data.path={data_set.root.resolve()}",
        f"trainer.max_steps={options.steps}",
        "trainer.max_epochs=100000",
        "trainer.device=cpu",
        "trainer.measure_bound=false",
        *MODEL,
        *options.overrides,
    ]


def train_step_times(overrides: Sequence[str], *, average: Callable[[Sequence[float]], float]) -> StepTimes:
    """Train once by pipeline.train's own function."""
    clock = StepClock()
    begin = ClassifierModule.on_train_batch_start

    def noted(module: ClassifierModule, batch: Batch, batch_idx: int) -> None:
        clock.note(epoch=batch.epoch)
        begin(module, batch, batch_idx)

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config: TrainConfig = compose("train", TRAIN_SCHEMAS, [f"run_dir={folder}/run", *overrides])
        with mock.patch.object(ClassifierModule, "on_train_batch_start", noted):
            train(config, join_world(config.trainer.device))
        leave_world()
    return clock.step_times(average=average)
