"""Runs on noisy labels: the same wrong ones in each epoch, on each rank, after each resume; validation has its own."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coco_data import make_coco
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS
from pipeline.data.label_noise import LabelNoise
from pipeline.inspect import inspect
from pipeline.inspect_config import INSPECT_SCHEMAS
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.training.module import ClassifierModule
from runs import SMALL, assert_equal_weights, metric_rows, run_ranks, train_here
from synthetic_data import TRAIN_SAMPLES
from tiny_data import rows_of

NOISE = ("data.label_noise=0.5", "data.label_noise_seed=4", "schedule=constant")
Labels = dict[int, set[int]]


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> Labels:
    """Every label that a model in training was given, by sample id."""
    record: Labels = defaultdict(set)
    training_step = ClassifierModule.training_step

    def spy(module: ClassifierModule, batch: Any, batch_idx: int) -> torch.Tensor:
        for number, label in zip(batch.sample_ids.tolist(), batch.labels_B.tolist(), strict=True):
            record[number].add(label)
        return training_step(module, batch, batch_idx)

    monkeypatch.setattr(ClassifierModule, "training_step", spy)
    return record


def noisy_labels(data: DataSet, *, frac: float = 0.5) -> list[int]:
    stored = np.array([row["label"] for _, row in rows_of(data, "train")], dtype=np.int64)
    noise = LabelNoise(frac=frac, num_classes=data.num_classes, seed=4)
    noisy = noise.applied(np.arange(len(stored)), stored)
    assert 0.2 * len(stored) < (noisy != stored).sum()
    return [int(label) for label in noisy]


@pytest.mark.parametrize("order", [(), ("order=window", "order.lanes=2", "order.chunk_samples=5")])
def test_each_sample_has_one_label_through_all_epochs(
    synthetic: DataSet, tmp_path: Path, trained_on: Labels, order: tuple[str, ...]
) -> None:
    train_here(synthetic.root, tmp_path, *NOISE, *order, "batch.size=10", "trainer.max_epochs=3")
    assert trained_on == {number: {label} for number, label in enumerate(noisy_labels(synthetic))}


def test_the_gap_is_to_the_labels_that_were_learnt(synthetic: DataSet, tmp_path: Path) -> None:
    """Random labels of 30 images are learnt by heart: on them accuracy is 1, where the true ones would give 1 in 7."""
    learning = ("batch.size=full", "trainer.max_epochs=40", "optimizer.rate=0.01", "model.hidden=[128]")
    options = (*learning, "augment=none", "data.train_samples=30")
    summary = train_here(synthetic.root, tmp_path, *NOISE, *options, "data.label_noise=1")
    assert summary["gap/train_top1_frac"] == 1
    assert summary["val/top1_frac"] < 0.5


def test_validation_labels_are_the_stored_ones(synthetic: DataSet, tmp_path: Path) -> None:
    """With a rate of next to nothing both runs have the same model, and so the same loss on the same labels."""
    options = ("optimizer.rate=1e-30", "optimizer.weight_decay=0", "trainer.max_steps=1", "schedule=constant")
    clean = train_here(synthetic.root, tmp_path / "clean", *options)
    noisy = train_here(synthetic.root, tmp_path / "noisy", *NOISE, *options)
    assert noisy["val/loss"] == clean["val/loss"]
    assert noisy["gap/train_loss"] != clean["gap/train_loss"]


def test_a_run_goes_on_with_the_same_noise_alone(synthetic: DataSet, tmp_path: Path) -> None:
    options = [*NOISE, "checkpoint.every_steps=1", "trainer.max_epochs=9"]
    train_here(synthetic.root, tmp_path / "whole", *options, "trainer.max_steps=12")
    for steps in (5, 12):
        train_here(synthetic.root, tmp_path / "parts", *options, f"trainer.max_steps={steps}", "resume=true")
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")
    for other in ("data.label_noise=0.4", "data.label_noise_seed=5", "data.label_noise=0"):
        with pytest.raises(UserError, match=r"data\.label_noise(_seed)? was .*, so its batches would be others"):
            train_here(synthetic.root, tmp_path / "parts", *options, other, "trainer.max_steps=14", "resume=true")


@pytest.mark.slow
def test_ranks_have_the_same_labels(synthetic: DataSet, tmp_path: Path) -> None:
    options = (*NOISE, "trainer.max_epochs=2", "trainer.log_every_steps=1")
    train_here(synthetic.root, tmp_path / "one", *options)
    run_ranks(2, "pipeline.train", f"data.path={synthetic.root}", f"run_dir={tmp_path / 'two'}", *SMALL, *options)
    one, two = (
        [row["train/loss"] for row in metric_rows(tmp_path / run) if "train/loss" in row] for run in ("one", "two")
    )
    assert two == pytest.approx(one, rel=1e-5)


def test_inspection_shows_the_labels_that_were_trained_on(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path, *NOISE, "trainer.max_epochs=1")
    wanted = noisy_labels(synthetic)
    samples = inspect(compose("inspect", INSPECT_SCHEMAS, [f"run={tmp_path}", "step=3"])).samples
    assert [sample.labels for sample in samples] == [(wanted[sample.sample_id],) for sample in samples]


def test_the_first_line_says_that_labels_are_noisy_and_data_a_part(
    synthetic: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here(synthetic.root, tmp_path / "noisy", *NOISE, "data.train_samples=30", "trainer.max_steps=1")
    told = "30 images of the split, 50 % of their labels drawn at random, batch 12"
    assert told in capsys.readouterr().out.splitlines()[0]
    train_here(synthetic.root, tmp_path / "plain", "trainer.max_steps=1", "schedule=constant")
    assert f"{TRAIN_SAMPLES} images, batch 12" in capsys.readouterr().out.splitlines()[0]


def test_of_a_part_of_the_split_the_labels_are_those_of_the_whole(
    synthetic: DataSet, tmp_path: Path, trained_on: Labels
) -> None:
    train_here(synthetic.root, tmp_path, *NOISE, "data.train_samples=30", "batch.size=10", "trainer.max_epochs=1")
    wanted = noisy_labels(synthetic)
    assert len(trained_on) == 30 < TRAIN_SAMPLES
    assert all(labels == {wanted[number]} for number, labels in trained_on.items())


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan"])
def test_what_is_no_share_is_refused(share: str) -> None:
    with pytest.raises(UserError, match=r"data\.label_noise=.*: a share, 0 to 1, wanted"):
        compose("train", TRAIN_SCHEMAS, [f"data.label_noise={share}"])


def test_several_labels_an_image_are_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    data, _ = make_coco(tmp_path / "coco")
    with pytest.raises(UserError, match=r"data\.label_noise=0\.5: wants one label an image, .* is multilabel"):
        train_here(data.root, tmp_path / "run", *NOISE, "objective=binary_cross_entropy")
    assert not (tmp_path / "run").exists()


def test_a_stream_is_refused() -> None:
    given = ["data.stream=a.tar", "data.stream_classes=3", "data.stream_samples_per_epoch=9"]
    with pytest.raises(UserError, match=r"data\.label_noise=0\.5: not of data\.stream"):
        compose("train", TRAIN_SCHEMAS, [*given, "data.val_stream=b.tar", "data.val_stream_samples=9", *NOISE])
