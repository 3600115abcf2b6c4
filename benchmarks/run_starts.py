"""What does the start of a run cost in a sweep: forked from a process that has imported training, or as a new Python?

    python -m benchmarks.run_starts
    python -m benchmarks.run_starts --runs 20 --jobs 4

Both ways carry out the same runs, of a few steps each, so nearly all of their time is the start. Told are the seconds
that passed and those of all cores, for each run; the process that is forked from counts too.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import print_conditions, print_table, rate_text, synthetic_data, take_turns
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.sweeping.local_runs import Job, last_line, run_here, slot_environment, training_command

OPTIONS = (
    *("model=mlp", "model.hidden=[16]", "augment=none", "batch.size=50", "trainer.max_epochs=1", "trainer.device=cpu"),
    *("logger=none", "track.report=false", "track.pictures=false", "trainer.measure_bound=false"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one run: seconds that passed, and seconds of all cores."""

    passed_s: float
    core_s: float


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_starts", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=8, help="runs of each turn")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way")
    parser.add_argument("--cache", type=Path, default=Path("data"), help="folder for the data set")
    options = parser.parse_args(argv)
    data = synthetic_data(
        options.cache / "bench-8-400-starts", samples=400, val_samples=50, resolution=8, shard_bytes=1 << 20
    )
    times = take_turns(
        {
            "new Python": lambda: cost_of(data.root, options, forked=False),
            "forked": lambda: cost_of(data.root, options, forked=True),
        },
        repeats=options.repeats,
    )
    print_conditions(" ".join(["python -m benchmarks.run_starts", *argv]), "pytorch-lightning")
    before = {field: [getattr(cost, field) for cost in times["new Python"]] for field in ("passed_s", "core_s")}
    rows = []
    for name, found in times.items():
        cells = [name]
        for field, others in before.items():
            values = [getattr(cost, field) for cost in found]
            ratio = statistics.median(values) / statistics.median(others)
            cells += [rate_text(values, decimals=2), f"{ratio:.2f}"]
        rows.append([*cells, str(len(found))])
    header = ["runs start as", "s a run, median (min to max)", "ratio", "core s a run", "ratio", "n"]
    print_table(header, rows)
    return 0


def cost_of(data: Path, options: argparse.Namespace, *, forked: bool) -> Cost:
    """Carry out the runs in a folder that is removed again, and return what one of them cost.

    Raises:
        UserError: a run failed.
    """
    with tempfile.TemporaryDirectory() as name:
        jobs = [
            Job(
                number=number,
                command=training_command(
                    [f"data.path={data.resolve()}", f"run_dir={name}/{number}", f"seed={number}", *OPTIONS], ranks=1
                ),
                log=Path(name) / f"{number}.log",
            )
            for number in range(options.runs)
        ]
        started_s, core_s = time.monotonic(), _core_s()
        variables = slot_environment(0, num_slots=options.jobs, ranks=1, gpus=[])
        ended = run_here(jobs, num_at_once=options.jobs, environment=lambda slot: variables, forked=forked)
        for number, exit_code in ended:
            if exit_code != 0:
                raise UserError(f"a run ended with exit code {exit_code}: {last_line(jobs[number].log)}")
        return Cost(passed_s=(time.monotonic() - started_s) / options.runs, core_s=(_core_s() - core_s) / options.runs)


def _core_s() -> float:
    """Return the processor's seconds of all processes that were waited for, and of those that these waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
