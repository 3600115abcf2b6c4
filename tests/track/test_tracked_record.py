"""The record of a run: cut where it goes on, whole after a kill, read by others while it is written."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.shards.errors import UserError
from pipeline.track import media
from pipeline.track.media import Medium
from pipeline.track.metric_log import MetricLog
from pipeline.track.record_tail import MetricRow, RecordTail
from pipeline.track.run_reading import find_runs, read_run
from pipeline.track.step_rows import StepRows, read_rows

PNG = b"\x89PNG and so on"


def write_record(folder: Path, *, steps: int = 6, resume_step: int = 0) -> None:
    """Log a row and, at even steps, a picture and a table, up to `steps`."""
    (folder / "config.yaml").write_text("seed: 0\n")
    log = MetricLog(folder, resume_step=resume_step)
    for step in range(resume_step + 1, steps + 1):
        if step % 2 == 0:
            log.picture(step=step, name="model/first_layer", png=PNG + b"%d" % step, caption=f"at {step}")
            log.table(step=step, name="val/per_class", columns=["class", "n"], rows=[["cat", step]], caption="")
        log.write(step=step, row={"train/loss": 1 / step, "epoch": step / 10})
    log.close()


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Have the kernel refuse what would make any file of this process larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_run_that_goes_on_has_each_step_once(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        folder.mkdir()
    write_record(whole, steps=9)
    write_record(resumed, steps=7)
    write_record(resumed, steps=9, resume_step=4)
    for name in ("metrics.jsonl", "media.jsonl"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name: path.read_bytes() for path in (resumed / "media").iterdir()} == {
        path.name: path.read_bytes() for path in (whole / "media").iterdir()
    }


def test_a_run_that_goes_on_removes_nothing_from_its_media_but_what_it_made(tmp_path: Path) -> None:
    """The folder may be a link to one that holds more."""
    write_record(tmp_path, steps=4)
    (tmp_path / "media" / "thesis.tex").write_text("years of work")
    (tmp_path / "media" / "backup-00000004.png").mkdir()
    write_record(tmp_path, steps=2, resume_step=2)
    assert sorted(path.name for path in (tmp_path / "media").iterdir()) == [
        "backup-00000004.png",
        "model-first_layer-00000002.png",
        "thesis.tex",
        "val-per_class-00000002.json",
    ]


def test_wherever_a_kill_tears_the_record_what_is_read_is_how_it_began(tmp_path: Path) -> None:
    write_record(tmp_path)
    content = (tmp_path / "metrics.jsonl").read_bytes()
    whole = list(read_rows(tmp_path / "metrics.jsonl"))
    assert [row["step"] for row in whole] == [1, 2, 3, 4, 5, 6]
    for length in range(len(content)):
        (tmp_path / "metrics.jsonl").write_bytes(content[:length])
        read = list(read_rows(tmp_path / "metrics.jsonl"))
        assert read == whole[: len(read)]
        assert content[:length].count(b"\n") <= len(read) <= content[:length].count(b"\n") + 1


def test_on_a_full_disk_rows_wait_and_then_stand_in_order(tmp_path: Path) -> None:
    rows = StepRows(tmp_path / "metrics.jsonl", resume_step=0)
    with files_of_at_most(40):
        for step in range(1, 11):
            rows.append({"step": step})
        assert (tmp_path / "metrics.jsonl").stat().st_size == 40
    rows.append({"step": 11})
    rows.close()
    assert list(read_rows(tmp_path / "metrics.jsonl")) == [{"step": step} for step in range(1, 12)]


def test_a_picture_for_which_there_is_no_room_is_left_out_of_the_list_too(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, resume_step=0)
    with files_of_at_most(10):
        log.picture(step=1, name="model/first_layer", png=PNG, caption="")
    log.picture(step=2, name="model/first_layer", png=PNG, caption="")
    log.close()
    assert [medium.step for medium in media.read_media(tmp_path)] == [2]
    assert len(list((tmp_path / "media").iterdir())) == 1


def test_what_is_no_finite_number_is_null_in_the_record_and_none_in_the_series(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    log = MetricLog(tmp_path, resume_step=0)
    log.write(step=1, row={"train/loss": math.nan, "grad/norm": math.inf, "epoch": 1})
    log.close()
    assert "NaN" not in log.path.read_text()
    series = read_run(tmp_path).series
    assert (series["train/loss"].values, series["grad/norm"].values, series["epoch"].values) == ([None], [None], [1])


@pytest.mark.parametrize("name", ["loss", "../x/y", "a/../b c", "/a/b", "a//b", "A/b", ""])
def test_names_are_what_and_which(tmp_path: Path, name: str) -> None:
    log = MetricLog(tmp_path, resume_step=0)
    with pytest.raises(ValueError, match="what/which"):
        log.picture(step=1, name=name, png=PNG, caption="")
    log.close()


@pytest.mark.parametrize(
    "row",
    [
        {"file": "../secret.png"},
        {"file": "link.png"},
        {"file": "gone.png"},
        {"file": ".."},
        {"file": "x" * 5000},
        {"file": 3},
        {"name": "no slash"},
        {"kind": "film"},
        {"caption": None},
        {"step": True},
        {"step": "1"},
    ],
)
def test_a_foreign_row_of_media_is_left_out(tmp_path: Path, row: dict[str, Any]) -> None:
    write_record(tmp_path, steps=2)
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "media" / "link.png").symlink_to(tmp_path / "secret.png")
    sound = {"step": 2, "kind": "picture", "name": "a/b", "file": "model-first_layer-00000002.png", "caption": ""}
    for added in (sound, sound | row):
        with (tmp_path / "media.jsonl").open("a") as stream:
            stream.write(json.dumps(added) + "\n")
    names = [medium.name for medium in media.read_media(tmp_path)]
    assert names == ["model/first_layer", "val/per_class", "a/b"]


def test_a_folder_without_a_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config.yaml, so no run"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_text("[1, 2]")
    with pytest.raises(UserError, match="not the config of a run"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_text("a: {")
    with pytest.raises(UserError, match="cannot be read"):
        read_run(tmp_path)


def test_runs_are_found_at_any_depth_and_not_through_links(tmp_path: Path) -> None:
    for name in ("0001", "sweeps/0001/0002"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "latest").symlink_to("0001")
    assert list(find_runs(tmp_path)) == [tmp_path / "0001", tmp_path / "sweeps/0001/0002"]
    assert list(find_runs(tmp_path / "0001")) == [tmp_path / "0001"]


def test_followed_are_finite_numbers_alone_of_rows_that_are_rows(tmp_path: Path) -> None:
    lines = [
        '{"step": 1, "a": 1, "b": NaN, "c": null, "d": -Infinity, "e": "text", "f": true, "g": 1' + 400 * "0" + "}",
        '{"step": 2, "a": ' + 10_000 * "[" + 10_000 * "]" + "}",
        '{"step": 3, "a": 3.5}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    tail = RecordTail(tmp_path)
    assert tail.read() == [MetricRow(step=1, values={"a": 1}), MetricRow(step=3, values={"a": 3.5})]
    tail.close()


@pytest.mark.parametrize("seed", range(5))
def test_a_record_followed_in_pieces_is_the_same_entries(tmp_path: Path, seed: int) -> None:
    """Files grow by any number of bytes between two reads; media are written before the row of their step."""
    source, grown = tmp_path / "source", tmp_path / "grown"
    for folder in (source, grown):
        folder.mkdir()
    write_record(source)
    (grown / "media").symlink_to(source / "media")
    contents = {name: (source / name).read_bytes() for name in ("media.jsonl", "metrics.jsonl")}
    written = dict.fromkeys(contents, 0)
    random = np.random.default_rng(seed)
    tail = RecordTail(grown)
    pieces = []
    while any(written[name] < len(content) for name, content in contents.items()):
        name = str(random.choice(list(contents)))
        written[name] += int(random.integers(0, 80))
        (grown / name).open("ab").close()
        with (grown / name).open("r+b") as stream:
            stream.write(contents[name][: written[name]])
        pieces.append(tail.read())
    tail.close()
    assert all([entry.step for entry in piece] == sorted(entry.step for entry in piece) for piece in pieces)
    entries = [entry for piece in pieces for entry in piece]
    rows = [entry for entry in entries if isinstance(entry, MetricRow)]
    assert [(row.step, row.values) for row in rows] == [
        (step, {"train/loss": 1 / step, "epoch": step / 10}) for step in range(1, 7)
    ]
    shown = [(entry.step, entry.name) for entry in entries if isinstance(entry, Medium)]
    assert shown == [(step, name) for step in (2, 4, 6) for name in ("model/first_layer", "val/per_class")]


def test_one_that_follows_reads_on_in_the_record_it_knew_when_another_attempt_cuts_it(tmp_path: Path) -> None:
    write_record(tmp_path, steps=5)
    tail = RecordTail(tmp_path)
    before = [entry.step for entry in tail.read() if isinstance(entry, MetricRow)]
    write_record(tmp_path, steps=4, resume_step=2)
    assert before == [1, 2, 3, 4, 5]
    assert tail.read() == []
    tail.close()
