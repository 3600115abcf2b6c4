"""Streams on two real ranks that wait for each other in every step: unequal shards, and one that is damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stream_shards import write_stream
from tiny_data import ROOT

pytestmark = pytest.mark.slow

PATH = os.pathsep.join(str(ROOT / folder) for folder in (".", "tests", "tests/data"))


def run_ranks(out: Path, shards: list[str], *, num_samples: int) -> subprocess.CompletedProcess[str]:
    script = str(Path(__file__).with_name("stream_rank.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    return subprocess.run(
        [*command, str(out), str(num_samples), "12", *shards],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATH},
        check=False,
    )


def test_ranks_with_one_sample_and_with_hundreds_end_after_equal_steps(tmp_path: Path) -> None:
    shards = write_stream(tmp_path / "web", counts=[1, 300])
    done = run_ranks(tmp_path / "sums", shards, num_samples=240)
    assert done.returncode == 0, done.stderr
    expected = [[12, 2 * step] for step in range(40)]
    for rank in range(2):
        assert json.loads((tmp_path / f"sums.{rank}").read_text()) == expected


def test_a_damaged_shard_in_the_middle_ends_all_ranks_with_its_name(tmp_path: Path) -> None:
    shards = write_stream(tmp_path / "web", counts=[40, 40, 40, 40])
    content = Path(shards[2]).read_bytes()
    Path(shards[2]).write_bytes(content[: len(content) // 2])
    started_s = time.monotonic()
    done = run_ranks(tmp_path / "sums", shards, num_samples=2400)
    assert done.returncode != 0
    assert time.monotonic() - started_s < 90
    assert not list(tmp_path.glob("sums.*"))
