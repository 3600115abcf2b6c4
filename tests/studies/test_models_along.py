"""What studies measure at is what was trained: the run's own samples, and its weights at each checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.shards.manifest import DataSet
from pipeline.studies.measures.models_along import models_along, training_samples
from pipeline.trained import open_trained
from runs import sample_ids, train_here, weights_of
from tiny_data import prepare_here, rows_of, stored_image


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """60 images in two shards, grey, so that a pixel is one byte."""
    out = tmp_path_factory.mktemp("measuring") / "grey"
    layout = ("layout.resolution=8", "layout.shard_bytes=80000")
    return prepare_here(
        out, "source=synthetic", "source.samples=60", "source.val_samples=8", "source.channels=1", *layout
    )


@pytest.mark.parametrize("part", [(), ("data.train_samples=24", "data.subset_seed=5")])
def test_the_samples_are_those_that_the_run_trained_on(grey: DataSet, tmp_path: Path, part: tuple[str, ...]) -> None:
    train_here(grey.root, tmp_path / "run", "augment=none", "trainer.max_epochs=1", "log_sample_ids=true", *part)
    pixels_ND, labels_N = training_samples(open_trained(tmp_path / "run"))
    seen = sorted(sample for _, ids in sample_ids(tmp_path / "run") for sample in ids)
    assert len(grey.split("train").shards) > 1
    stored = rows_of(grey, "train")
    assert grey.statistics is not None
    (mean,), (std,) = grey.statistics.mean, grey.statistics.std
    expected = [np.frombuffer(stored_image(*stored[sample])[-64:], np.uint8) for sample in seen]
    assert torch.allclose(pixels_ND, torch.from_numpy((np.array(expected) - mean) / std).float(), atol=1e-6)
    assert labels_N.tolist() == [stored[sample][1]["label"] for sample in seen]


def test_labels_made_wrong_are_refused(grey: DataSet, tmp_path: Path) -> None:
    train_here(grey.root, tmp_path / "run", "augment=none", "trainer.max_epochs=1", "data.label_noise=0.5")
    with pytest.raises(ValueError, match=r"data.label_noise=0.5"):
        training_samples(open_trained(tmp_path / "run"))


def test_models_are_those_of_the_start_and_of_each_checkpoint(grey: DataSet, tmp_path: Path) -> None:
    options = ("augment=none", "checkpoint.every_steps=2", "checkpoint.keep=9", "ema.decay=0.5")
    train_here(grey.root, tmp_path / "run", *options, "trainer.max_epochs=1")
    # Without a rate the last weights are the first.
    train_here(grey.root, tmp_path / "still", *options, "trainer.max_epochs=1", "optimizer.rate=0")
    found = {step: model.state_dict() for step, model in models_along(open_trained(tmp_path / "run"))}
    assert [*found] == [0, 2, 4, 5]
    for step, folder in ((0, "still"), (5, "run")):
        wanted = {name.removeprefix("model."): value for name, value in weights_of(tmp_path / folder).items()}
        assert all(torch.equal(value, wanted[name]) for name, value in found[step].items()), step
    first = next(iter(found[0]))
    assert not torch.equal(found[2][first], found[4][first])
