"""A real part of COCO, against what is counted from its json."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coco_sets import only_items, opened, read_all
from tiny_sets import SHARED_DATA

REAL = SHARED_DATA / "coco"


needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no COCO beside the repository")


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
