"""The planner's benchmark of time runs at a tiny size; what it measured is not looked at."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.plan_time import main


@pytest.mark.slow
def test_a_forecast_stands_beside_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--only", "one rank, narrow", "--samples", "300", "--steps", "6", "--cache", str(tmp_path)]
    assert main(options) == 0
    *_, row = capsys.readouterr().out.splitlines()
    name, *numbers = (cell.strip() for cell in row.strip("|").split("|"))
    assert name == "one rank, narrow"
    assert all(math.isfinite(float(number)) for number in numbers)
    assert len(numbers) == 8
    assert list(tmp_path.iterdir()) == []
