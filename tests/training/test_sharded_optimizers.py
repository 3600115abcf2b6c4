"""Optimisers and the moving average where FSDP2 has cut the weights: on real ranks, equal to the whole model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_data import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_model_that_is_cut_is_trained_as_the_whole_one(num_ranks: int) -> None:
    script = str(Path(__file__).with_name("sharded_optimizers.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}", script]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
