"""A tiny data set in COCO's own form that a model can learn: four classes, one to each quarter of the image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.shards.manifest import DataSet
from tiny_data import prepare_here, random_pixels, save_pixels

CLASSES = ("bell", "cup", "fork", "hat")
SIDE = 16
COUNTS = {"train": 96, "val": 41}


def write_coco(root: Path) -> dict[str, list[list[int]]]:
    """Write pictures and annotations and return the labels of each split's images; some images have none."""
    rng = np.random.default_rng(3)
    labels: dict[str, list[list[int]]] = {}
    for split, count in COUNTS.items():
        images: list[dict[str, Any]] = []
        objects: list[dict[str, Any]] = []
        labels[split] = []
        for number in range(count):
            present = np.flatnonzero(rng.random(4) < 0.4).tolist()
            pixels = random_pixels(number + 1000 * len(labels), height=SIDE, width=SIDE) // 4
            for label in present:
                top, left = 8 * (label // 2), 8 * (label % 2)
                pixels[top : top + 8, left : left + 8] += 190
                # Two objects of a class are one label; category ids have gaps.
                objects += [
                    {"id": 2 * len(objects) + k, "image_id": number, "category_id": 10 * label + 3, "iscrowd": 0}
                    | {"bbox": [left, top, 8, 8]}
                    for k in (1, 2)
                ]
            name = f"{number:012d}.png"
            save_pixels(root / f"{split}2017" / name, pixels)
            images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
            labels[split].append(present)
        categories = [{"id": 10 * label + 3, "name": name} for label, name in enumerate(CLASSES)]
        content = {"images": images, "annotations": objects, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return labels


def make_coco(folder: Path, *options: str) -> tuple[DataSet, dict[str, list[list[int]]]]:
    """Prepare it in several shards; packed at 8x8, if options say nothing else."""
    labels = write_coco(folder / "root")
    shards = "layout.shard_bytes=60000"
    layout = () if "layout=encoded" in options else ("layout.resolution=8",)
    return prepare_here(
        folder / "set", "source=coco", f"source.root={folder / 'root'}", shards, *layout, *options
    ), labels
