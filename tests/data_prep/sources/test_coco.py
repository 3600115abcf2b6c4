from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coco_sets import (
    LAYOUTS,
    Layout,
    as_published,
    folders,
    only_items,
    opened,
    picture,
    read_all,
    tiny_annotations,
    write_tiny,
    write_zip,
)
from data_prep.sources.base import Rejected
from data_prep.sources.coco import whole_pixels
from pipeline.shards.errors import UserError
from pipeline.shards.task import Task
from served import served


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_come_by_ascending_id_with_all_their_classes(tmp_path: Path, layout: Layout) -> None:
    source = opened(write_tiny(tmp_path, layout=layout))
    assert (source.name, source.task, source.splits) == ("COCO 2017", Task.multilabel, ("val",))
    assert source.classes == ("person", "stop sign", "toothbrush")
    assert source.class_ids == ("1", "13", "90")
    items = only_items(source)
    names = ["000000000007.jpg", "000000000042.jpg", "000000000050.jpg"]
    assert items.source_keys == names
    assert items.labels == [[0], [0, 1, 2], []]  # the crowd counts
    assert items.boxes is None
    assert read_all(opened(tmp_path), items) == [picture(name) for name in names]
    assert items.details is not None
    assert list(map(json.loads, items.details)) == [
        {"image_id": 7, "boxes": [[1, 2, 10, 12]], "box_labels": [0], "box_crowds": [False]},
        {
            "image_id": 42,
            "captions": ["two brushes", "Zwei Bürsten"],
            "boxes": [[0, 0, 40, 30], [30.5, 20.5, 100, 100], [10.2, 5, 3.5, 2], [5, 5, 20, 20]],
            "box_labels": [2, 0, 2, 1],
            "box_crowds": [False, False, False, True],
        },
        {"image_id": 50, "boxes": [], "box_labels": [], "box_crowds": []},
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_crops_are_the_objects_clipped_to_whole_pixels_of_the_image(tmp_path: Path, layout: Layout) -> None:
    source = opened(write_tiny(tmp_path, layout=layout), crops=True)
    assert source.task is Task.classification
    items = only_items(source)
    assert items.source_keys == [f"0000000000{key}" for key in ("07.jpg/900", "42.jpg/3", "42.jpg/4", "42.jpg/5")]
    assert items.boxes is not None
    assert items.boxes.tolist() == [[1, 2, 10, 12], [0, 0, 40, 30], [30, 20, 10, 10], [10, 5, 4, 2]]
    assert np.asarray(items.labels).tolist() == [0, 2, 0, 2]
    assert read_all(source, items)[1:] == 3 * [picture("000000000042.jpg")]
    assert items.details is not None
    assert json.loads(items.details[3]) == {
        "image_id": 42,
        "captions": ["two brushes", "Zwei Bürsten"],
        "annotation_id": 5,
        "box": [10.2, 5, 3.5, 2],
    }


@pytest.mark.parametrize(("min_size", "ids"), [(2, [900, 3, 4, 5]), (3, [900, 3, 4]), (10, [900, 3, 4]), (11, [3])])
def test_min_size_is_the_least_shorter_side(tmp_path: Path, min_size: int, ids: list[int]) -> None:
    items = only_items(opened(write_tiny(tmp_path), crops=True, min_size=min_size))
    assert [int(key.rpartition("/")[2]) for key in items.source_keys] == ids


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("crops", [False, True])
def test_a_picture_that_is_not_there_is_rejected_by_name(
    tmp_path: Path, layout: Layout, crops: bool, caplog: pytest.LogCaptureFixture
) -> None:
    source = opened(write_tiny(tmp_path, layout=layout, missing=("000000000042.jpg",)), crops=crops)
    items = only_items(source)
    assert "1 of the 3 pictures listed in" in caplog.text
    assert len(items) == (4 if crops else 3)
    with pytest.raises(Rejected, match="listed in the annotations, not in the archive"):
        source.read(path=items.paths[1], offset=int(items.offsets[1]), size_bytes=int(items.sizes_bytes[1]))


def test_a_damaged_picture_in_the_zip_is_rejected(tmp_path: Path) -> None:
    source = opened(write_tiny(tmp_path))
    items = only_items(source)
    content = bytearray((tmp_path / "val2017.zip").read_bytes())
    content[content.index(picture("000000000042.jpg"))] ^= 1
    (tmp_path / "val2017.zip").write_bytes(content)
    with pytest.raises(Rejected, match="CRC-32"):
        read_all(opened(tmp_path), items)


def test_a_damaged_byte_of_the_zipped_annotations_never_passes(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    whole = (tmp_path / "annotations_trainval2017.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "annotations_trainval2017.zip") as archive:
        start = archive.getinfo("annotations/instances_val2017.json").header_offset + 30
        end = start + archive.getinfo("annotations/instances_val2017.json").compress_size
    for at in range(start + 40, end, 7):
        (tmp_path / "annotations_trainval2017.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError, match="instances_val2017"):
            only_items(opened(tmp_path))


def test_a_split_without_pictures_or_without_annotations_is_none_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_tiny(tmp_path, instances_train2017=tiny_annotations())
    assert opened(root).splits == ("val",)
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: no train2017.zip or train2017/: no split train"
    ]
    caplog.clear()
    other = tmp_path / "other"
    write_tiny(other)
    write_zip(other / "train2017.zip", {"train2017/1.jpg": b"1"})
    assert opened(other).splits == ("val",)
    assert [record.message for record in caplog.records] == [f"{other}: no instances_train2017.json: no split train"]


def test_both_splits_come_train_first_and_must_agree_about_classes(tmp_path: Path) -> None:
    root = write_tiny(tmp_path, instances_train2017=tiny_annotations())
    names = [image["file_name"] for image in tiny_annotations()["images"]]
    write_zip(tmp_path / "train2017.zip", {f"train2017/{name}": b"train" for name in names})
    source = opened(root)
    assert source.splits == ("train", "val")
    assert read_all(source, only_items(source, "train")) == 3 * [b"train"]
    other = tiny_annotations()
    other["categories"][0]["name"] = "comb"
    folders(tmp_path, {}, {"instances_val2017.json": other})
    source = opened(root)
    only_items(source, "train")
    with pytest.raises(UserError, match="its categories are not those of train"):
        only_items(source, "val")


def test_no_listed_picture_at_all_is_an_error(tmp_path: Path) -> None:
    root = write_tiny(tmp_path, missing=tuple(image["file_name"] for image in tiny_annotations()["images"]))
    write_zip(tmp_path / "val2017.zip", {"val2017/other.jpg": b"1"})
    with pytest.raises(UserError, match=r"3 of the 3 pictures .* are not in val2017; are they of one set"):
        only_items(opened(root))


def test_nothing_there_says_where_it_can_be_had_and_what_to_type(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "no"):
        with pytest.raises(UserError) as raised:
            _ = opened(root).splits
        for part in (
            str(root),
            "train2017.zip (or train2017/)",
            "annotations_trainval2017.zip",
            "http://images.cocodataset.org/zips/val2017.zip",
            "curl ",
            f'make prepare-data ARGS="source=coco source.root={root} ',
        ):
            assert part in str(raised.value)
        assert "\n" not in str(raised.value)


def test_the_zips_may_lie_on_a_server(tmp_path: Path) -> None:
    write_tiny(tmp_path, layout=as_published)
    local = opened(tmp_path)
    with served(tmp_path) as url:
        remote = opened(url)
        assert only_items(remote).labels == only_items(local).labels
        assert read_all(remote, only_items(remote)) == read_all(local, only_items(local))


def test_opening_and_reading_parse_no_annotations(tmp_path: Path) -> None:
    """Worker processes open the source anew."""
    items = only_items(opened(write_tiny(tmp_path)))
    (tmp_path / "annotations_trainval2017.zip").unlink()
    assert read_all(opened(tmp_path), items)[0] == picture("000000000007.jpg")


@given(
    box=st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(0, 60), st.floats(0, 60)).map(
        lambda box: tuple(round(number, 2) for number in box)
    ),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
)
def test_whole_pixels_are_those_that_the_box_overlaps(
    box: tuple[float, float, float, float], width: int, height: int
) -> None:
    left, top, crop_width, crop_height = whole_pixels(box, width=width, height=height)
    for start, length, low, size, side in (
        (left, crop_width, box[0], box[2], width),
        (top, crop_height, box[1], box[3], height),
    ):
        low_cents, high_cents = round(low * 100), round((low + size) * 100)
        wanted = [n for n in range(side) if low_cents < 100 * (n + 1) and high_cents > 100 * n and size > 0]
        assert list(range(start, start + length)) == wanted
        assert 0 <= start <= side
