from __future__ import annotations

import copy
import json
import math
import zipfile
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.config import CocoTask
from data_prep.sources.base import Items, Rejected
from data_prep.sources.coco import CocoSource, open_coco, whole_pixels
from data_prep.sources.coco_annotations import parse_annotations, parse_captions
from pipeline.shards.errors import UserError
from pipeline.shards.task import Task
from served import served
from tiny_sets import SHARED_DATA

REAL = SHARED_DATA / "coco"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no COCO beside the repository")

Json = dict[str, Any]


def tiny_annotations() -> Json:
    """Three images, the last without objects; ids have gaps and stand in no order."""
    return {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"id": 42, "file_name": "000000000042.jpg", "width": 40, "height": 30, "license": 1},
            {"id": 7, "file_name": "000000000007.jpg", "width": 20, "height": 20},
            {"id": 50, "file_name": "000000000050.jpg", "width": 9, "height": 9},
        ],
        "annotations": [
            {"id": 5, "image_id": 42, "category_id": 90, "bbox": [10.2, 5.0, 3.5, 2.0], "iscrowd": 0, "area": 7.0},
            {
                "id": 900,
                "image_id": 7,
                "category_id": 1,
                "bbox": [1, 2, 10, 12],
                "iscrowd": 0,
                "segmentation": [[1, 2]],
            },
            {"id": 3, "image_id": 42, "category_id": 90, "bbox": [0, 0, 40, 30], "iscrowd": 0},
            {"id": 8, "image_id": 42, "category_id": 13, "bbox": [5, 5, 20, 20], "iscrowd": 1},
            {"id": 4, "image_id": 42, "category_id": 1, "bbox": [30.5, 20.5, 100, 100], "iscrowd": 0},
        ],
        "categories": [
            {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
            {"id": 1, "name": "person"},
            {"id": 13, "name": "stop sign"},
        ],
    }


def tiny_captions() -> Json:
    return {
        "info": {},
        "images": [],
        "annotations": [
            {"id": 2, "image_id": 42, "caption": "Zwei Bürsten"},
            {"id": 1, "image_id": 42, "caption": "two brushes"},
        ],
    }


def picture(name: str) -> bytes:
    return b"picture " + name.encode()


def write_zip(path: Path, members: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def zips(root: Path, files: dict[str, bytes], annotations: dict[str, Json]) -> None:
    write_zip(
        root / "val2017.zip", {"val2017/": b"", **{f"val2017/{name}": content for name, content in files.items()}}
    )
    jsons = {f"annotations/{name}": json.dumps(content).encode() for name, content in annotations.items()}
    write_zip(root / "annotations_trainval2017.zip", jsons, method=zipfile.ZIP_DEFLATED)


def folders(root: Path, files: dict[str, bytes], annotations: dict[str, Json], *, below: str = "annotations/") -> None:
    for name, content in files.items():
        (root / "val2017").mkdir(parents=True, exist_ok=True)
        (root / "val2017" / name).write_bytes(content)
    for name, facts in annotations.items():
        (root / below).mkdir(parents=True, exist_ok=True)
        (root / below / name).write_text(json.dumps(facts))


def as_published(root: Path, files: dict[str, bytes], annotations: dict[str, Json]) -> None:
    """Lay the zips out as http://images.cocodataset.org has them."""
    zips(root, files, annotations)
    for name, folder in (("val2017.zip", "zips"), ("annotations_trainval2017.zip", "annotations")):
        (root / folder).mkdir()
        (root / name).rename(root / folder / name)


def beside(root: Path, files: dict[str, bytes], annotations: dict[str, Json]) -> None:
    folders(root, files, annotations, below="")


Layout = Callable[[Path, dict[str, bytes], dict[str, Json]], None]
LAYOUTS: list[Layout] = [zips, folders, as_published, beside]


def write_tiny(root: Path, *, layout: Layout = zips, missing: tuple[str, ...] = (), **changed: Json) -> str:
    annotations = {"instances_val2017.json": tiny_annotations(), "captions_val2017.json": tiny_captions()}
    annotations |= {f"{name}.json": content for name, content in changed.items()}
    names = [image["file_name"] for image in annotations["instances_val2017.json"]["images"]]
    layout(root, {name: picture(name) for name in names if name not in missing}, annotations)
    return str(root)


def opened(root: str | Path, *, crops: bool = False, min_size: int = 1) -> CocoSource:
    return open_coco(str(root), task=CocoTask.crops if crops else CocoTask.multilabel, min_size=min_size)


def only_items(source: CocoSource, split: str = "val") -> Items:
    (items,) = source.list_items(split)
    return items


def read_all(source: CocoSource, items: Items) -> list[bytes]:
    rows = zip(items.paths, items.offsets, items.sizes_bytes, strict=True)
    return [source.read(path=path, offset=int(offset), size_bytes=int(size)) for path, offset, size in rows]


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


@needs_real
def test_real_multilabel_items_are_those_counted_from_the_json(tmp_path: Path) -> None:
    source = opened(REAL)
    with zipfile.ZipFile(REAL / "annotations_trainval2017.zip") as archive:
        facts = json.loads(archive.read("annotations/instances_val2017.json"))
    items = only_items(source)
    assert source.splits == ("val",)
    assert len(source.classes) == 80
    assert list(source.classes) == [category["name"] for category in facts["categories"]]
    names = {category["id"]: category["name"] for category in facts["categories"]}
    wanted = {image["file_name"]: set() for image in facts["images"]}
    files = {image["id"]: image["file_name"] for image in facts["images"]}
    for row in facts["annotations"]:
        wanted[files[row["image_id"]]].add(names[row["category_id"]])
    assert isinstance(items.labels, list)
    found = {
        key: {source.classes[n] for n in label} for key, label in zip(items.source_keys, items.labels, strict=True)
    }
    assert found == wanted
    assert len(found) == 188
    assert sum(not labels for labels in found.values()) == 2
    assert all(label == sorted(set(label)) for label in items.labels)
    with zipfile.ZipFile(REAL / "val2017.zip") as archive:
        assert read_all(source, items) == [archive.read(f"val2017/{key}") for key in items.source_keys]
    assert items.details is not None
    assert sum(len(json.loads(text)["boxes"]) for text in items.details) == 1692
    assert sum(sum(json.loads(text)["box_crowds"]) for text in items.details) == 20


@needs_real
@pytest.mark.parametrize("min_size", [1, 32])
def test_real_crops_are_those_counted_from_the_json(min_size: int) -> None:
    source = opened(REAL, crops=True, min_size=min_size)
    with zipfile.ZipFile(REAL / "annotations_trainval2017.zip") as archive:
        facts = json.loads(archive.read("annotations/instances_val2017.json"))
    sizes = {image["id"]: (image["width"], image["height"]) for image in facts["images"]}
    names = {category["id"]: category["name"] for category in facts["categories"]}
    wanted: Counter[str] = Counter()
    for row in facts["annotations"]:
        x, y, w, h = row["bbox"]
        # Columns and rows of the pixel grid that the box overlaps, one by one.
        columns = sum(x < column + 1 and x + w > column for column in range(sizes[row["image_id"]][0]))
        rows = sum(y < line + 1 and y + h > line for line in range(sizes[row["image_id"]][1]))
        if not row["iscrowd"] and min(columns, rows) >= min_size:
            wanted[names[row["category_id"]]] += 1
    items = only_items(source)
    assert Counter(source.classes[label] for label in np.asarray(items.labels)) == wanted
    assert min_size > 1 or len(items) == 1692 - 20
    assert items.boxes is not None
    for content, box, key in list(zip(read_all(source, items), items.boxes, items.source_keys, strict=True))[::50]:
        with Image.open(BytesIO(content)) as image:
            assert box[0] + box[2] <= image.width, key
            assert box[1] + box[3] <= image.height, key


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


def broken(path: str, value: Any) -> Json:
    """Return the tiny annotations with one place changed, as in images.0.id; a value of ... removes it."""
    facts: Any = copy.deepcopy(tiny_annotations())
    at = facts
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    for part in parents:
        at = at[part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return dict(facts)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("images", ..., "has no images"),
        ("images", {}, "images: a list of objects"),
        ("images", None, "images: a list of objects"),
        ("images.1", [], r"images\[1\]: list"),
        ("images.1.id", ..., r"images\[1\]\.id: missing"),
        ("images.1.id", "7", r"images\[1\]\.id: '7'"),
        ("images.1.id", 7.0, r"images\[1\]\.id: 7\.0"),
        ("images.1.id", True, r"images\[1\]\.id: True"),
        ("images.1.id", -1, r"images\[1\]\.id: -1"),
        ("images.1.id", 10**30, r"images\[1\]\.id: 1000"),
        ("images.1.id", 42, r"images\[\]\.id: 42 stands there twice"),
        ("images.1.file_name", "000000000042.jpg", r"file_name: one stands there twice"),
        ("images.1.file_name", "", r"images\[1\]\.file_name: ''"),
        ("images.1.file_name", "x" * 2000, r"images\[1\]\.file_name: 'xxx"),
        ("images.1.file_name", "\ud800.jpg", r"images\[1\]\.file_name: '\\ud800"),
        ("images.1.file_name", 3, r"images\[1\]\.file_name: 3"),
        ("images.1.width", 0, r"images\[1\]\.width: 0"),
        ("images.1.height", 1e99, r"images\[1\]\.height: 1e\+99"),
        ("annotations", ..., "has no annotations"),
        ("annotations.2.id", 5, r"annotations\[\]\.id: 5 stands there twice"),
        ("annotations.2.image_id", 43, r"image_id: 43 \(annotations\[2\]\): there is no such image"),
        ("annotations.2.category_id", 2, r"category_id: 2 \(annotations\[2\]\): there is no such category"),
        ("annotations.2.iscrowd", 2, r"annotations\[2\]\.iscrowd: 2"),
        ("annotations.2.bbox", ..., r"annotations\[2\]\.bbox: missing"),
        ("annotations.2.bbox", [1, 2, 3], r"annotations\[2\]\.bbox: \[1, 2, 3\]"),
        ("annotations.2.bbox", [1, 2, 3, "4"], r"annotations\[2\]\.bbox"),
        ("annotations.2.bbox", [1, 2, 3, True], r"annotations\[2\]\.bbox"),
        ("annotations.2.bbox", [math.nan, 2, 3, 4], r"annotations\[2\]\.bbox: \[nan"),
        ("annotations.2.bbox", [1, math.inf, 3, 4], r"annotations\[2\]\.bbox"),
        ("annotations.2.bbox", [1, 2, -3, 4], r"annotations\[2\]\.bbox: \[1, 2, -3, 4\]"),
        ("annotations.2.bbox", [1, 2, 3, 10**400], r"annotations\[2\]\.bbox"),
        ("annotations.2.bbox", [1e300, 2, 3, 4], r"annotations\[2\]\.bbox"),
        ("categories", [], r"categories\[\]\.name: no class"),
        ("categories.1.id", 90, r"categories\[\]\.id: 90 stands there twice"),
        ("categories.1.name", "stop sign", r"both called 'stop sign'"),
        ("categories.1.name", ..., r"categories\[\]\.name: class 0 is None"),
        ("categories.1.name", "a\nb", r"class 0 is 'a\\nb'"),
        ("categories", [{"id": n, "name": str(n)} for n in range(100_001)], r"categories: more than 100,000"),
    ],
)
def test_each_wrong_field_is_named(path: str, value: Any, message: str) -> None:
    content = json.dumps(broken(path, value)).encode()
    with pytest.raises(UserError, match=message) as raised:
        parse_annotations(iter([content]), where="instances.json")
    assert str(raised.value).startswith("instances.json: ")


def test_images_without_any_object_are_an_empty_table_of_objects() -> None:
    parsed = parse_annotations(iter([json.dumps(broken("annotations", [])).encode()]), where="a.json")
    assert [len(parsed.labels[parsed.objects_of(image)]) for image in range(3)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1, "image_id": 1}, r"annotations\[0\]\.caption: missing"),
        ({"id": 1, "image_id": 1, "caption": "\ud800"}, "caption"),
        ({"id": 1, "image_id": 1, "caption": "x" * 10_001}, "caption"),
        ({"id": None, "image_id": 1, "caption": "x"}, "id: None"),
        ({"id": 1, "image_id": [], "caption": "x"}, "image_id"),
    ],
)
def test_each_wrong_caption_is_named(row: Json, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_captions(iter([json.dumps({"annotations": [row]}).encode()]), where="captions.json")


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 100) | st.floats() | st.sampled_from([10**20, "", "x", "1"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "image_id", "category_id", "bbox", "name", "file_name"]), inner)
    ),
    max_leaves=6,
)


def places(value: Any, before: str = "") -> list[str]:
    """Return the path of everything below a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [f"{before}.{key}".lstrip(".") for key, _ in inner]
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += places(item, f"{before}.{key}".lstrip("."))
    return found


@settings(max_examples=1000)
@given(path=st.sampled_from(places(tiny_annotations())), value=junk | st.just(...), cut=st.none() | st.integers(0, 900))
def test_any_change_gives_annotations_that_hold_together_or_a_one_line_error(
    path: str, value: Any, cut: int | None
) -> None:
    content = json.dumps(broken(path, value)).encode()[:cut]
    try:
        parsed = parse_annotations(iter([content]), where="a.json")
    except UserError as error:
        message = str(error)
    else:
        message = "a.json: fine"
        assert np.all((parsed.labels >= 0) & (parsed.labels < len(parsed.classes)))
        assert np.all(np.isfinite(parsed.boxes))
        assert np.all(parsed.boxes[:, 2:] >= 0)
        assert parsed.object_starts[-1] == len(parsed.labels)
        assert len(set(parsed.file_names)) == len(parsed.file_names) == len(parsed.image_ids)
    assert message.startswith("a.json: ")
    assert "\n" not in message
