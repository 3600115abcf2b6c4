"""Is the planner's forecast of a step's time right? Training on CPU ranks, beside the forecast from measured speeds.

    python -m benchmarks.plan_time
    python -m benchmarks.plan_time --only "ddp, 2 ranks" --steps 40

Each row starts ranks under torchrun, one thread each. All of them at once measure what a rank does: FLOP/s of the
model's largest product, bytes/s of its memory, and bytes/s that it sends while it receives as many (an all-reduce of
64 MB). From these `python -m pipeline.plan` foretells a step; then the same ranks train, and the median of the rows of
metrics.jsonl, the first one left out, tells what a step took.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed

from benchmarks import planned_runs
from benchmarks.measure import print_conditions, print_table
from benchmarks.planned_runs import Case, argument_parser, measure_cases, start_ranks
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS
from pipeline.plan import make_planned
from pipeline.plan_config import PLAN_SCHEMAS
from pipeline.planning.communication import ring_all_reduce_bytes
from pipeline.planning.speeds import update_bytes_per_s
from pipeline.planning.time_sections import find_speeds, measured_flops, step_time
from pipeline.shards.errors import run_entry_point
from pipeline.track.run_reading import read_run
from pipeline.train import quieten_libraries, train
from pipeline.trainer_config import Device
from pipeline.world import join_world, leave_world

EXCHANGED_BYTES = 64 << 20
EXCHANGES = 5
PARTS = ("products_s", "others_s", "exposed_s", "update_s", "step_s")
COMMON = (*planned_runs.COMMON, "evaluation.slots_per_rank=64", "trainer.max_epochs=1000")
BOTTLENECK = ("model=bottleneck_mlp", "model.depth=6", "model.width=512")
SLIM = ("model=bottleneck_mlp", "model.depth=6", "model.width=64")
WIDE = ("model=mlp", "model.hidden=[2048,2048]")
CASES = {
    "one rank": Case(ranks=1, options=(*BOTTLENECK, "batch.size=256")),
    "one rank, narrow": Case(ranks=1, options=(*SLIM, "batch.size=256")),
    "one rank, batch of 16": Case(ranks=1, options=(*WIDE, "batch.size=16")),
    "one rank, recomputing": Case(
        ranks=1, options=(*BOTTLENECK, "batch.size=256", "trainer.activation_checkpointing=true")
    ),
    "ddp, 2 ranks": Case(ranks=2, options=(*BOTTLENECK, "batch.size=512")),
    "ddp, 2 ranks, batch of 32": Case(ranks=2, options=(*BOTTLENECK, "batch.size=32")),
    "fsdp, 2 ranks": Case(ranks=2, options=(*BOTTLENECK, "batch.size=512", "trainer.strategy=fsdp")),
}


def main(argv: list[str]) -> int:
    parser = argument_parser("benchmarks.plan_time", question=__doc__, cases=CASES)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args(argv)
    if options.rank:
        return be_a_rank(Path(options.rank[0]), options.rank[1:])
    row = functools.partial(row_of, steps=options.steps)
    rows = measure_cases(options, CASES, row, val_samples=64)
    print_conditions(" ".join(["python -m benchmarks.plan_time", *argv]), "pytorch-lightning")
    parts = [f"{name}, ms" for name in ("products", "other", "sending left", "update", "forecast", "measured")]
    print_table(["case", "GFLOP/s", *parts, "forecast / measured"], rows)
    return 0


def row_of(name: str, case: Case, data: Path, folder: Path, *, steps: int) -> list[str]:
    """Run a case and return its row."""
    lengths = (f"trainer.max_steps={steps}", f"trainer.log_every_steps={max(1, steps // 6)}")
    start_ranks("benchmarks.plan_time", case, folder, [f"data.path={data}", *COMMON, *lengths])
    told: dict[str, float] = json.loads((folder / "told.json").read_text())
    ratio = told["step_s"] / told["measured_s"]
    return [
        name,
        f"{told['flops'] / 1e9:.1f}",
        *(f"{told[part] * 1e3:.1f}" for part in (*PARTS, "measured_s")),
        f"{ratio:.2f}",
    ]


def be_a_rank(folder: Path, options: Sequence[str]) -> int:
    """Measure speeds on all ranks at once, train, and write forecast and measurement on rank 0."""
    quieten_libraries()
    world = join_world(Device.cpu)
    try:
        plan = compose("plan", PLAN_SCHEMAS, [*options, f"ranks={world.size}", "shuffle_samples=0"])
        planned = make_planned(plan)
        cpu = torch.device("cpu")
        plan.flops_per_s = mean_over_ranks(measured_flops(planned, cpu), world.size)
        plan.memory_bytes_per_s = mean_over_ranks(update_bytes_per_s(device=cpu), world.size)
        plan.bandwidth_bytes_per_s = exchange_bytes_per_s(world.size) if world.size > 1 else None
        told = step_time(planned, find_speeds(planned))
        assert told is not None
        config = compose("train", TRAIN_SCHEMAS, [*options, f"run_dir={folder / 'run'}"])
        train(config, world)
        if world.rank == 0:
            rates = [rate for rate in read_run(folder / "run").series["rate/images_per_s"].values[1:] if rate]
            parts = {name: getattr(told, name) for name in PARTS}
            measured_s = planned.order.batch_size / statistics.median(rates)
            found = {**parts, "flops": plan.flops_per_s, "measured_s": measured_s}
            (folder / "told.json").write_text(json.dumps(found))
    finally:
        leave_world()
    return 0


def exchange_bytes_per_s(ranks: int) -> float:
    """Return what each rank sends in a second while it receives as many."""
    values = torch.zeros(EXCHANGED_BYTES // 4)
    distributed.all_reduce(values)
    started_s = time.perf_counter()
    for _ in range(EXCHANGES):
        distributed.all_reduce(values)
    return EXCHANGES * ring_all_reduce_bytes(EXCHANGED_BYTES, ranks=ranks) / (time.perf_counter() - started_s)


def mean_over_ranks(rate: float, ranks: int) -> float:
    """Return the mean of all ranks' rates."""
    if ranks == 1:
        return rate
    shared = torch.tensor([rate], dtype=torch.float64)
    distributed.all_reduce(shared)
    return float(shared) / ranks


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
