"""What does watching a run cost of a step? Goal: at most 1 % of a step of 10 ms, with everything on.

    python -m benchmarks.tracking                               # a step of about 10 ms on one core
    python -m benchmarks.tracking --only layers noise_scale     # of the parts below, these alone
    python -m benchmarks.tracking model.width=512               # any option of pipeline.train

Each candidate is a training by pipeline.train's own function in this process; metrics.jsonl is written by all of them.

    nothing         logger=none, and all of track.* off
    everything      wandb offline, rows on each layer, gradient noise scale, pictures, generalisation gap
    wandb, ...      one of these alone

Turns are paired: each candidate's training comes right after one with nothing on, and its cost is the difference of
that pair, so a machine that slows down slows both. A step goes from one call of the training step to the next;
evaluation, checkpoints and what is drawn between epochs are left out. Times are means, since what is measured comes at
some steps only: as time passed, and as the processor's time of the thread that trains, which other programs disturb
less. What trackers' processes take of other cores is in the first where there is no core for them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from benchmarks.measure import print_conditions, print_table, rate_text, synthetic_data
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.data.loader import Batch
from pipeline.shards.errors import run_entry_point
from pipeline.train import quieten_libraries, train
from pipeline.training.module import ClassifierModule
from pipeline.world import join_world, leave_world

WARMUP_STEPS = 20
# About 10 ms a step on one core of an EPYC.
MODEL = ("model=bottleneck_mlp", "model.depth=2", "model.width=128", "batch.size=128")
OFF = {
    "wandb": "logger=none",
    "layers": "track.layers_every_steps=null",
    "noise_scale": "track.noise_scale_every_steps=null",
    "pictures": "track.pictures=false",
    "gap": "track.gap=false",
}
NOTHING, EVERYTHING = "nothing", "everything"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Of one training, means over its steps."""

    passed_ms: float
    thread_ms: float


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=20_000, help="training images of 32x32")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each training")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of each candidate")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--only", nargs="+", choices=[EVERYTHING, *OFF], default=[EVERYTHING, *OFF], help="candidates")
    parser.add_argument("--cache", type=Path, default=Path("data"), help="folder for the data set")
    parser.add_argument("overrides", nargs="*", help="options of pipeline.train, as in model.width=512")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    # Nothing is sent, whoever runs this.
    os.environ["WANDB_MODE"] = "offline"
    quieten_libraries()
    data_set = synthetic_data(
        options.cache / f"bench-32-{options.samples}-overhead",
        samples=options.samples,
        val_samples=128,
        resolution=32,
        shard_bytes=128 << 20,
    )
    overrides = [
        f"data.path={data_set.root.resolve()}",
        f"trainer.max_steps={options.steps}",
        "trainer.max_epochs=100000",
        "trainer.device=cpu",
        "trainer.measure_bound=false",
        "track.report=false",
        # Else it is measured once, after 10 s, for 0.1 s.
        "track.peak_flops_per_s=1e11",
        *MODEL,
        *options.overrides,
    ]
    pairs: dict[str, list[tuple[StepTimes, StepTimes]]] = {name: [] for name in options.only}
    for _ in range(options.repeats):
        for name in options.only:
            pairs[name].append((step_times(NOTHING, overrides), step_times(name, overrides)))
    print_conditions(" ".join(["python -m benchmarks.tracking", *argv]), "pytorch-lightning", "wandb")
    nothing = [before for found in pairs.values() for before, _ in found]
    rows = [row_of(NOTHING, nothing, [])]
    rows += [row_of(name, [after for _, after in found], found) for name, found in pairs.items()]
    header = ["watched", "ms a step, median (min to max)", "of the step", "ms of the thread that trains", "of it", "n"]
    print_table(header, rows)
    print("\ngoal: everything at most 1 % of a step of 10 ms")
    return 0


def row_of(name: str, times: list[StepTimes], pairs: list[tuple[StepTimes, StepTimes]]) -> list[str]:
    """Return a line of the table; what a candidate adds is the median over its pairs, with their range."""
    cells = [name]
    for field in ("passed_ms", "thread_ms"):
        added = [100 * (getattr(after, field) / getattr(before, field) - 1) for before, after in pairs]
        share = f"{rate_text(added, decimals=2)} %" if added else ""
        cells += [rate_text([getattr(one, field) for one in times], decimals=2), share]
    return [*cells, str(len(times))]


def step_times(name: str, overrides: list[str]) -> StepTimes:
    """Train once, watched as `name` says, and return the mean times of a step."""
    off = [option for part, option in OFF.items() if name not in (EVERYTHING, part)]
    begun: list[tuple[int, float, float]] = []
    begin = ClassifierModule.on_train_batch_start

    def noted(module: ClassifierModule, batch: Batch, batch_idx: int) -> None:
        begun.append((batch.epoch, time.perf_counter(), time.thread_time()))
        begin(module, batch, batch_idx)

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config: TrainConfig = compose("train", TRAIN_SCHEMAS, [f"run_dir={folder}/run", *overrides, *off])
        with mock.patch.object(ClassifierModule, "on_train_batch_start", noted):
            train(config, join_world(config.trainer.device))
        leave_world()
    spans = [
        (after[1] - before[1], after[2] - before[2])
        for before, after in itertools.pairwise(begun[WARMUP_STEPS:])
        if before[0] == after[0]
    ]
    passed_s, thread_s = zip(*spans, strict=True)
    return StepTimes(passed_ms=1000 * statistics.fmean(passed_s), thread_ms=1000 * statistics.fmean(thread_s))


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
