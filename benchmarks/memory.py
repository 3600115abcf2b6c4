"""Does preparation's memory grow with the number of images?

    python -m benchmarks.memory                                       # 100,000, 1 million and 10 million
    python -m benchmarks.memory --samples 1000 20000 --seconds 5

Each row runs `python -m data_prep source=synthetic` on images of 4x4 with two workers and looks at /proc every 20 ms:
RssAnon, the memory that a process has for itself, its greatest value while it lists and plans and while it prepares.
A run that has not finished `--seconds` after its plan is stopped; planning is always whole. A worker holds one shard.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import REPOSITORY, print_conditions, print_table
from pipeline.shards.errors import run_entry_point
from pipeline.shards.record import PackedLayout

RESOLUTION = 4
LAYOUT = PackedLayout(height=RESOLUTION, width=RESOLUTION, channels=3)
SHARD_BYTES = 16 << 20
WORKERS = 2
LOOK_EVERY_S = 0.02


@dataclass(slots=True, kw_only=True)
class Seen:
    """What was seen of one run; memory in bytes, the greatest value of RssAnon, or of VmHWM, which counts files too."""

    plan_s: float = 0.0
    planning_bytes: int = 0
    parent_bytes: int = 0
    worker_bytes: int = 0
    parent_peak_bytes: int = 0
    num_prepared: int = 0
    prepare_s: float = 0.0
    finished: bool = False


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--seconds", type=float, default=180.0, help="time for preparing, after the plan")
    parser.add_argument("--repeats", type=int, default=1, help="turns; the greatest values count")
    parser.add_argument("--cache", type=Path, default=Path(), help="folder for what is made, removed at the end")
    options = parser.parse_args(argv)
    rows = []
    for samples in options.samples:
        turns = [watched(samples, seconds=options.seconds, cache=options.cache) for _ in range(options.repeats)]
        rows.append(row_of(samples, turns))
    print_conditions(" ".join(["python -m benchmarks.memory", *argv]), "pyarrow")
    print_table(
        [
            "images",
            "list and plan, s",
            "planning, MB",
            "preparing: parent, MB",
            "largest worker, MB",
            "parent with files (VmHWM), MB",
            "prepared",
            "n",
        ],
        rows,
    )
    return 0


def watched(samples: int, *, seconds: float, cache: Path) -> Seen:
    """Run one preparation and look at its processes."""
    seen = Seen()
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        out = Path(scratch).resolve() / "out"
        command = [
            *(sys.executable, "-m", "data_prep", "source=synthetic", f"source.samples={samples}"),
            *("source.val_samples=0", f"layout.resolution={RESOLUTION}", f"layout.shard_bytes={SHARD_BYTES}"),
            *(f"engine.workers={WORKERS}", f"out={out}"),
        ]
        plan = out / "plan" / "plan.json"
        started_s = time.monotonic()
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                parent, workers = memory_of(process.pid), [memory_of(child) for child in children_of(process.pid)]
                if not seen.plan_s and plan.exists():
                    seen.plan_s = time.monotonic() - started_s
                if not seen.plan_s:
                    seen.planning_bytes = max(seen.planning_bytes, parent.get("RssAnon", 0))
                seen.parent_bytes = max(seen.parent_bytes, parent.get("RssAnon", 0))
                seen.parent_peak_bytes = max(seen.parent_peak_bytes, parent.get("VmHWM", 0))
                seen.worker_bytes = max([seen.worker_bytes, *(worker.get("RssAnon", 0) for worker in workers)])
                if seen.plan_s and time.monotonic() - started_s - seen.plan_s > seconds:
                    process.send_signal(signal.SIGINT)
                    process.wait()
                time.sleep(LOOK_EVERY_S)
        seen.finished = process.returncode == 0
        if not (seen.finished or seen.plan_s):
            raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}")
        seen.prepare_s = time.monotonic() - started_s - seen.plan_s
        seen.num_prepared = sum(path.stat().st_size // LAYOUT.record_bytes for path in (out / "train").glob("*.tar"))
    return seen


def memory_of(pid: int) -> dict[str, int]:
    """Return the sizes in /proc's status of a process, in bytes; empty where it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.partition(":") for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) << 10 for name, _, value in fields}


def children_of(pid: int) -> list[int]:
    """Return the processes that the main thread of a process started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def row_of(samples: int, turns: list[Seen]) -> list[str]:
    """Return a row of the table: the greatest of each value."""

    def most(name: str) -> str:
        return f"{max(getattr(seen, name) for seen in turns) / 1e6:.0f}"

    last = turns[-1]
    part = "all" if last.finished else f"{last.num_prepared:,}"
    return [
        f"{samples:,}",
        f"{max(seen.plan_s for seen in turns):.1f}",
        most("planning_bytes"),
        most("parent_bytes"),
        most("worker_bytes"),
        most("parent_peak_bytes"),
        f"{part} in {last.prepare_s:.0f} s",
        str(len(turns)),
    ]


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
