"""The benchmark of the noise scale runs at a tiny size; what it measured is not looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.shards.manifest import DataSet
from tiny_data import run_module


@pytest.mark.slow
def test_it_prints_a_row_for_each_checkpoint_and_draws_them(synthetic: DataSet, tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    sizes = ["--steps", "40", "--checkpoints", "4", "--own", "50", "--data", str(synthetic.root), "--plot", str(plot)]
    options = ["batch.size=12", "model.hidden=[8]", "track.noise_scale_every_steps=1"]
    done = run_module("benchmarks.noise_scale", *sizes, *options)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["10", "20", "30", "40"]
    assert plot.read_bytes().startswith(b"\x89PNG")
