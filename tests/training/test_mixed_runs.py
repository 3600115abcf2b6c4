"""Runs over several data sets: the shares that were asked for, on any ranks, after any resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.compose import compose
from pipeline.evaluate import evaluate
from pipeline.evaluate_config import EVALUATE_SCHEMAS
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from runs import ONE_RANK, assert_equal_weights, sample_ids, train_here
from synthetic_data import TRAIN_SAMPLES, VAL_SAMPLES, make_synthetic
from tiny_data import prepare_pictures, write_pictures


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """A second data set, of the same classes and half the size."""
    out = tmp_path_factory.mktemp("other") / "set"
    return make_synthetic(out, "source.samples=50", "source.val_samples=20", "source.classes=7", "seed=5")


def test_packed_and_encoded_sets_together_are_not_cropped_at_random(synthetic: DataSet, tmp_path: Path) -> None:
    """Of one a decoder makes the crop, of the other the device: some would be cropped twice, or not at all."""
    write_pictures(tmp_path / "pictures", num_each=10, classes=[f"class {k}" for k in range(7)])
    encoded = prepare_pictures(tmp_path / "pictures", tmp_path / "set", "layout=encoded", "source.val_frac=0.2")
    options = ("data.resolution=null", "augment=resized_crop", "trainer.max_steps=1")
    with pytest.raises(UserError, match=r"augment=resized_crop wants all of data\.paths packed, or none"):
        mixed(synthetic, encoded, tmp_path / "run", *options)


def mixed(first: DataSet, second: DataSet, run_dir: Path, *options: str) -> list[list[int]]:
    """Train on both and return the ids of each step."""
    paths = f"data.paths=[{first.root},{second.root}]"
    train_here(first.root, run_dir, paths, "log_sample_ids=true", "schedule=constant", *options)
    return [ids for _, ids in sample_ids(run_dir)]


@pytest.mark.parametrize("order", [["order=full"], ["order=window", "order.lanes=2", "order.chunk_samples=10"]])
def test_each_set_has_its_share_of_every_batch(
    synthetic: DataSet, other: DataSet, tmp_path: Path, order: list[str]
) -> None:
    steps = mixed(synthetic, other, tmp_path / "run", *order, "data.weights=[1,2]", "trainer.max_epochs=2")
    assert len(steps) == 2 * ((TRAIN_SAMPLES + 50) // 12)
    assert all(sum(number < TRAIN_SAMPLES for number in ids) == 4 for ids in steps)
    # Of the second set all are seen before any is seen again.
    second = [number for ids in steps for number in ids if number >= TRAIN_SAMPLES]
    assert len(set(second[:48])) == 48


def test_without_weights_the_sizes_are_the_shares_and_an_epoch_is_all_samples(
    synthetic: DataSet, other: DataSet, tmp_path: Path
) -> None:
    steps = mixed(synthetic, other, tmp_path / "run", "batch.size=15", "trainer.max_epochs=1")
    seen = [number for ids in steps for number in ids]
    assert len(seen) == 150
    assert len(set(seen)) >= 149  # sizes as parts of 10,000 are a little rounded


def test_a_mixed_run_goes_on_as_if_nothing_had_happened(synthetic: DataSet, other: DataSet, tmp_path: Path) -> None:
    options = ["data.weights=[1,2]", "checkpoint.every_steps=1", "trainer.max_epochs=9"]
    mixed(synthetic, other, tmp_path / "whole", *options, "trainer.max_steps=20")
    for steps in (7, 20):
        mixed(synthetic, other, tmp_path / "parts", *options, f"trainer.max_steps={steps}", "resume=true")
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(UserError, match=r"data\.weights"):
        mixed(
            synthetic, other, tmp_path / "parts", *options, "data.weights=[1,1]", "trainer.max_steps=30", "resume=true"
        )


def test_evaluation_is_over_all_sets_or_the_one_that_is_named(
    synthetic: DataSet, other: DataSet, tmp_path: Path
) -> None:
    mixed(synthetic, other, tmp_path / "run", "trainer.max_steps=2")
    for options, samples in (([], VAL_SAMPLES + 20), ([f"data.path={other.root}"], 20)):
        config = compose("evaluate", EVALUATE_SCHEMAS, [f"run={tmp_path / 'run'}", "device=cpu", *options])
        assert evaluate(config, ONE_RANK)["samples"] == samples


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["data.weights=[1]"], "one for each of the 2 data.paths"),
        (["data.weights=[1,0]"], "at least 1 each"),
        (["batch.size=full"], "of one data set"),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    synthetic: DataSet, other: DataSet, tmp_path: Path, options: list[str], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        mixed(synthetic, other, tmp_path / "run", *options)
