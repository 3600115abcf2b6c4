"""Is the planner's forecast of memory right? Real training on CPU ranks, its memory watched, beside the forecast.

    python -m benchmarks.plan_memory
    python -m benchmarks.plan_memory --only "ddp, 2 ranks"

Each row starts ranks under torchrun, as training does. Each rank trains a tiny model first, so that libraries are
loaded, and then the case's; what it has for itself (RssAnon in /proc/self/status) is looked at every 2 ms by a thread.
MALLOC_MMAP_THRESHOLD_ is set, so that memory which tensors give back is given back to the system.
Measured is the greatest growth since the tiny run, of the rank that grew most. The forecast is that of
`python -m pipeline.plan` for the same options.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from benchmarks import planned_runs
from benchmarks.measure import print_conditions, print_table
from benchmarks.memory import memory_of
from benchmarks.planned_runs import Case, argument_parser, measure_cases, start_ranks
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS
from pipeline.plan import make_planned
from pipeline.plan_config import PLAN_SCHEMAS
from pipeline.planning.memory import RankMemory
from pipeline.shards.errors import run_entry_point
from pipeline.train import quieten_libraries, train
from pipeline.trainer_config import Device
from pipeline.world import join_world, leave_world

LOOK_EVERY_S = 0.002
STEPS = 4
# Images for the generalisation gap: as many as evaluation has, up to a bound, which a plan does not know of.
COMMON = (*planned_runs.COMMON, "track.gap=false", f"trainer.max_steps={STEPS}")
TINY = ("model=mlp", "model.hidden=[8]", "batch.size=8", "evaluation.slots_per_rank=8", "optimizer=sgd")
BOTTLENECK = ("model=bottleneck_mlp", "model.depth=6", "model.width=512", "evaluation.slots_per_rank=64")
DEEP = ("model=bottleneck_mlp", "model.depth=12", "model.width=512", "evaluation.slots_per_rank=64")
WIDE = ("model=mlp", "model.hidden=[2048,2048]", "model.norm=batch", "evaluation.slots_per_rank=64")
# Of more batches than the loader has buffers.
EVALUATED = (
    *("model=bottleneck_mlp", "model.depth=6", "model.width=128", "batch.size=32", "data.val_split=train"),
    "evaluation.slots_per_rank=400",
)
CASES = {
    "one rank, activations": Case(ranks=1, options=(*BOTTLENECK, "batch.size=1024")),
    "one rank, weights": Case(ranks=1, options=(*WIDE, "batch.size=128")),
    "one rank, SGD": Case(ranks=1, options=(*BOTTLENECK, "batch.size=512", "optimizer=sgd")),
    "one rank, accumulating": Case(ranks=1, options=(*BOTTLENECK, "batch.size=1024", "batch.micro_size=256")),
    "one rank, recomputing": Case(ranks=1, options=(*DEEP, "batch.size=1024", "trainer.activation_checkpointing=true")),
    "one rank, copy for checkpoints": Case(
        ranks=1,
        options=(*BOTTLENECK, "batch.size=1024", "checkpoint.background=true", f"checkpoint.every_steps={STEPS // 2}"),
    ),
    "one rank, evaluation": Case(ranks=1, options=EVALUATED),
    "one rank, checkpoints between steps": Case(
        ranks=1, options=(*BOTTLENECK, "batch.size=32", f"checkpoint.every_steps={STEPS // 2}")
    ),
    "ddp, 2 ranks": Case(ranks=2, options=(*BOTTLENECK, "batch.size=1024")),
    "ddp, 2 ranks, accumulating": Case(ranks=2, options=(*BOTTLENECK, "batch.size=2048", "batch.micro_size=512")),
    "ddp, 2 ranks, bf16 exchange": Case(
        ranks=2, options=(*WIDE, "batch.size=128", "trainer.gradient_compression=bf16")
    ),
    "ddp, 4 ranks": Case(ranks=4, options=(*BOTTLENECK, "batch.size=1024")),
    "ddp, 2 ranks, weights": Case(ranks=2, options=(*WIDE, "batch.size=128")),
    "fsdp, 2 ranks": Case(ranks=2, options=(*DEEP, "batch.size=1024", "trainer.strategy=fsdp")),
    "fsdp, 2 ranks, activations": Case(ranks=2, options=(*DEEP, "batch.size=2048", "trainer.strategy=fsdp")),
    "fsdp, 2 ranks, recomputing": Case(
        ranks=2,
        options=(*DEEP, "batch.size=1024", "trainer.strategy=fsdp", "trainer.activation_checkpointing=true"),
    ),
    "fsdp, 2 ranks, weights": Case(ranks=2, options=(*WIDE, "batch.size=128", "trainer.strategy=fsdp")),
    "fsdp, 2 ranks, copy for checkpoints": Case(
        ranks=2, options=(*DEEP, "batch.size=128", "trainer.strategy=fsdp", "checkpoint.background=true")
    ),
    "fsdp, 2 ranks, checkpoints between steps": Case(
        ranks=2, options=(*DEEP, "batch.size=128", "trainer.strategy=fsdp", f"checkpoint.every_steps={STEPS // 2}")
    ),
    # Of a model so small that its checkpoint takes less.
    "fsdp, 2 ranks, evaluation": Case(
        ranks=2, options=(*EVALUATED, "model.depth=2", "model.width=64", "trainer.strategy=fsdp")
    ),
    "fsdp, 4 ranks": Case(ranks=4, options=(*DEEP, "batch.size=1024", "trainer.strategy=fsdp")),
}


class Watched:
    """The most private memory that this process has while it is entered, in bytes."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            self.peak_bytes = max(self.peak_bytes, private_bytes())


def private_bytes() -> int:
    """Return what this process has for itself."""
    return memory_of(os.getpid())["RssAnon"]


def main(argv: list[str]) -> int:
    options = argument_parser("benchmarks.plan_memory", question=__doc__, cases=CASES).parse_args(argv)
    if options.rank:
        return be_a_rank(Path(options.rank[0]), options.rank[1:])
    rows = measure_cases(options, CASES, row_of, val_samples=256)
    print_conditions(" ".join(["python -m benchmarks.plan_memory", *argv]), "pytorch-lightning")
    print_table(["case", "forecast, MB", "at the most in", "measured, MB", "forecast / measured"], rows)
    return 0


def row_of(name: str, case: Case, data: Path, folder: Path) -> list[str]:
    """Forecast a case, run it, and return its row."""
    told = forecast(case, data)
    measured = watched(case, data, folder)
    ratio = told.peak_bytes / measured
    return [name, f"{told.peak_bytes / 1e6:.0f}", told.peak_moment, f"{measured / 1e6:.0f}", f"{ratio:.3f}"]


def forecast(case: Case, data: Path) -> RankMemory:
    """Return what the planner says."""
    options = [f"data.path={data}", *COMMON, *case.options, f"ranks={case.ranks}"]
    return make_planned(compose("plan", PLAN_SCHEMAS, options)).study.memory()


def watched(case: Case, data: Path, folder: Path) -> int:
    """Run a case and return the growth of the rank that grew most, in bytes."""
    environment = {"MALLOC_MMAP_THRESHOLD_": "131072"}
    start_ranks("benchmarks.plan_memory", case, folder, [f"data.path={data}", *COMMON], environment=environment)
    grown: list[int] = [json.loads(path.read_text()) for path in folder.glob("rank-*.json")]
    return max(grown)


def be_a_rank(folder: Path, options: Sequence[str]) -> int:
    """Train the tiny model, then the case's, and write by how many bytes this process grew."""
    quieten_libraries()
    world = join_world(Device.cpu)
    try:
        strategy = [option for option in options if option.startswith(("trainer.strategy", "data.path"))]
        train(compose("train", TRAIN_SCHEMAS, [*strategy, *COMMON, *TINY, f"run_dir={folder / 'tiny'}"]), world)
        before = private_bytes()
        with Watched() as seen:
            train(compose("train", TRAIN_SCHEMAS, [*options, f"run_dir={folder / 'run'}"]), world)
        (folder / f"rank-{world.rank}.json").write_text(json.dumps(seen.peak_bytes - before))
    finally:
        leave_world()
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
