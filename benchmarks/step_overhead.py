"""What does a step cost beyond the model's own, with all metrics on? Goal: at most 5 % of a step of 10 ms.

    python -m benchmarks.step_overhead                              # a step of about 10 ms on one core
    python -m benchmarks.step_overhead augment.mixup_alpha=0.8      # any option of pipeline.train
    python -m benchmarks.step_overhead --log-every 1                # reads the metrics after each step

Taking turns in one process, with as many threads each:

    bare                the least that the same training can be: augmentation, model, objective, backward, optimiser on
                        one resident batch
    bare + metrics      the same, and the sums that training keeps, read as often as training reads them
    tarmac              pipeline.train: loader, Lightning, callbacks and metrics; evaluation and checkpoints, which come
                        between epochs, left out

A step goes from one call of the training step to the next. Its time is told as it passed (the median over steps) and as
the processor's time of the thread that trains (the mean), which other programs on the machine disturb less: with one
thread of torch it is all of forward and backward, and not the loader's, whose threads have cores of their own where
there are any.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from benchmarks.measure import print_conditions, print_table, rate_text, synthetic_data
from pipeline.build import build_module
from pipeline.build_optimizer import plan_steps
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.data.loader import Batch
from pipeline.data.order import FullOrder
from pipeline.data.packed import PackedReader
from pipeline.shards.errors import run_entry_point
from pipeline.shards.manifest import DataSet
from pipeline.train import quieten_libraries, train
from pipeline.training.metrics import MetricSums
from pipeline.training.module import ClassifierModule
from pipeline.world import join_world, leave_world

WARMUP_STEPS = 10
# About 10 ms a step on one core of an EPYC.
MODEL = ("model=bottleneck_mlp", "model.depth=2", "model.width=128", "batch.size=128")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Of one turn: the median of the time that passed, the mean of the thread's."""

    passed_ms: float
    thread_ms: float


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_overhead", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--samples", type=int, default=20_000, help="training images of 32x32")
    parser.add_argument("--steps", type=int, default=400, help="steps of each turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--log-every", type=int, default=50, help="steps between two reads of the metrics")
    parser.add_argument("--cache", type=Path, default=Path("data"), help="folder for the data set")
    parser.add_argument("overrides", nargs="*", help="options of pipeline.train, as in model.width=512")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
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
        f"trainer.log_every_steps={options.log_every}",
        "trainer.max_epochs=100000",
        "trainer.device=cpu",
        "trainer.measure_bound=false",
        "logger=none",
        *MODEL,
        *options.overrides,
    ]
    candidates: dict[str, Callable[[], StepTimes]] = {
        "bare": lambda: bare_step_times(data_set, overrides, read_every=None),
        "bare + metrics": lambda: bare_step_times(data_set, overrides, read_every=options.log_every),
        "tarmac": lambda: run_step_times(overrides),
    }
    times: dict[str, list[StepTimes]] = {name: [] for name in candidates}
    for _ in range(options.repeats):
        for name, run in candidates.items():
            times[name].append(run())
    print_conditions(" ".join(["python -m benchmarks.step_overhead", *argv]), "pytorch-lightning")
    rows = []
    for name, found in times.items():
        cells = [name]
        for field in ("passed_ms", "thread_ms"):
            values, bare = ([getattr(one, field) for one in times[which]] for which in (name, "bare"))
            cells += [rate_text(values, decimals=2), f"{statistics.median(values) / statistics.median(bare) - 1:+.1%}"]
        rows.append([*cells, str(len(found))])
    header = ["loop", "ms a step, median (min to max)", "over bare", "ms of the thread that trains", "over bare", "n"]
    print_table(header, rows)
    print("\ngoal: at most +5 % of a step of 10 ms")
    return 0


class StepClock:
    """Notes when each step begins."""

    def __init__(self) -> None:
        self._begun: list[tuple[int, float, float]] = []

    def note(self, *, epoch: int) -> None:
        self._begun.append((epoch, time.perf_counter(), time.thread_time()))

    def step_times(self) -> StepTimes:
        """Return the times of a step, the first few and those that end an epoch left out."""
        pairs = itertools.pairwise(self._begun[WARMUP_STEPS:])
        spans = [(after[1] - before[1], after[2] - before[2]) for before, after in pairs if before[0] == after[0]]
        passed_s, thread_s = zip(*spans, strict=True)
        return StepTimes(passed_ms=1000 * statistics.median(passed_s), thread_ms=1000 * statistics.fmean(thread_s))


def run_step_times(overrides: list[str]) -> StepTimes:
    """Train in this process, with pipeline.train's own function."""
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
    return clock.step_times()


def bare_step_times(data_set: DataSet, overrides: list[str], *, read_every: int | None) -> StepTimes:
    """Update on one resident batch, with metrics where they are read."""
    config: TrainConfig = compose("train", TRAIN_SCHEMAS, overrides)
    reader = PackedReader(data_set, config.data.train_split)
    order = FullOrder(num_samples=reader.num_samples, batch_size=int(config.batch.size), seed=config.seed)
    plan = plan_steps(config, steps_per_epoch=order.steps_per_epoch, micro_batches=1)
    module = build_module(config, data_set, plan, image_shape=reader.image_shape)
    batch = _resident_batch(reader, order)
    reader.close()
    model, optimizer = module.model.train(), module.make_optimizer(module.model)
    sums = None if read_every is None else MetricSums("cpu")
    clock = StepClock()
    for step in range(plan.total_steps):
        clock.note(epoch=0)
        _update(module, model, optimizer, batch, sums)
        if sums is not None and read_every is not None and step % read_every == 0:
            sums.read()
    return clock.step_times()


def _update(
    module: ClassifierModule,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    sums: MetricSums | None,
) -> None:
    pixels_BD, own_B = module.inputs_of(batch)
    logits_BK = model(pixels_BD)
    losses_B = module.objectives.training(logits_BK, batch.labels_B, own_B=own_B)
    optimizer.zero_grad()
    losses_B.mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if sums is not None:
        sums.add(logits_BK.detach(), batch.labels_B, losses_B.detach(), batch.weights_B)


def _resident_batch(reader: PackedReader, order: FullOrder) -> Batch:
    slots = order.global_batch(epoch=0, step=0)
    images_BHWC = torch.empty((len(slots), *reader.image_shape), dtype=torch.uint8)
    labels = reader.fill(slots, epoch=0, out=images_BHWC)
    return Batch(
        images_BHWC=images_BHWC,
        labels_B=torch.from_numpy(labels),
        weights_B=torch.from_numpy(slots.weights),
        positions_B=torch.from_numpy(slots.positions),
        sample_ids=slots.sample_ids,
        epoch=0,
        step=0,
        micro=0,
        global_weight=float(len(slots)),
        buffer=0,
    )


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
