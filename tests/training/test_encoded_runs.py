"""Runs from encoded shards and in window order: what they see, that they go on, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.compose import compose
from pipeline.evaluate import evaluate
from pipeline.evaluate_config import EVALUATE_SCHEMAS
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from runs import ONE_RANK, assert_equal_weights, sample_ids, train_here
from tiny_data import prepare_pictures, write_pictures

WINDOWS = ["order=window", "order.lanes=2", "order.window_chunks=2", "order.chunk_samples=10", "log_sample_ids=true"]
SIDE = 8
CROPS = [f"data.resolution={SIDE}", "augment=resized_crop", "data.decode_threads=2"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """60 pictures of 2 classes, kept as they are, in several shards; a fifth of them held out."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "root", num_each=30, size=20)
    options = ("layout=encoded", "layout.shard_bytes=40000", "source.val_frac=0.2")
    return prepare_pictures(folder / "root", folder / "set", *options)


def test_a_run_by_windows_sees_each_sample_once_an_epoch_and_goes_on_where_it_stopped(
    pictures: DataSet, tmp_path: Path
) -> None:
    assert len(pictures.split("train").shards) > 1
    options = [*WINDOWS, *CROPS, "batch.size=8"]
    train_here(pictures.root, tmp_path / "whole", *options, "trainer.max_epochs=2")
    train_here(pictures.root, tmp_path / "twice", *options, "trainer.max_steps=7", "schedule=constant")
    num_samples = pictures.split("train").num_samples
    steps = [ids for _, ids in sample_ids(tmp_path / "whole")]
    per_epoch = num_samples // 8
    for first in (0, per_epoch):
        seen = [number for ids in steps[first : first + per_epoch] for number in ids]
        assert len(set(seen)) == len(seen) == 8 * per_epoch
    assert [ids for _, ids in sample_ids(tmp_path / "twice")] == steps[:7]


def test_a_resumed_run_from_encoded_shards_ends_with_the_same_weights(pictures: DataSet, tmp_path: Path) -> None:
    options = [*WINDOWS, *CROPS, "batch.size=8", "schedule=constant", "checkpoint.every_steps=1"]
    train_here(pictures.root, tmp_path / "whole", *options, "trainer.max_steps=9", "trainer.max_epochs=9")
    for steps in (4, 9):
        more = [f"trainer.max_steps={steps}", "trainer.max_epochs=9", "resume=true"]
        train_here(pictures.root, tmp_path / "parts", *options, *more)
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


def test_evaluation_of_encoded_shards_is_the_runs_own(pictures: DataSet, tmp_path: Path) -> None:
    summary = train_here(pictures.root, tmp_path / "run", *WINDOWS, *CROPS, "batch.size=8", "trainer.max_epochs=1")
    config = compose("evaluate", EVALUATE_SCHEMAS, [f"run={tmp_path / 'run'}", "slots_per_rank=5", "device=cpu"])
    metrics = evaluate(config, ONE_RANK)
    assert metrics["samples"] == summary["val/samples"] == pictures.split("val").num_samples
    assert metrics["top1_frac"] == summary["val/top1_frac"]
    assert metrics["loss"] == pytest.approx(summary["val/loss"], rel=1e-5)


def test_a_run_by_windows_goes_on_with_its_own_windows_alone(pictures: DataSet, tmp_path: Path) -> None:
    options = [*CROPS, "batch.size=8", "schedule=constant", "trainer.max_epochs=9", "checkpoint.every_steps=1"]
    train_here(pictures.root, tmp_path / "run", *WINDOWS, *options, "trainer.max_steps=2")
    more = ["order.window_chunks=3", "trainer.max_steps=4", "resume=true"]
    with pytest.raises(UserError, match=r"order\.window_chunks"):
        train_here(pictures.root, tmp_path / "run", *WINDOWS, *options, *more)


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("data.resolution=16", "holds packed images of 8x8"),
        ("order.lanes=5", "lanes"),
    ],
)
def test_what_packed_data_cannot_do_is_one_line(synthetic: DataSet, tmp_path: Path, option: str, reason: str) -> None:
    options = ["order=window"] if option.startswith("order.") else []
    with pytest.raises(UserError, match=reason) as told:
        train_here(synthetic.root, tmp_path / "run", *options, option)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_the_stored_config_names_the_order_and_the_crop(pictures: DataSet, tmp_path: Path) -> None:
    train_here(pictures.root, tmp_path / "run", *WINDOWS, *CROPS, "batch.size=8", "trainer.max_steps=1")
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stored["fingerprint"]["order"] == "window"
    assert stored["fingerprint"]["order.lanes"] == 2
