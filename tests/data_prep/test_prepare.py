from __future__ import annotations

import io
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.shards.manifest import DataSet, read_data_set
from tiny_data import (
    SMALL_SHARDS,
    Pixels,
    prepare_here,
    prepare_pictures,
    random_pixels,
    rows_of,
    save_pixels,
    stored_image,
    tree,
    write_pictures,
)


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
@pytest.mark.slow
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


def test_preparation_and_its_check_never_import_torch() -> None:
    code = "import sys, data_prep.__main__, data_prep.verify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


SHUFFLE = "layout.pixel_shuffle_seed=3"


def test_every_image_has_its_pixels_shuffled_in_one_and_the_same_way(tmp_path: Path) -> None:
    """Each pixel keeps its channels; where one goes is told by an image whose pixels are all different."""
    folder = tmp_path / "pets"
    numbered = np.arange(64, dtype=np.uint8)[:, None].repeat(3, axis=1) * np.array([1, 2, 3], np.uint8)
    pictures = {
        name: random_pixels(number, height=8, width=8) for number, name in enumerate(("a", "b", "c"), start=1)
    } | {"numbered": numbered.reshape(8, 8, 3)}
    for split in ("train", "val"):
        for name, pixels in pictures.items():
            save_pixels(folder / split / "pet" / f"{name}.png", pixels)
    data_set = prepare_pictures(folder, tmp_path / "out", "layout.resolution=8", SHUFFLE)
    for split in ("train", "val"):
        stored = {
            Path(bytes(row["source_key"]).decode()).stem: np.frombuffer(stored_image(shard, row), np.uint8)[-192:]
            for shard, row in rows_of(data_set, split)
        }
        order = stored["numbered"].reshape(64, 3)[:, 0]
        assert sorted(order) == list(range(64))
        assert (order[:6] == [16, 23, 17, 8, 25, 0]).all()  # models that were trained on such data rely on it
        for name, pixels in pictures.items():
            assert (stored[name].reshape(64, 3) == pixels.reshape(64, 3)[order]).all()


@pytest.mark.slow
def test_each_option_changes_the_outcome(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    write_pictures(folder, num_each=2, size=12)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("cat", "dog", "owl"):
        Image.fromarray(random_pixels(1, height=8, width=16)).save(folder / name / "turned.jpg", exif=exif)
    layout = ("layout.resolution=6", "layout.fit=stretch", "layout.channels=grey", "layout.shard_bytes=1", SHUFFLE)
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
