"""Resume in one process: at every position, with several micro-batches, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from pipeline.run_folder import SUMMARY_FILE
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.training.checkpoint import checkpoint_name, newest_whole_checkpoint, stored_checkpoints
from runs import assert_equal_weights, metric_rows, sample_ids, train_here
from synthetic_data import make_synthetic

# 100 samples in batches of 12: 8 steps an epoch, 3 epochs.
OPTIONS = [
    "trainer.max_epochs=3",
    "checkpoint.every_steps=1",
    "checkpoint.keep=100",
    "log_sample_ids=true",
    "trainer.log_every_steps=1",
    "model.dropout=0.2",
    "augment=flip_crop",
    "schedule.warmup={value:3,unit:steps}",
]
LAST_STEP = 24


def interrupted_at(step: int, whole: Path, copy: Path) -> Path:
    """Copy a finished run as it lay on the disk after `step` updates, with rows written since, torn at the end."""
    shutil.copytree(whole, copy)
    (copy / SUMMARY_FILE).unlink()
    for stored_step, path in stored_checkpoints(copy / "checkpoints"):
        if stored_step > step:
            path.unlink()
    with (copy / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 999, "tor')
    return copy


def comparable(run_dir: Path) -> list[dict[str, object]]:
    """Return the rows without what the clock and the machine decide."""
    return [
        {key: row[key] for key in row if key == "rate/learning_rate" or not key.startswith(("rate/", "mem/"))}
        for row in metric_rows(run_dir)
    ]


@pytest.mark.parametrize("micro", ["null", "5"])
@pytest.mark.slow
def test_resumed_at_every_step_the_run_ends_as_if_nothing_had_happened(
    synthetic: DataSet, tmp_path: Path, micro: str
) -> None:
    """batch.micro_size=5 cuts 12 slots into 5, 5 and 2: each window of accumulation ends in a short one."""
    options = [*OPTIONS, f"batch.micro_size={micro}"]
    whole = tmp_path / "whole"
    train_here(synthetic.root, whole, *options)
    assert [step for step, _ in sample_ids(whole)] == list(range(1, LAST_STEP + 1))
    for step in [1, 5, 7, 8, 9, 15, 16, 17, 23, 24] if micro == "5" else range(1, LAST_STEP + 1):
        resumed = interrupted_at(step, whole, tmp_path / f"resumed-{step}")
        train_here(synthetic.root, resumed, *options)
        assert_equal_weights(whole, resumed)
        assert sample_ids(resumed) == sample_ids(whole)
        assert comparable(resumed) == comparable(whole), step


def test_without_a_checkpoint_the_run_starts_again_and_ends_the_same(synthetic: DataSet, tmp_path: Path) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    options = ["trainer.max_epochs=1", "log_sample_ids=true"]
    train_here(synthetic.root, whole, *options)
    interrupted_at(0, whole, again)
    train_here(synthetic.root, again, *options)
    assert_equal_weights(whole, again)
    assert sample_ids(again) == sample_ids(whole)


def test_a_finished_run_is_not_trained_again(synthetic: DataSet, tmp_path: Path) -> None:
    first = train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=1")
    again = train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=1")
    assert again == first


def test_a_finished_run_can_be_made_longer(synthetic: DataSet, tmp_path: Path) -> None:
    constant = ["schedule=constant", "log_sample_ids=true"]
    train_here(synthetic.root, tmp_path / "short", "trainer.max_epochs=1", *constant)
    train_here(synthetic.root, tmp_path / "short", "trainer.max_epochs=2", "resume=true", *constant)
    train_here(synthetic.root, tmp_path / "long", "trainer.max_epochs=2", *constant)
    assert_equal_weights(tmp_path / "short", tmp_path / "long")
    assert sample_ids(tmp_path / "short") == sample_ids(tmp_path / "long")


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "no checksum"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(synthetic: DataSet, tmp_path: Path, harm: str) -> None:
    options = ["trainer.max_epochs=3", "checkpoint.keep=3"]
    train_here(synthetic.root, tmp_path / "run", *options)
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "run", whole)
    (tmp_path / "run" / SUMMARY_FILE).unlink()
    last = tmp_path / "run" / "checkpoints" / checkpoint_name(LAST_STEP)
    content = bytearray(last.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
        last.write_bytes(content)
    elif harm == "no checksum":
        last.with_name(last.name + ".sha256").unlink()
    else:
        last.write_bytes(content[: 0 if harm == "empty" else -1000])
    found = newest_whole_checkpoint(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert found.name == checkpoint_name(16)
    train_here(synthetic.root, tmp_path / "run", *options)
    assert_equal_weights(whole, tmp_path / "run")


@pytest.mark.parametrize(
    ("option", "message"),
    [("seed=1", "seed was 0, now 1"), ("batch.size=20", r"batch.size was 12, now 20")],
)
def test_other_batches_are_refused_even_with_resume(
    synthetic: DataSet, tmp_path: Path, option: str, message: str
) -> None:
    train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=1")
    with pytest.raises(UserError, match=message):
        train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=2", "resume=true", option)


def test_other_data_is_refused(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=1")
    other = make_synthetic(tmp_path / "other", "source.samples=100", "source.val_samples=41", "source.seed=5")
    with pytest.raises(UserError, match="data was"):
        train_here(other.root, tmp_path / "run", "trainer.max_epochs=2", "resume=true")


def test_another_option_wants_another_folder_or_resume(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"holds a run with optimizer.rate=0.01, now optimizer.rate=0.5"):
        train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=1", "optimizer.rate=0.5")
    with pytest.raises(UserError, match="already holds a run"):
        train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=1", "resume=false")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty and not a run"):
        train_here(synthetic.root, tmp_path / "other")


def test_checkpoints_hold_plain_containers_and_only_the_newest_are_kept(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(
        synthetic.root, tmp_path / "run", "trainer.max_epochs=2", "checkpoint.every_steps=3", "checkpoint.keep=2"
    )
    stored = stored_checkpoints(tmp_path / "run" / "checkpoints")
    assert [step for step, _ in stored] == [16, 15]
    content = torch.load(stored[0][1], weights_only=True)
    assert content["fingerprint"]["batch.size"] == 12
