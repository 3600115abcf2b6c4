"""Runs on a part of a split: what they read, on any ranks, after any resume, and what is told of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from pipeline.compose import compose
from pipeline.data.loader import Batch
from pipeline.data.subset import subset_ids
from pipeline.inspect import inspect
from pipeline.inspect_config import INSPECT_SCHEMAS
from pipeline.plan import make_plan
from pipeline.plan_config import PLAN_SCHEMAS
from pipeline.planning.rows import plan_text
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.sweeping.check_data import check_data, samples_of
from pipeline.sweeping.resolve import resolve
from pipeline.track.gap import GeneralisationGap
from runs import SMALL, assert_equal_weights, metric_rows, run_ranks, sample_ids, train_here
from synthetic_data import TRAIN_SAMPLES
from tiny_data import SMALL_SHARDS, prepare_pictures, write_pictures

PART = ("data.train_samples=40", "data.subset_seed=3", "log_sample_ids=true", "schedule=constant")
WINDOW = ("order=window", "order.lanes=2", "order.chunk_samples=5")
WANTED = subset_ids(num_samples=TRAIN_SAMPLES, wanted=40, seed=3).tolist()


def read_by(run_dir: Path) -> Counter[int]:
    """Return how often each sample was read."""
    return Counter(number for _, ids in sample_ids(run_dir) for number in ids)


@pytest.mark.parametrize("order", [(), WINDOW, ("data.memory_bytes=5000",)], ids=["full", "window", "paged"])
def test_a_run_reads_the_part_and_nothing_else(synthetic: DataSet, tmp_path: Path, order: tuple[str, ...]) -> None:
    summary = train_here(synthetic.root, tmp_path, *PART, *order, "batch.size=8", "trainer.max_epochs=3")
    assert (summary["steps"], summary["data"]["train_samples"]) == (15, 40)
    assert read_by(tmp_path) == dict.fromkeys(WANTED, 3)


def test_of_encoded_images_too_the_part_is_read(tmp_path: Path) -> None:
    write_pictures(tmp_path / "root", num_each=20, size=20)
    data = prepare_pictures(tmp_path / "root", tmp_path / "set", "layout=encoded", SMALL_SHARDS, "source.val_frac=0.2")
    options = ("data.resolution=8", "augment=resized_crop", "batch.size=4", "trainer.max_epochs=2")
    train_here(data.root, tmp_path / "run", *PART, *options, "data.train_samples=12")
    num_samples = data.split("train").num_samples
    assert read_by(tmp_path / "run") == dict.fromkeys(subset_ids(num_samples=num_samples, wanted=12, seed=3), 2)


def test_the_gap_is_measured_on_samples_of_the_part(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A padded full batch has more slots than samples: none of them counts twice."""
    asked: list[tuple[int, set[int]]] = []
    read = GeneralisationGap._read

    def spy(gap: GeneralisationGap, num_samples: int) -> list[Batch]:
        batches = read(gap, num_samples)
        ids = [int(number) for batch in batches for number in batch.sample_ids[batch.weights_B.numpy() > 0]]
        asked.append((len(ids), set(ids)))
        return batches

    monkeypatch.setattr(GeneralisationGap, "_read", spy)
    window = ("order=window", "order.lanes=4", "batch.size=full")
    train_here(synthetic.root, tmp_path, *PART, *window, "data.train_samples=10", "trainer.max_epochs=1")
    part = set(subset_ids(num_samples=TRAIN_SAMPLES, wanted=10, seed=3).tolist())
    assert asked[-1] == (10, part)


def test_the_full_batch_is_the_part(synthetic: DataSet, tmp_path: Path) -> None:
    summary = train_here(synthetic.root, tmp_path, *PART, "batch.size=full", "trainer.max_epochs=2")
    assert summary["steps"] == 2
    assert [sorted(ids) for _, ids in sample_ids(tmp_path)] == [WANTED, WANTED]


def test_a_run_goes_on_with_the_same_part_alone(synthetic: DataSet, tmp_path: Path) -> None:
    options = [*PART, "checkpoint.every_steps=1", "trainer.max_epochs=9"]
    train_here(synthetic.root, tmp_path / "whole", *options, "trainer.max_steps=12")
    for steps in (5, 12):
        train_here(synthetic.root, tmp_path / "parts", *options, f"trainer.max_steps={steps}", "resume=true")
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")
    assert sample_ids(tmp_path / "whole") == sample_ids(tmp_path / "parts")
    for other in ("data.train_samples=41", "data.subset_seed=4", "data.train_samples=null"):
        name = other.partition("=")[0] if "null" not in other else "data.train_samples"
        with pytest.raises(UserError, match=f"{name} was "):
            train_here(synthetic.root, tmp_path / "parts", *options, other, "trainer.max_steps=14", "resume=true")


def test_a_run_begun_before_the_option_existed_goes_on(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path, "trainer.max_steps=2", "schedule=constant")
    fingerprint = json.loads((tmp_path / "run.json").read_text())["fingerprint"]
    assert not {"data.train_samples", "data.subset_seed"} & set(fingerprint)


@pytest.mark.slow
def test_ranks_share_the_part_and_reach_the_same_losses(synthetic: DataSet, tmp_path: Path) -> None:
    options = (*PART, "batch.size=8", "trainer.max_epochs=2", "trainer.log_every_steps=1")
    train_here(synthetic.root, tmp_path / "one", *options)
    given = [f"data.path={synthetic.root}", f"run_dir={tmp_path / 'two'}", *SMALL, *options]
    run_ranks(2, "pipeline.train", *given)
    both = [
        a + b for (_, a), (_, b) in zip(sample_ids(tmp_path / "two"), sample_ids(tmp_path / "two", rank=1), strict=True)
    ]
    assert both == [ids for _, ids in sample_ids(tmp_path / "one")]
    losses = [
        [row["train/loss"] for row in metric_rows(tmp_path / run) if "train/loss" in row] for run in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_inspection_shows_the_batch_of_the_part(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path, *PART, "batch.size=8", "trainer.max_epochs=2")
    batch = inspect(compose("inspect", INSPECT_SCHEMAS, [f"run={tmp_path}", "step=7"]))
    assert [sample.sample_id for sample in batch.samples] == sample_ids(tmp_path)[6][1]
    assert batch.steps_per_epoch == 5


@pytest.mark.parametrize("order", [(), WINDOW], ids=["full", "window"])
def test_a_plan_is_that_of_the_part(synthetic: DataSet, order: tuple[str, ...]) -> None:
    options = [f"data.path={synthetic.root}", "batch.size=8", "data.train_samples=43", "model.width=8", *order]
    sections = make_plan(compose("plan", PLAN_SCHEMAS, options))
    values = {row.name: row.value for section in sections for row in section.rows}
    assert (values["steps per epoch"], values["dropped per epoch"]) == ("5", "3")
    assert ": 43 samples in" in plan_text(sections)
    assert ("2 lanes" in plan_text(sections)) == bool(order)


def test_more_samples_than_there_are_is_one_line_and_leaves_no_folder(synthetic: DataSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"data.train_samples=101: the split train of .* has {TRAIN_SAMPLES}"):
        train_here(synthetic.root, tmp_path / "run", f"data.train_samples={TRAIN_SAMPLES + 1}")
    assert not (tmp_path / "run").exists()


def test_a_sweep_knows_how_many_samples_there_are(synthetic: DataSet) -> None:
    options = [f"data.path={synthetic.root}", *SMALL, "data.train_samples=40"]
    assert samples_of(resolve(options)) == 40
    with pytest.raises(UserError, match=r"batch\.size=41 is over the 40 samples"):
        check_data(resolve([*options, "batch.size=41"]), ranks=1)
