"""What preparation will not take: bad images, empty sources, other people's folders, too small a disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.shards.errors import UserError
from tiny_data import SMALL_SHARDS, prepare_pictures, rows_of, tree, write_pictures


def put_bad(pets: Path, *keys: str) -> None:
    for key in keys:
        (pets / key).write_bytes(b"no image")


def test_bad_images_up_to_max_rejected_are_left_out_and_listed(tmp_path: Path, pets: Path) -> None:
    put_bad(pets, "cat/a.png", "owl/b.png")
    with pytest.raises(UserError, match=r"2 bad items are more than max_rejected=1.*max_rejected=2"):
        prepare_pictures(pets, tmp_path / "set", "max_rejected=1", "source.val_frac=0")
    data_set = prepare_pictures(pets, tmp_path / "set", "max_rejected=2", "source.val_frac=0")
    listed = [json.loads(line) for line in (tmp_path / "set" / "rejected.jsonl").read_text().splitlines()]
    assert {row["source_key"] for row in listed} == {"cat/a.png", "owl/b.png"}
    assert all(row["split"] == "train" and row["reason"].startswith("not a JPEG") for row in listed)
    assert (data_set.num_rejected, data_set.split("train").num_samples) == (2, 24)
    assert not {b"cat/a.png", b"owl/b.png"} & {bytes(row["source_key"]) for _, row in rows_of(data_set, "train")}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.slow
def test_a_shard_whose_every_image_is_bad_is_left_out(tmp_path: Path, workers: int) -> None:
    pets = tmp_path / "pets"
    write_pictures(pets, num_each=4, classes=("cat",))
    put_bad(pets, *(f"cat/bad-{number}.png" for number in range(4)))
    options = ("layout.shard_bytes=1", "max_rejected=4", "source.val_frac=0", f"engine.workers={workers}")
    data_set = prepare_pictures(pets, tmp_path / "set", *options)
    shards = data_set.split("train").shards
    assert [shard.num_samples for shard in shards] == [1, 1, 1, 1]
    stored = {path.name for path in (tmp_path / "set" / "train").iterdir()}
    assert stored == {"manifest.json"} | {path.name for shard in shards for path in (shard.path, shard.index_path)}


def test_a_split_whose_every_image_is_bad_is_an_error(tmp_path: Path, pets: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(pets, tmp_path / "both" / split)
    for path in (tmp_path / "both" / "val").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="every image of split 'val' was rejected; the first: empty file"):
        prepare_pictures(tmp_path / "both", tmp_path / "set", "max_rejected=99")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.mkdir(), "the folder is empty"),
        (lambda root: (root / "cat").mkdir(parents=True), "no image found"),
        (lambda root: root.write_bytes(b""), "a file; give the folder"),
    ],
    ids=["missing", "empty", "class without images", "a file"],
)
def test_a_source_without_images_leaves_nothing_behind(
    tmp_path: Path, make: Callable[[Path], object], told: str
) -> None:
    make(tmp_path / "pets")
    with pytest.raises(UserError, match=told):
        prepare_pictures(tmp_path / "pets", tmp_path / "new" / "set")
    assert not (tmp_path / "new").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path, pets: Path) -> None:
    out = tmp_path / "set"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty and not begun by data_prep"):
        prepare_pictures(pets, out)
    assert tree(out) == {"thesis.tex": b"years of work"}
    with pytest.raises(UserError, match="cannot be written to"):
        prepare_pictures(pets, out / "thesis.tex")
    with pytest.raises(UserError, match="cannot be written to"):
        prepare_pictures(pets, out / "thesis.tex" / "below")


def test_too_little_disk_is_told_before_any_work(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch, built: list[str]
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(UserError, match=r"GB wanted, 5e-06 GB free on its disk; free some space"):
        prepare_pictures(pets, tmp_path / "new" / "set")
    assert built == []
    assert not (tmp_path / "new").exists()


def test_the_check_of_the_disk_counts_what_is_built_already(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    whole = prepare_pictures(pets, tmp_path / "whole", SMALL_SHARDS, "source.val_frac=0")
    put_bad(pets, "owl/007.png")
    with pytest.raises(UserError, match="bad items"):
        prepare_pictures(pets, out, SMALL_SHARDS, "source.val_frac=0")
    stored_bytes = sum(path.stat().st_size for path in (out / "train").glob("*.tar"))
    wanted_bytes = sum(shard.size_bytes for shard in whole.split("train").shards)
    assert 0 < stored_bytes < wanted_bytes
    free = shutil.disk_usage(tmp_path)._replace(free=wanted_bytes - stored_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(UserError, match="bad items"):
        prepare_pictures(pets, out, SMALL_SHARDS, "source.val_frac=0")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=free.free - 1))
    with pytest.raises(UserError, match="GB free"):
        prepare_pictures(pets, out, SMALL_SHARDS, "source.val_frac=0")
