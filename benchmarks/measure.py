"""What every benchmark shares: repeats that take turns, medians with their spread, and the lines of a Markdown table.

    rates = take_turns({"ours": run_ours, "peer": run_peer}, repeats=5)     # each returns images/s
    print_table(HEADER, [[name, rate_text(values)] for name, values in rates.items()])

Candidates take turns, so that a machine which slows down slows all of them.
"""

from __future__ import annotations

import datetime
import os
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from data_prep.config import PREPARE_SCHEMAS, PrepareConfig
from data_prep.prepare import prepare
from pipeline.compose import compose
from pipeline.run_folder import describe_machine
from pipeline.shards.manifest import DataSet

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parent.parent


def take_turns(candidates: Mapping[str, Callable[[], T]], *, repeats: int) -> dict[str, list[T]]:
    """Run each candidate once a turn, `repeats` turns, and return what each of them returned."""
    results: dict[str, list[T]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            results[name].append(run())
    return results


def rate_text(values: Sequence[float], *, decimals: int = 0) -> str:
    """Return the median and, in brackets, the smallest and the largest."""
    median, low, high = (f"{value:,.{decimals}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({low} to {high})"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def print_conditions(command: str, *packages: str) -> None:
    """Print the line that stands above a table: date, commit, machine, load, versions, command."""
    facts = describe_machine()
    versions = facts["versions"] | {name: version(name) for name in packages}
    named = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "numpy", *packages))
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    print(
        f"{datetime.date.today()}, commit {_commit()}, {facts['machine']['processor']}, {os.cpu_count()} cores,"
        f" {memory_bytes / 2**30:.0f} GiB, load {os.getloadavg()[0]:.1f}; {named}; `{command}`\n"
    )


def synthetic_data(out: Path, *, samples: int, val_samples: int = 0, resolution: int, shard_bytes: int) -> DataSet:
    """Return a packed synthetic data set, prepared on the first use."""
    config: PrepareConfig = compose(
        "prepare",
        PREPARE_SCHEMAS,
        [
            "source=synthetic",
            f"source.samples={samples}",
            f"source.val_samples={val_samples}",
            f"layout.resolution={resolution}",
            f"layout.shard_bytes={shard_bytes}",
            f"out={out}",
        ],
    )
    return prepare(config)


def warm(paths: Sequence[Path]) -> None:
    """Read files once, so that the page cache holds them."""
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while stream.read(1 << 24):
                pass


def _commit() -> str:
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
