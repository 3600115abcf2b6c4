"""The same command typed again: after its end, after a crash, with other options, at the same time."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from data_prep import prepare as prepare_module
from data_prep.folders import locked_folder
from pipeline.shards.errors import UserError
from tiny_data import SMALL_SHARDS, prepare_pictures, run_module, tree


def test_a_finished_data_set_is_left_alone(tmp_path: Path, pets: Path, built: list[str]) -> None:
    out = tmp_path / "set"
    first = prepare_pictures(pets, out)
    before = tree(out), out.stat().st_mtime_ns
    built.clear()
    assert prepare_pictures(pets, out) == first
    assert (tree(out), out.stat().st_mtime_ns) == before
    assert built == []


def test_a_finished_data_set_can_be_on_a_read_only_disk(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    first = prepare_pictures(pets, out)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    for name in ("unlink", "mkdir", "write_bytes", "rename"):
        monkeypatch.setattr(Path, name, refuse)
    assert prepare_pictures(pets, out) == first


def test_finished_shards_are_not_built_again(
    tmp_path: Path, pets: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_pictures(pets, tmp_path / "whole", SMALL_SHARDS)
    out, all_built = tmp_path / "set", list(built)
    built.clear()

    class PulledPlug(BaseException):
        pass

    def stop(*_: object, **__: object) -> None:
        raise PulledPlug

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "finish", stop)
        with pytest.raises(PulledPlug):
            prepare_pictures(pets, out, SMALL_SHARDS)
    assert built == all_built
    built.clear()
    (out / "train" / "shard-000001.tar").unlink()
    shard = out / "train" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    (out / "plan" / "val-000000.receipt.json").write_text("{")
    prepare_pictures(pets, out, SMALL_SHARDS)
    assert built == ["train-0", "train-1", "val-0"]
    assert tree(out) == tree(tmp_path / "whole")


def test_what_a_run_killed_after_the_last_file_left_behind_goes(tmp_path: Path, pets: Path) -> None:
    out = tmp_path / "set"
    prepare_pictures(pets, out)
    before = tree(out)
    (out / "plan" / "train-000000.receipt.json").write_text("{}")
    prepare_pictures(pets, out)
    assert tree(out) == before


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("seed=1", "seed=0, now seed=1"),
        ("layout.resolution=9", "layout.resolution=None, now layout.resolution=9"),
        ("layout=encoded", "layout.kind=packed, now layout.kind=encoded"),
        ("source.val_frac=0.5", "source.val_frac=0.1, now source.val_frac=0.5"),
    ],
)
def test_another_choice_into_the_same_folder_is_refused_by_name(
    tmp_path: Path, pets: Path, option: str, told: str
) -> None:
    out = tmp_path / "set"
    prepare_pictures(pets, out)
    before = tree(out)
    with pytest.raises(UserError, match=f"was begun with {told}; choose another out"):
        prepare_pictures(pets, out, option)
    (out / "dataset.json").unlink()
    with pytest.raises(UserError, match=f"was begun with {told}; choose another out"):
        prepare_pictures(pets, out, option)
    assert {**tree(out), "dataset.json": before["dataset.json"]} == before


def test_images_that_changed_before_the_end_make_it_begin_again(
    tmp_path: Path, pets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad image ends a run; it is removed, and the same command typed again."""
    out = tmp_path / "set"
    (pets / "cat" / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cat/bad\.png: not a JPEG.*mend or remove"):
        prepare_pictures(pets, out, SMALL_SHARDS)
    assert not (out / "dataset.json").exists()
    (pets / "cat" / "bad.png").unlink()
    with caplog.at_level(logging.INFO):
        prepare_pictures(pets, out, SMALL_SHARDS)
    assert "beginning again" in caplog.text
    prepare_pictures(pets, tmp_path / "new", SMALL_SHARDS)
    assert tree(out) == tree(tmp_path / "new")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"choices": 3, "splits": {}}'])
def test_a_damaged_plan_is_told(tmp_path: Path, pets: Path, content: bytes) -> None:
    out = tmp_path / "set"
    prepare_pictures(pets, out)
    (out / "plan" / "plan.json").write_bytes(content)
    with pytest.raises(UserError, match=r"plan\.json: damaged"):
        prepare_pictures(pets, out)


def test_a_second_preparation_at_the_same_time_is_refused_and_harms_nothing(tmp_path: Path, pets: Path) -> None:
    out = tmp_path / "set"
    (out / "plan").mkdir(parents=True)
    (out / "plan" / ".train.parquet.part").write_bytes(b"the first one is planning")
    with locked_folder(out, busy="", wait=False):
        ended = run_module("data_prep", "source=folder", f"source.root={pets}", f"out={out}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: out={out}: another preparation is writing there\n"
    assert tree(out) == {"plan/.train.parquet.part": b"the first one is planning"}
    prepare_pictures(pets, out)
    assert not list(out.rglob(".*"))
