"""Event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import run_tracking
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.track.follower import FollowerOptions, start_follower
from pipeline.track.following import follow
from pipeline.track.metric_log import MetricLog
from pipeline.track.run_reading import read_run
from runs import train_here
from wandb_files import log_run, png_of

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.track.tensorboard_tracker import TensorBoardTracker, markdown


def opened(folder: Path) -> EventAccumulator:
    """Return TensorBoard's reader of a run, with everything that it finds kept."""
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0, "images": 0})


def show(folder: Path) -> None:
    follow(folder, TensorBoardTracker(folder), is_ended=lambda: True)


def assert_same(shown: list[tuple[int, float]], expected: list[tuple[int, float]]) -> None:
    """Assert equal steps, and values equal but for being stored as float32."""
    assert [step for step, _ in shown] == [step for step, _ in expected]
    assert [value for _, value in shown] == pytest.approx([value for _, value in expected])


def scalars(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_numbers_pictures_and_tables_are_those_of_the_record(tmp_path: Path) -> None:
    log_run(tmp_path, last_step=200, is_finished=True)
    log = MetricLog(tmp_path, resume_step=200)
    log.table(step=210, name="val/per_class", columns=["class", "n"], rows=[["a|b", 1], [None, 0.5]], caption="all")
    log.close()
    show(tmp_path)
    events = opened(tmp_path).Reload()
    for key, series in read_run(tmp_path).series.items():
        expected = [(s, v) for s, v in zip(series.steps, series.values, strict=True) if v is not None]
        assert_same(scalars(events, key), expected)
    pictures = events.Tensors("model/first_layer")
    assert [event.step for event in pictures] == [100, 200]
    assert [list(event.tensor_proto.string_val) for event in pictures] == [
        [b"4", b"2", png_of(step)] for step in (100, 200)
    ]
    assert events.SummaryMetadata("model/first_layer").plugin_data.plugin_name == "images"
    (text,) = events.Tensors("val/per_class")
    assert text.tensor_proto.string_val[0].decode() == "all\n\n| class | n |\n| --- | --- |\n| a\\|b | 1 |\n|  | 0.5 |"
    assert events.SummaryMetadata("val/per_class").plugin_data.plugin_name == "text"


def test_a_run_that_goes_on_has_each_step_once_also_for_a_tensorboard_that_is_open(tmp_path: Path) -> None:
    log_run(tmp_path, last_step=150, is_finished=False)
    show(tmp_path)
    events = opened(tmp_path).Reload()
    assert [step for step, _ in scalars(events, "train/loss")] == list(range(10, 151, 10))
    log_run(tmp_path, last_step=300, resume_step=90, is_finished=True, loss=7.0)
    show(tmp_path)
    expected = [(step, (1.0 if step <= 90 else 7.0) / step) for step in range(10, 301, 10)]
    assert_same(scalars(events.Reload(), "train/loss"), expected)
    assert_same(scalars(opened(tmp_path).Reload(), "train/loss"), expected)
    assert sum(path.stat().st_size > 0 for path in (tmp_path / "tensorboard").iterdir()) == 1


def test_what_is_damaged_is_left_out_and_what_is_linked_is_left_alone(tmp_path: Path) -> None:
    log_run(tmp_path, last_step=200, is_finished=True)
    (tmp_path / "media" / "model-first_layer-00000100.png").write_bytes(b"no picture")
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.0").symlink_to(tmp_path / "thesis.tex")
    show(tmp_path)
    assert [event.step for event in opened(tmp_path).Reload().Tensors("model/first_layer")] == [200]
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_of_a_long_table_the_first_rows_are_shown_and_the_others_counted() -> None:
    text = markdown(["n"], [[number] for number in range(1234)])
    assert text.count("\n| ") == 201
    assert text.endswith("| 199 |\n\nand 1,034 more rows")


def test_the_process_writes_what_is_logged(tmp_path: Path) -> None:
    options = FollowerOptions(
        folder=str(tmp_path), tracker="tensorboard", finish_s=60, world_size=1, parent=os.getpid()
    )
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    log = MetricLog(tmp_path, resume_step=0, open_view=lambda: start_follower(options))
    for step in range(1, 51):
        log.write(step=step, row={"train/loss": 1 / step})
    log.close()
    assert_same(scalars(opened(tmp_path).Reload(), "train/loss"), [(step, 1 / step) for step in range(1, 51)])


@pytest.mark.slow
def test_a_training_writes_all_of_its_metrics(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path / "run", "logger=tensorboard", "trainer.max_epochs=2")
    events = opened(tmp_path / "run").Reload()
    assert set(events.Tags()["scalars"]) == set(read_run(tmp_path / "run").series)


def test_without_the_package_it_is_refused_before_anything_is_made(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tracking, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="logger=tensorboard: tensorboard is not installed; install it with"):
        train_here(synthetic.root, tmp_path / "run", "logger=tensorboard")
    assert not (tmp_path / "run").exists()
