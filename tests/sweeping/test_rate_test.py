"""The learning-rate range test as typed, with real runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.rate_test import main, rising
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.sweep_config import RateTestConfig
from pipeline.sweeping.resolve import resolve
from runs import SMALL, metric_rows

STEPS = 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ratio", "how"), [("null", "the loss is no number any more"), ("10", "the loss is far above its start")]
)
def test_the_rate_rises_by_one_factor_a_step_and_breaks_the_run_in_the_end(
    synthetic: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], ratio: str, how: str
) -> None:
    """After ten steps that change nothing up to 1e30, at which the loss is no number any more: no error."""
    folder = tmp_path / "rates"
    own = [f"rate_test.dir={folder}", f"rate_test.steps={STEPS}", "rate_test.lowest=1e-20", "rate_test.highest=1e30"]
    own.append(f"rate_test.max_loss_ratio={ratio}")
    typed = [f"data.path={synthetic.root}", *SMALL, "optimizer=sgd", "schedule.warmup.value=3", *own]
    assert main(typed) == 0
    told = capsys.readouterr().out
    assert f"{how}, which ends the test" in told
    rows = [row for row in metric_rows(folder / "0000") if "train/loss" in row]
    wanted = np.geomspace(1e-20, 1e30, STEPS)
    np.testing.assert_allclose([row["rate/learning_rate"] for row in rows], wanted[: len(rows)], rtol=1e-9)
    assert 4 <= len(rows) < STEPS
    (curves,) = json.loads((folder / "rates.json").read_text())
    (curve,) = curves["curves"]
    assert curve["losses"] == [row["train/loss"] for row in rows][1:]
    assert curve["diverges"] is not None
    assert max(curve["losses"][:-1]) <= (10 if ratio == "10" else math.inf) * max(curve["losses"][:10])
    with Image.open(folder / "rates.png") as picture:
        assert picture.size[0] > 500
    assert "diverges at" in (folder / "rates.md").read_text()


def test_nothing_but_rate_schedule_and_length_is_changed() -> None:
    typed = ["model=mlp", "optimizer=adamw", "optimizer.reference_batch=7", "schedule=cosine", "batch.size=12"]
    config = resolve(typed)
    changed = rising(config, RateTestConfig(lowest=1e-5, highest=1.0, steps=50))
    assert (changed.optimizer.rate, changed.optimizer.reference_batch) == (1e-5, None)
    assert changed.trainer.max_steps == 50
    for name in ("model", "batch", "data", "augment", "objective", "seed", "order"):
        assert getattr(changed, name) == getattr(config, name)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("rate_test.lowest=20", "0 < lowest < highest"),
        ("rate_test.steps=3", "rate_test.steps=3: at least 10"),
        ("batch.size=1000", "batch.size=1000 is over the 100 samples"),
        ("optimizer.rate=uniform(0,1)", "is drawn"),
    ],
)
def test_wrong_input_is_one_line_and_starts_nothing(synthetic: DataSet, tmp_path: Path, option: str, told: str) -> None:
    small = [item for item in SMALL if item.partition("=")[0] != option.partition("=")[0]]
    with pytest.raises(UserError, match=told):
        main([f"data.path={synthetic.root}", f"rate_test.dir={tmp_path / 'rates'}", *small, option])
    assert list(tmp_path.iterdir()) == []
