"""Every benchmark runs at a tiny size and prints its table; what it measured is not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "options", "rows"),
    [
        ("loader", ["--samples", "200", "--batch-size", "16", "--epochs", "1", "--cache", "{folder}"], 7),
        ("train_wait", ["--samples", "300", "--steps", "3", "--ranks", "1", "--cache", "{folder}"], 2),
        ("prepare", ["--samples", "50", "--jpegs", ""], 2),
        ("decode", ["--images", "3", "--resolutions", "32", "--jpegs", ""], 11),
        ("listing", ["--classes", "5", "--images", "20", "--threads", "1", "2", "--cache", "{folder}"], 5),
    ],
)
def test_a_benchmark_prints_a_row_for_each_candidate(
    module: str, options: list[str], rows: int, tmp_path: Path
) -> None:
    told = [option.format(folder=tmp_path) for option in options]
    command = [sys.executable, "-m", f"benchmarks.{module}", "--repeats", "1", *told]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 2 + rows
    assert {line.count("|") for line in table} == {table[0].count("|")}
