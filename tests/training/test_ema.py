"""The moving average of weights: against a replay in double precision, without effect on training, evaluated."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.compose import compose
from pipeline.evaluate import evaluate
from pipeline.evaluate_config import EVALUATE_SCHEMAS
from pipeline.shards.manifest import DataSet
from pipeline.training.checkpoint import load_checkpoint, stored_checkpoints
from pipeline.training.ema import WeightAverage, decay_after, evaluated_weights
from runs import ONE_RANK, assert_equal_weights, metric_rows, run_ranks, train_here

DECAY = 0.8
# 100 samples in batches of 12, each of three micro-batches: 8 steps an epoch.
OPTIONS = ["trainer.max_epochs=2", "model.norm=batch", "batch.micro_size=5", "checkpoint.every_steps=1"]
KEPT = "checkpoint.keep=100"


def averaged(run_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = newest(run_dir)["ema"]
    return state


def newest(run_dir: Path) -> dict[str, object]:
    return load_checkpoint(stored_checkpoints(run_dir / "checkpoints")[0][1])


def test_a_young_average_forgets_its_start_and_an_old_one_has_the_decay() -> None:
    assert decay_after(1, decay=0.999) == pytest.approx(2 / 11)
    assert decay_after(10**6, decay=0.999) == 0.999
    assert decay_after(5, decay=0.0) == 0.0


def test_the_average_is_that_of_the_weights_after_each_update(synthetic: DataSet, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_here(synthetic.root, run, *OPTIONS, KEPT, f"ema.decay={DECAY}")
    states = [load_checkpoint(path)["state_dict"] for _, path in reversed(stored_checkpoints(run / "checkpoints"))]
    assert len(states) == 16
    # The weights before the first update are of a run that makes none.
    train_here(synthetic.root, tmp_path / "still", *OPTIONS, "trainer.max_steps=1", "optimizer.rate=0")
    start = load_checkpoint(stored_checkpoints(tmp_path / "still" / "checkpoints")[0][1])["state_dict"]
    expected = {name: value.double() for name, value in start.items() if "running" not in name}
    expected |= {name: torch.full_like(start[name], "var" in name).double() for name in start if "running" in name}
    for step, state in enumerate(states, start=1):
        keep = min(DECAY, (1 + step) / (10 + step))
        expected = {name: keep * value + (1 - keep) * state[name].double() for name, value in expected.items()}
    average = averaged(run)
    assert {f"model.{name}" for name in average} == {name for name in expected if name.startswith("model.")}
    for name, value in average.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[f"model.{name}"], rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(value, states[-1][f"model.{name}"])


def test_training_goes_on_as_if_there_were_no_average(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path / "with", *OPTIONS, f"ema.decay={DECAY}")
    train_here(synthetic.root, tmp_path / "without", *OPTIONS)
    assert_equal_weights(tmp_path / "with", tmp_path / "without")
    assert "ema" not in newest(tmp_path / "without")


def test_the_average_is_what_is_evaluated(synthetic: DataSet, tmp_path: Path) -> None:
    """In each epoch, at the end, and by evaluate: with decay 0 it is the weights themselves."""
    run = tmp_path / "run"
    summary = train_here(synthetic.root, run, *OPTIONS, f"ema.decay={DECAY}")
    zero = train_here(synthetic.root, tmp_path / "zero", *OPTIONS, "ema.decay=0")
    raw = train_here(synthetic.root, tmp_path / "raw", *OPTIONS)
    assert zero["val/loss"] == raw["val/loss"] != summary["val/loss"]
    metrics = evaluate(compose("evaluate", EVALUATE_SCHEMAS, [f"run={run}", "device=cpu"]), ONE_RANK)
    assert metrics["loss"] == summary["val/loss"]
    assert [row["val/loss"] for row in metric_rows(run) if "val/loss" in row][-1] == pytest.approx(summary["val/loss"])
    assert evaluated_weights({"state_dict": {"a": 1}}) == {"a": 1}  # type: ignore[dict-item]


def test_an_average_that_is_switched_on_later_begins_with_the_weights_of_then(
    synthetic: DataSet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train_here(synthetic.root, run, "trainer.max_epochs=1", "schedule=constant")
    weights = newest(run)["state_dict"]
    later = ["trainer.max_epochs=2", "schedule=constant", "resume=true", "ema.decay=0.999", "optimizer.rate=0"]
    train_here(synthetic.root, run, *later)
    assert isinstance(weights, dict)
    for name, value in averaged(run).items():
        torch.testing.assert_close(value, weights[f"model.{name}"])


def test_lent_weights_come_back_to_the_last_bit_after_an_error_too() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = WeightAverage(decay=0.5)
    average.start(model)
    with torch.no_grad():
        model[0].weight.mul_(3.7)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average.update(model, finished_steps=1000)
    with contextlib.suppress(KeyboardInterrupt), average.in_place(model):
        assert not torch.equal(model[0].weight, before["0.weight"])
        raise KeyboardInterrupt
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_ranks_have_one_average_and_evaluate_it(synthetic: DataSet, tmp_path: Path) -> None:
    options = ["trainer.max_epochs=2", f"ema.decay={DECAY}"]
    one = train_here(synthetic.root, tmp_path / "one", *options)
    small = [
        "model=mlp",
        "model.hidden=[16]",
        "logger=none",
        "trainer.device=cpu",
        "batch.size=12",
        "optimizer.rate=0.01",
    ]
    run_ranks(2, "pipeline.train", f"data.path={synthetic.root}", f"run_dir={tmp_path / 'two'}", *small, *options)
    two = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert two["val/loss"] == pytest.approx(one["val/loss"], rel=1e-4)
    for name, value in averaged(tmp_path / "one").items():
        torch.testing.assert_close(averaged(tmp_path / "two")[name], value, rtol=1e-4, atol=1e-6)
