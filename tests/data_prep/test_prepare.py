from __future__ import annotations

import io
import json
import logging
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep import prepare as prepare_module
from data_prep import shard_task
from data_prep.engines import local
from data_prep.folders import locked_folder
from data_prep.shard_task import ShardTask
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet, read_data_set
from tiny_data import (
    Pixels,
    prepare_here,
    prepare_pictures,
    random_pixels,
    rows_of,
    run_module,
    save_pixels,
    stored_image,
    tree,
    write_pictures,
)

# Four records of 64x64.
SMALL_SHARDS = "layout.shard_bytes=60000"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pets", num_each=8)
    return tmp_path / "pets"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are built from here on, by name."""
    names: list[str] = []

    def build(task: ShardTask, report: Callable[[int, int], None]) -> dict[str, Any]:
        names.append(f"{task.split}-{task.number}")
        return shard_task.build_shard(task, report)

    monkeypatch.setattr(local, "build_shard", build)
    return names


def test_every_picture_is_stored_once_with_its_class_and_pixels(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pets", num_each=20, size=5)
    data_set = prepare_pictures(tmp_path / "pets", tmp_path / "set", "layout.resolution=5", SMALL_SHARDS)
    found: dict[str, Pixels] = {}
    for split in data_set.splits:
        rows = rows_of(data_set, split)
        labels = [int(row["label"]) for _, row in rows]
        assert labels != sorted(labels)
        for shard, row in rows:
            key = bytes(row["source_key"]).decode()
            assert data_set.classes[row["label"]] == key.split("/")[0]
            assert key not in found
            stored = stored_image(shard, row)
            found[key] = np.frombuffer(stored, dtype=np.uint8, offset=64).reshape(5, 5, 3)
    assert found.keys() == pictures.keys()
    assert all(np.array_equal(found[key], pixels) for key, pixels in pictures.items())
    assert {name: split.num_samples for name, split in data_set.splits.items()} == {"train": 54, "val": 6}


@pytest.mark.parametrize("layout", ["packed", "encoded"])
def test_the_same_command_with_1_and_4_workers_gives_equal_trees(tmp_path: Path, pets: Path, layout: str) -> None:
    trees = []
    for workers in (1, 4, 1):
        out = tmp_path / "set"
        prepare_pictures(
            pets,
            out,
            f"layout={layout}",
            "layout.shard_bytes=15000",
            "layout.resolution=8",
            f"engine.workers={workers}",
        )
        trees.append(tree(out))
        shutil.rmtree(out)
    assert trees[0] == trees[1] == trees[2]
    assert sum(name.endswith(".tar") for name in trees[0]) >= 4
    assert not any(
        name.endswith(".receipt.json") or "part" in name.split(".")[-1:] or "lock" in name for name in trees[0]
    )


def test_a_finished_data_set_is_left_alone(tmp_path: Path, pets: Path, built: list[str]) -> None:
    out = tmp_path / "set"
    first = prepare_pictures(pets, out)
    before = tree(out), out.stat().st_mtime_ns
    built.clear()
    assert prepare_pictures(pets, out) == first
    assert (tree(out), out.stat().st_mtime_ns) == before
    assert built == []


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


@pytest.mark.parametrize("layout", ["layout=packed", "layout=encoded"])
def test_statistics_are_those_of_the_stored_pixels(tmp_path: Path, pets: Path, layout: str) -> None:
    data_set = prepare_pictures(pets, tmp_path / "set", layout, SMALL_SHARDS, "layout.resolution=8")
    pixels = np.concatenate([decoded(shard, row).reshape(-1, 3) for shard, row in rows_of(data_set, "train")])
    assert data_set.statistics is not None
    for stored, measured in (
        (data_set.statistics.mean, pixels.mean(axis=0, dtype=np.float64)),
        (data_set.statistics.std, pixels.std(axis=0, dtype=np.float64)),
    ):
        assert all(math.isclose(a, b, rel_tol=1e-12) for a, b in zip(stored, measured, strict=True))


def decoded(shard: Path, row: Any) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(stored_image(shard, row))))


def test_undecoded_images_have_no_statistics(tmp_path: Path, pets: Path) -> None:
    data_set = prepare_pictures(pets, tmp_path / "set", "layout=encoded", "layout.decode_check=false")
    assert data_set.statistics is None
    assert read_data_set(tmp_path / "set").statistics is None


def test_pictures_of_many_kinds_in_one_folder(tmp_path: Path) -> None:
    """CMYK, palette, grey, 16 bits, transparent, 1x1: all become records; the one that is too large is told."""
    folder = tmp_path / "kinds" / "all"
    folder.mkdir(parents=True)
    for mode, extension in (
        ("CMYK", "jpg"),
        ("P", "png"),
        ("L", "png"),
        ("RGBA", "png"),
        ("1", "bmp"),
        ("RGB", "webp"),
    ):
        Image.new(mode, (9, 7)).save(folder / f"{mode}.{extension}")
    Image.fromarray(np.full((7, 9), 40_000, dtype=np.uint16)).save(folder / "sixteen.png")
    save_pixels(folder / "dot.png", np.full((1, 1, 3), 77, dtype=np.uint8))
    (folder / "wrong-name.jpg").write_bytes((folder / "L.png").read_bytes())
    Image.new("RGB", (100, 101)).save(folder / "huge.png")
    options = ("layout.max_pixels=10000", "source.val_frac=0", "max_rejected=1", "layout.resolution=8")
    for layout in ("packed", "encoded"):
        data_set = prepare_pictures(tmp_path / "kinds", tmp_path / layout, f"layout={layout}", *options)
        assert data_set.split("train").num_samples == 9
        assert "all/huge.png" in (tmp_path / layout / "rejected.jsonl").read_text()
    sources = {bytes(row["source_key"]).decode(): (shard, row) for shard, row in rows_of(data_set, "train")}
    for name in ("P.png", "L.png", "RGBA.png", "RGB.webp", "sixteen.png", "dot.png", "wrong-name.jpg"):
        assert stored_image(*sources[f"all/{name}"]) == (folder / name).read_bytes()
    for name in ("CMYK.jpg", "1.bmp"):
        assert stored_image(*sources[f"all/{name}"]) != (folder / name).read_bytes()


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


def test_preparation_and_its_check_never_import_torch() -> None:
    code = "import sys, data_prep.__main__, data_prep.verify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_each_option_changes_the_outcome(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    write_pictures(folder, num_each=2, size=12)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("cat", "dog", "owl"):
        Image.fromarray(random_pixels(1, height=8, width=16)).save(folder / name / "turned.jpg", exif=exif)
    layout = ("layout.resolution=6", "layout.fit=stretch", "layout.channels=grey", "layout.shard_bytes=1")
    others = ("seed=0", "seed=1", "layout.exif_orientation=true", "source.val_frac=0.4", "layout=encoded")
    outcomes: dict[str, dict[str, bytes]] = {}
    for option in (*layout, *others):
        out = tmp_path / str(len(outcomes))
        prepare_pictures(folder, out, "layout.resolution=8", option)
        outcome = {name: content for name, content in tree(out).items() if name.endswith(".tar")}
        assert outcome not in outcomes.values(), option
        outcomes[option] = outcome


def test_synthetic_channels_and_seed_reach_the_shards(tmp_path: Path) -> None:
    sets: list[DataSet] = []
    for number, option in enumerate(("source.seed=0", "source.seed=1", "source.channels=1", "source.classes=2")):
        options = ("source=synthetic", "source.samples=9", "source.val_samples=3", "layout.resolution=4", option)
        sets.append(prepare_here(tmp_path / str(number), *options))
    assert len({each.split("train").manifest_sha256 for each in sets}) == 4
    assert sets[2].packed is not None
    assert sets[2].packed.channels == 1
    assert sets[3].classes == ("class-0000", "class-0001")
