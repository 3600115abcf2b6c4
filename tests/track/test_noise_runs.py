"""The noise scale in whole runs: right, the same however a run is cut up, stopped or sharded, and without effect."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.run_folder import SUMMARY_FILE
from pipeline.run_text import summary_text
from pipeline.shards.manifest import DataSet
from pipeline.track import bounds
from pipeline.track.media import read_media
from pipeline.track.noise import is_told
from pipeline.training.checkpoint import stored_checkpoints
from runs import SMALL, assert_equal_weights, metric_rows, run_ranks, train_here, weights_of
from tiny_data import rows_of, stored_image

# 100 samples in batches of 12: 8 steps an epoch.
EVERY_STEP = ["track.noise_scale_every_steps=1", "trainer.log_every_steps=1"]
OPTIONS = [*EVERY_STEP, "trainer.max_epochs=2"]
TRACE, SIGNAL, SCALE = "grad/noise_trace", "grad/signal_sq", "grad/noise_scale_images"
LOW, HIGH = "grad/noise_scale_low_images", "grad/noise_scale_high_images"


def noise_rows(run_dir: Path) -> list[dict[str, Any]]:
    return [row for row in metric_rows(run_dir) if TRACE in row]


def true_terms(data: DataSet, run_dir: Path) -> tuple[float, float]:
    """Return tr(Sigma) and |G|^2, from the own gradient of each sample of the training split, in double precision.

    Of an mlp of one hidden layer of relu, at a run's last weights; without augmentation. Both are the unbiased ones of
    what the N samples are drawn from, as batches that share no sample measure them: of the N samples alone |G|^2 is
    larger by tr(Sigma) / N.
    """
    rows = rows_of(data, "train")
    images = [np.frombuffer(stored_image(shard, row), dtype=np.uint8)[-8 * 8 * 3 :] for shard, row in rows]
    pixels_ND = torch.from_numpy(np.stack(images)).double()
    mean_C, std_C = (torch.tensor(values, dtype=torch.float64) for values in statistics_of(data))
    pixels_ND = ((pixels_ND.view(len(rows), -1, 3) - mean_C) / std_C).flatten(1)
    labels_N = torch.tensor([int(row["label"]) for _, row in rows])
    weights = [value.double() for value in weights_of(run_dir).values()]

    def loss(weights: list[torch.Tensor], pixels_D: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        hidden_W = functional.linear(pixels_D, weights[0], weights[1]).relu()
        return functional.cross_entropy(functional.linear(hidden_W, weights[2], weights[3]), label)

    parts = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, pixels_ND, labels_N)
    gradients_NP = torch.cat([part.flatten(1) for part in parts], dim=1)
    trace = float(gradients_NP.var(dim=0).sum())
    return trace, float(gradients_NP.mean(dim=0).square().sum()) - trace / len(rows)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Assert that two rows are equal to rounding, None where None is."""
    assert {key: value is None for key, value in one.items()} == {key: value is None for key, value in other.items()}
    for key, value in one.items():
        assert value is None or other[key] == pytest.approx(value, rel=2e-3), key


def statistics_of(data: DataSet) -> tuple[list[float], list[float]]:
    assert data.statistics is not None
    return list(data.statistics.mean), list(data.statistics.std)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 40])
def test_averages_over_many_steps_are_the_true_terms(synthetic: DataSet, tmp_path: Path, steps: int) -> None:
    """After some training, with weights that stay, so that each epoch's batches measure the same."""
    before, still = tmp_path / "before", tmp_path / "still"
    trained = ["optimizer=sgd", "optimizer.rate=0.05", "schedule=constant", f"trainer.max_steps={steps}"]
    train_here(synthetic.root, before, "augment=none", *trained)
    start = ["augment=none", f"init.run={before}", "init.head=keep", "optimizer.rate=0", "trainer.max_epochs=25"]
    train_here(synthetic.root, still, *EVERY_STEP, *start)
    trace, signal_sq = true_terms(synthetic, still)
    rows = noise_rows(still)
    for key, expected in ((TRACE, trace), (SIGNAL, signal_sq)):
        values = np.array([row[key] for row in rows])
        spread = values.std() / math.sqrt(len(values))
        assert spread < 0.35 * expected
        assert values.mean() == pytest.approx(expected, abs=3 * spread), key
    assert rows[-1][LOW] < trace / signal_sq
    assert rows[-1][HIGH] is None or rows[-1][HIGH] > trace / signal_sq


@pytest.mark.parametrize(
    "options",
    [
        ["model.norm=batch", "batch.micro_size=4", "model.dropout=0.2"],
        ["model.norm=layer", "augment=flip_crop", "augment.mixup_alpha=0.4", "trainer.activation_checkpointing=true"],
        ["trainer.precision=bf16", "trainer.clip_norm=0.5"],
    ],
)
def test_training_is_the_same_to_the_last_bit_with_and_without(
    synthetic: DataSet, tmp_path: Path, options: list[str]
) -> None:
    train_here(synthetic.root, tmp_path / "with", *OPTIONS, *options)
    train_here(synthetic.root, tmp_path / "without", *OPTIONS, *options, "track.noise_scale_every_steps=null")
    assert_equal_weights(tmp_path / "with", tmp_path / "without")
    assert len(noise_rows(tmp_path / "with")) == 16
    assert not noise_rows(tmp_path / "without")


def test_in_micro_batches_and_when_it_is_clipped_the_same_is_measured(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path / "whole", *OPTIONS, "optimizer.rate=0")
    parts = ["batch.micro_size=5", "trainer.clip_norm=0.1", "trainer.activation_checkpointing=true"]
    train_here(synthetic.root, tmp_path / "parts", *OPTIONS, "optimizer.rate=0", *parts)
    for one, other in zip(noise_rows(tmp_path / "whole"), noise_rows(tmp_path / "parts"), strict=True):
        assert_same(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_on_two_ranks_the_same_is_measured_as_on_one(synthetic: DataSet, tmp_path: Path, strategy: str) -> None:
    options = [*SMALL, *OPTIONS, "model.norm=layer", "optimizer.rate=0"]
    train_here(synthetic.root, tmp_path / "one", *options)
    folder = tmp_path / "two"
    shared = [f"trainer.strategy={strategy}", "batch.micro_size=8"]
    run_ranks(2, "pipeline.train", f"data.path={synthetic.root}", f"run_dir={folder}", *options, *shared)
    for one, other in zip(noise_rows(tmp_path / "one"), noise_rows(folder), strict=True):
        assert_same(one, other)


def test_batch_norm_is_measured_by_the_passes_of_a_step(synthetic: DataSet, tmp_path: Path) -> None:
    options = [*OPTIONS, "model.norm=batch"]
    summary = train_here(synthetic.root, tmp_path / "one", *options)
    assert summary["batch_advice"] == (
        "The noise scale is not known: batch norm ties the gradients of a batch's images together; two passes a step or"
        " more would do, by batch.micro_size or more ranks."
    )
    assert not noise_rows(tmp_path / "one")
    train_here(synthetic.root, tmp_path / "three", *options, "batch.micro_size=4")
    rows = noise_rows(tmp_path / "three")
    assert len(rows) == 16
    assert np.mean([row[TRACE] for row in rows]) > 0


def test_batches_of_one_image_measure_nothing_and_say_so(synthetic: DataSet, tmp_path: Path) -> None:
    summary = train_here(synthetic.root, tmp_path / "run", *OPTIONS, "batch.size=1", "trainer.max_steps=9")
    assert not noise_rows(tmp_path / "run")
    assert summary["batch_advice"] == "The noise scale is not known: a batch of 1 has no parts to be compared with it."


def test_the_cockpit_is_told_often_at_first_and_then_less() -> None:
    assert [epoch for epoch in range(320) if is_told(epoch)] == [*range(1, 10), *range(10, 100, 10), 100, 200, 300]


def test_rows_are_averages_since_the_row_before_and_others_carry_on(synthetic: DataSet, tmp_path: Path) -> None:
    """Measured at steps 0, 1, 2, ..., with rows after steps 3, 6, 8 (the epoch's end), 9, ..., against a row a step."""
    train_here(synthetic.root, tmp_path / "fine", *OPTIONS)
    train_here(synthetic.root, tmp_path / "coarse", *OPTIONS, "trainer.log_every_steps=3")
    fine = {row["step"]: row for row in noise_rows(tmp_path / "fine")}
    previous = 0
    for row in noise_rows(tmp_path / "coarse"):
        within = [fine[step] for step in range(previous + 1, row["step"] + 1)]
        for key in (TRACE, SIGNAL):
            assert row[key] == pytest.approx(np.mean([one[key] for one in within]))
        assert row.get(SCALE) == fine[row["step"]].get(SCALE)
        previous = row["step"]
    assert previous == 16


@pytest.mark.parametrize("step", [3, 6, 8, 11])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(synthetic: DataSet, tmp_path: Path, step: int) -> None:
    """Also from a checkpoint between two rows."""
    options = ["track.noise_scale_every_steps=2", "trainer.log_every_steps=5", "trainer.max_epochs=2"]
    options += ["checkpoint.every_steps=1", "checkpoint.keep=100"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train_here(synthetic.root, whole, *options)
    shutil.copytree(whole, resumed)
    (resumed / SUMMARY_FILE).unlink()
    for stored_step, path in stored_checkpoints(resumed / "checkpoints"):
        if stored_step > step:
            path.unlink()
    train_here(synthetic.root, resumed, *options)
    assert noise_rows(resumed) == noise_rows(whole)
    tables = [[(one.step, one.caption) for one in read_media(run)] for run in (whole, resumed)]
    assert tables[0] == tables[1]


def test_the_end_of_a_run_tells_the_advice_and_logs_the_cockpit(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.run_cockpit.LEAST_TRAINED_S", 0.0)
    monkeypatch.setattr(bounds, "LEAST_TRAINED_S", 0.0)
    monkeypatch.setattr("pipeline.track.noise.MEMORY_AFTER_S", 0.0)
    run = tmp_path / "run"
    summary = train_here(synthetic.root, run, *OPTIONS, "trainer.measure_bound=true")
    assert summary["batch_advice"].startswith("The noise scale is ")
    assert summary["batch_advice"] in summary_text(summary).replace("\n            ", " ")
    assert json.loads((run / SUMMARY_FILE).read_text())["batch_advice"] == summary["batch_advice"]
    tables = [medium for medium in read_media(run) if medium.name == "batch/cockpit"]
    assert [table.step for table in tables] == [8, 16]
    for table in tables:
        images = {what: number for what, number, _ in table.table()[1]}
        assert images["your batch"] == 12
        assert images["most in memory"] > 1000
        assert images["fewest for the network"] is None
    assert tables[-1].caption == summary["batch_advice"]
