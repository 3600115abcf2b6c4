"""Training runs on CPU ranks that a plan's forecasts are held against: what the benchmarks of plans share.

    options = argument_parser("benchmarks.plan_time", question=__doc__, cases=CASES).parse_args(argv)
    if options.rank:
        return be_a_rank(Path(options.rank[0]), options.rank[1:])
    rows = measure_cases(options, CASES, row_of, val_samples=64)        # row_of starts its ranks by start_ranks

A benchmark starts itself under torchrun, one thread a rank; with `--rank FOLDER OPTION...` it is one of these.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import REPOSITORY, synthetic_data

RESOLUTION = 64
COMMON = (
    *("trainer.device=cpu", "logger=none", "trainer.measure_bound=false", "augment=flip_crop", "data.check=sizes"),
    "checkpoint.background=false",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A run to forecast and to measure."""

    ranks: int
    options: tuple[str, ...]


# Of a name and a case, the data set's folder and a folder to be made: a row of the table.
RowOf = Callable[[str, Case, Path, Path], list[str]]


def argument_parser(module: str, *, question: str | None, cases: Mapping[str, Case]) -> argparse.ArgumentParser:
    """Return the options that all these benchmarks have."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=(question or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", default=list(cases), choices=cases, help="rows to measure")
    parser.add_argument("--samples", type=int, default=4100, help="synthetic images")
    parser.add_argument("--cache", type=Path, default=Path(), help="folder for what is made, removed at the end")
    parser.add_argument("--rank", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def measure_cases(
    options: argparse.Namespace, cases: Mapping[str, Case], row_of: RowOf, *, val_samples: int
) -> list[list[str]]:
    """Return the row of each case that was asked for, all on the same synthetic images."""
    with tempfile.TemporaryDirectory(dir=options.cache) as scratch:
        folder = Path(scratch).resolve()
        data = folder / "data"
        synthetic_data(
            data, samples=options.samples, val_samples=val_samples, resolution=RESOLUTION, shard_bytes=16 << 20
        )
        return [row_of(name, cases[name], data, folder / str(number)) for number, name in enumerate(options.only)]


def start_ranks(
    module: str, case: Case, folder: Path, options: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> None:
    """Make `folder` and run a benchmark as the ranks of a case, to their end.

    Args:
        environment: set beside what is set here.

    Raises:
        RuntimeError: a rank failed; with what they printed.
    """
    folder.mkdir()
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.ranks}"),
        *("-m", module, "--rank", str(folder), *options, *case.options),
    ]
    ended = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {ended.returncode}:\n{ended.stderr}")
