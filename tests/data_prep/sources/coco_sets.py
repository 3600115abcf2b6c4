"""Three made-up images in COCO's form, laid out in every way that its archives are found."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.source_config import CocoTask
from data_prep.sources.base import Items
from data_prep.sources.coco import CocoSource, open_coco

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
