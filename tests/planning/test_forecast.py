"""The forecast of memory against real training: what the system says that processes hold, on one rank and on two."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.measure import synthetic_data
from benchmarks.plan_memory import forecast, watched
from benchmarks.planned_runs import Case

SMALL = ("model=bottleneck_mlp", "model.depth=4", "model.width=256", "evaluation.slots_per_rank=32")
CASES = {
    "one rank": Case(ranks=1, options=(*SMALL, "batch.size=1024")),
    "ddp, 2 ranks": Case(ranks=2, options=(*SMALL, "batch.size=2048")),
    "fsdp, 2 ranks": Case(ranks=2, options=(*SMALL, "batch.size=2048", "trainer.strategy=fsdp")),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forecast") / "data"
    synthetic_data(path, samples=4100, val_samples=64, resolution=64, shard_bytes=16 << 20)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_forecast_is_within_a_tenth_of_what_a_run_holds(data: Path, tmp_path: Path, name: str) -> None:
    told = forecast(CASES[name], data)
    assert told.peak_bytes == pytest.approx(watched(CASES[name], data, tmp_path / "runs"), rel=0.1)
