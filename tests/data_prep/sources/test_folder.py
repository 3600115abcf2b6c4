from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources.folder import FolderSource, open_folder
from pipeline.shards.errors import UserError
from tiny_sets import list_all


def write_tree(root: Path, keys: Iterable[str]) -> Path:
    for key in keys:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(key.encode())
    return root


def listed(source: FolderSource) -> dict[str, dict[str, str]]:
    """Return class name by source key, by split; each item is read and its bytes are its own key."""
    found: dict[str, dict[str, str]] = {}
    for split in source.splits:
        items = list_all(source, split)
        found[split] = {}
        for key, path, label, size_bytes in zip(
            items.source_keys, items.paths, items.labels, items.sizes_bytes, strict=True
        ):
            assert source.read(path=path, offset=0, size_bytes=int(size_bytes)) == key.encode()
            found[split][key] = source.classes[label]
        assert items.source_keys == sorted(items.source_keys, key=str.encode)
    return found


EXTENSIONS = ("jpg", "jpeg", "PNG", "webp", "Bmp", "gif", "tif", "TIFF", "ppm", "pgm")
PLAIN = [f"{name}/{number:03d}.jpg" for name in ("cat", "dog", "émeu") for number in range(40)]


def test_plain_class_folders_are_split_by_a_hash_of_the_path(tmp_path: Path) -> None:
    source = open_folder(write_tree(tmp_path / "pets", PLAIN), val_frac=0.25)
    assert (source.name, source.native_shape, source.classes) == ("pets", None, ("cat", "dog", "émeu"))
    found = listed(source)
    assert found["train"].keys().isdisjoint(found["val"])
    assert found["train"] | found["val"] == {key: key.partition("/")[0] for key in PLAIN}
    assert [list(found["val"].values()).count(name) for name in source.classes] == [10, 10, 10]
    # Which they are looks random, and is another choice in every class.
    chosen = [{key[-7:] for key in found["val"] if key.startswith(name)} for name in ("cat", "dog")]
    assert chosen[0] != chosen[1]
    assert chosen[0] != {f"{number:03d}.jpg" for number in range(10)}


def test_neither_order_nor_split_depends_on_the_file_system(tmp_path: Path) -> None:
    shuffled = random.Random(3).sample(PLAIN, len(PLAIN))
    first = open_folder(write_tree(tmp_path / "a", PLAIN), val_frac=0.1)
    second = open_folder(write_tree(tmp_path / "b", shuffled), val_frac=0.1)
    assert listed(first) == listed(second)
    assert list_all(first, "train").source_keys == list_all(second, "train").source_keys


def test_more_images_move_few_of_the_old_ones_between_splits(tmp_path: Path) -> None:
    keys = [f"a/{number}.png" for number in range(200)]
    before = set(list_all(open_folder(write_tree(tmp_path, keys), val_frac=0.1), "val").source_keys)
    write_tree(tmp_path, [f"a/new{number}.png" for number in range(20)])
    after = set(list_all(open_folder(tmp_path, val_frac=0.1), "val").source_keys)
    assert len(before - after) <= 4


@pytest.mark.parametrize(
    ("num_images", "val_frac", "num_val"),
    [(1, 0.9, 0), (2, 0.1, 1), (10, 0.1, 1), (30, 0.1, 3), (100, 0.07, 7), (11, 0.1, 2), (40, 0.0, 0), (3, 0.99, 2)],
)
def test_the_share_is_rounded_up_but_never_takes_the_last_image(
    tmp_path: Path, num_images: int, val_frac: float, num_val: int
) -> None:
    write_tree(tmp_path, [f"a/{number}.png" for number in range(num_images)])
    source = open_folder(tmp_path, val_frac=val_frac)
    assert len(list_all(source, "val")) == num_val
    assert len(list_all(source, "train")) == num_images - num_val
    assert source.splits == (("train", "val") if num_val else ("train",))


@pytest.mark.parametrize("val_name", ["val", "validation", "test"])
def test_train_and_val_folders_are_taken_as_they_are(tmp_path: Path, val_name: str) -> None:
    keys = ["train/b/1.jpg", "train/a/deep/er/1.PNG", "train/a/2.jpeg"]
    val_keys = [f"{val_name}/b/1.jpg"]
    source = open_folder(write_tree(tmp_path, keys + val_keys), val_frac=0.5)
    assert source.classes == ("a", "b")
    assert listed(source) == {"train": {key: key.split("/")[1] for key in keys}, "val": {val_keys[0]: "b"}}


def test_train_without_val_holds_some_out(tmp_path: Path) -> None:
    source = open_folder(write_tree(tmp_path, [f"train/{key}" for key in PLAIN]), val_frac=0.1)
    assert source.classes == ("cat", "dog", "émeu")
    assert {split: len(list_all(source, split)) for split in source.splits} == {"train": 108, "val": 12}


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    source = open_folder(write_tree(tmp_path, ["train/1.jpg", "train/2.jpg", "car/1.jpg"]), val_frac=0)
    assert source.classes == ("car", "train")


def test_every_image_extension_counts_in_any_case_and_nothing_else_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [f"a/{n}.{e}" for n, e in enumerate(EXTENSIONS)]
    others = ["a/x.txt", "a/y.txt", "a/README", "a/jpg", "b/notes.md", "loose.jpg"]
    hidden = ["a/.hidden.jpg", ".cache/z.jpg", "a/.git/1.jpg"]
    source = open_folder(write_tree(tmp_path, images + others + hidden), val_frac=0)
    assert list(listed(source)["train"]) == sorted(images)
    assert source.classes == ("a",)
    (message,) = caplog.messages
    assert "5 files that are no images by their extension (txt: 2, none: 2, md: 1)" in message
    assert "1 images outside any class folder" in message
    assert "1 class folders without images (b)" in message


def test_a_val_class_unknown_to_train_is_named(tmp_path: Path) -> None:
    source = open_folder(write_tree(tmp_path, ["train/a/1.jpg", "val/a/1.jpg", "val/zebra/1.jpg"]), val_frac=0)
    with pytest.raises(UserError, match=r"val/zebra: a class that train/ does not have"):
        list_all(source, "train")


def test_folders_beside_train_and_val_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_folder(write_tree(tmp_path, ["train/a/1.jpg", "val/a/1.jpg", "test/a/1.jpg", "extra/a/1.jpg"]), val_frac=0)
    assert "beside train and val, left out: extra, test" in caplog.text


def test_nothing_to_read_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such folder"):
        open_folder(tmp_path / "nowhere", val_frac=0.1)
    with pytest.raises(UserError, match=r"the folder is empty"):
        open_folder(tmp_path, val_frac=0.1)
    write_tree(tmp_path, ["a/x.txt"])
    with pytest.raises(UserError, match=r"no image found in .*class folders with images in them are wanted"):
        open_folder(tmp_path, val_frac=0.1)
    write_tree(tmp_path, ["1.jpg"])
    with pytest.raises(UserError, match=r"images lie beside each other; class folders"):
        open_folder(tmp_path, val_frac=0.1)
    with pytest.raises(UserError, match=r"a file; give the folder"):
        open_folder(tmp_path / "1.jpg", val_frac=0.1)


def test_links_inside_the_tree_are_items_and_all_others_are_refused_by_name(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", ["a/1.jpg", "b/1.jpg"])
    write_tree(tmp_path, ["secret/1.jpg"])
    link = root / "a" / "2.jpg"
    link.symlink_to("../b/1.jpg")
    assert list_all(open_folder(root, val_frac=0), "train").source_keys == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
    for target, is_folder, reason in (
        (tmp_path / "secret" / "1.jpg", False, "a/2.jpg: a link that leads out of"),
        (Path("/etc/passwd"), False, "a/2.jpg: a link that leads out of"),
        (Path("../../secret"), True, "a/2.jpg: a link to a folder"),
        (Path("..") / "a", True, "a/2.jpg: a link to a folder"),
        (Path("nothing.jpg"), False, "a/2.jpg: a link to nothing"),
        (Path("2.jpg"), False, "a/2.jpg: a link to nothing"),
    ):
        link.unlink()
        link.symlink_to(target, target_is_directory=is_folder)
        with pytest.raises(UserError, match=reason):
            list_all(open_folder(root, val_frac=0), "train")


def test_a_link_whose_neighbour_s_name_begins_like_the_root_s_leads_out(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", ["a/1.jpg"])
    write_tree(tmp_path / "root-2", ["a/1.jpg"])
    (root / "a" / "2.jpg").symlink_to(tmp_path / "root-2" / "a" / "1.jpg")
    with pytest.raises(UserError, match="leads out"):
        list_all(open_folder(root, val_frac=0), "train")


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    write_tree(tmp_path / "real", ["a/1.jpg"])
    (tmp_path / "link").symlink_to("real")
    assert len(list_all(open_folder(tmp_path / "link", val_frac=0), "train")) == 1


def test_a_name_that_is_not_utf_8_is_refused_printably(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a/1.jpg"])
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff\n.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(UserError, match=r"not UTF-8; rename it") as caught:
        list_all(open_folder(tmp_path, val_frac=0), "train")
    assert str(caught.value).isprintable()


def test_pipes_and_sockets_are_left_alone(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a/1.jpg"])
    os.mkfifo(tmp_path / "a" / "2.jpg")
    assert len(list_all(open_folder(tmp_path, val_frac=0), "train")) == 1


@pytest.mark.parametrize("path", ["../secret.jpg", "a/../../secret.jpg", "/etc/passwd"])
def test_reading_outside_the_root_is_refused(tmp_path: Path, path: str) -> None:
    root = write_tree(tmp_path / "root", ["a/1.jpg"])
    write_tree(tmp_path, ["secret.jpg"])
    with pytest.raises(UserError, match="leads out of"):
        open_folder(root, val_frac=0).read(path=path, offset=0, size_bytes=10)


def test_an_image_that_changed_or_went_since_it_was_listed_is_told(tmp_path: Path) -> None:
    source = open_folder(write_tree(tmp_path, ["a/1.jpg"]), val_frac=0)
    for size_bytes in (6, 8):
        with pytest.raises(UserError, match=rf"a/1.jpg: is no longer the {size_bytes} bytes"):
            source.read(path="a/1.jpg", offset=0, size_bytes=size_bytes)
    (tmp_path / "a" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"a/1.jpg: cannot be read"):
        source.read(path="a/1.jpg", offset=0, size_bytes=7)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.floats(0, 0.99))
def test_held_out_and_kept_are_a_partition_for_any_sizes(sizes: list[int], val_frac: float) -> None:
    from data_prep.sources.folder import _hold_out, _Image

    images = {f"c{n}": [_Image(f"c{n}/{i}", i) for i in range(size)] for n, size in enumerate(sizes)}
    train, val = _hold_out(images, val_frac=val_frac)
    for name, size in zip(images, sizes, strict=True):
        assert sorted([*train[name], *val[name]], key=lambda image: image.size_bytes) == images[name]
        assert len(train[name]) >= 1
        assert abs(len(val[name]) - val_frac * size) <= 1


def test_labels_are_the_ranks_of_the_class_names(tmp_path: Path) -> None:
    source = open_folder(write_tree(tmp_path, ["b/1.jpg", "B/1.jpg", "a-/1.jpg", "a/1.jpg"]), val_frac=0)
    assert source.classes == ("B", "a", "a-", "b")
    items = list_all(source, "train")
    assert items.source_keys == ["B/1.jpg", "a-/1.jpg", "a/1.jpg", "b/1.jpg"]
    np.testing.assert_array_equal(items.labels, [0, 2, 1, 3])
