"""COCO 2017, from the zips or the folders as they are distributed.

    source = open_coco("data/coco", task=CocoTask.multilabel, min_size=32)
    source.classes[:2], source.class_ids[:2]        # ("person", "bicycle"), ("1", "2")
    next(source.list_items("val")).labels[0]        # [0, 56, 58, 60, 62, 68, 72, 73, 74, 75]: what is on the image

Pictures are `train2017.zip`, `val2017.zip` or folders of these names; annotations are `annotations_trainval2017.zip`
or the json files. A split exists where both its pictures and its annotations do. Nothing is unpacked to disk.

- multilabel: one item an image, with the class numbers of its objects; an image without any is kept. A crowd box
  counts: its things are on the image.
- crops: one item an object, its box cut out; crowd boxes and boxes with a side under `min_size` are left out.

Class numbers go by ascending category id, COCO's own order; ids have gaps (80 categories, ids up to 90).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from data_prep.archives.zip import read_zip_entry
from data_prep.source_config import CocoTask
from data_prep.sources.base import Items, Rejected
from data_prep.sources.coco_annotations import Annotations, parse_annotations, parse_captions
from data_prep.sources.coco_files import PICTURE_NAMES, Picture, Place, find_places, read_annotations
from data_prep.sources.rows import MAX_IMAGE_BYTES, Row, check_image_bytes, gathered, read_image_file
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.task import Task
from pipeline.storage import Store, open_store

logger = logging.getLogger(__name__)

# An item whose picture is not there has no path.
NOWHERE = Picture(path="", offset=0, size_bytes=0)


def open_coco(root: str, *, task: CocoTask, min_size: int) -> CocoSource:
    """Open COCO below a folder or URL; what is there is looked up when it is first asked for.

    Args:
        root: the folder or URL that holds the archives, as http://images.cocodataset.org does.
        task: one item an image, or one an object.
        min_size: the shorter side, in pixels, that an object's box must have; for crops.
    """
    return CocoSource(open_store(root), task=task, min_size=min_size)


class CocoSource:
    """COCO, opened."""

    native_shape = None

    def __init__(self, store: Store, *, task: CocoTask, min_size: int) -> None:
        self._store = store
        self._crops = task is CocoTask.crops
        self._min_size = min_size
        self._parsed: dict[str, Annotations] = {}

    @property
    def name(self) -> str:
        """COCO 2017, or its objects."""
        return "COCO 2017 objects" if self._crops else "COCO 2017"

    @property
    def task(self) -> Task:
        """One class an object, any number of them an image."""
        return Task.classification if self._crops else Task.multilabel

    @property
    def classes(self) -> tuple[str, ...]:
        """The categories' names by ascending id."""
        return self._annotations(self.splits[0]).classes

    @property
    def class_ids(self) -> tuple[str, ...]:
        """The categories' ids."""
        return tuple(map(str, self._annotations(self.splits[0]).class_ids))

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of train and val that have pictures and annotations."""
        return tuple(self._places)

    def list_items(self, split: str) -> Iterator[Items]:
        """List images by ascending id, or their objects by image and then by ascending id.

        Raises:
            UserError: the annotations are not of COCO's form, or none of the pictures that they list is there.
        """
        place, annotations = self._places[split], self._annotations(split)
        num_missing = sum(name not in place.pictures for name in annotations.file_names)
        told = f"{num_missing:,} of the {len(annotations.file_names):,} pictures listed in {place.instances}"
        if num_missing == len(annotations.file_names):
            raise UserError(f"{self._store.location}: {told} are not in {PICTURE_NAMES[split]}; are they of one set?")
        if num_missing:
            logger.warning("%s: %s are not in %s", self._store.location, told, PICTURE_NAMES[split])
        captions = {}
        if place.captions:
            captions = parse_captions(read_annotations(self._store, place.captions), where=str(place.captions))
        rows = self._object_rows if self._crops else self._image_rows
        yield from gathered(rows(annotations, place.pictures, captions))

    def read(self, *, path: str, offset: int, size_bytes: int) -> bytes:
        """Return a picture's bytes.

        Raises:
            Rejected: it is in the annotations only, or damaged in the zip.
            UserError: the files are not what they were when they were listed.
        """
        if path == NOWHERE.path:
            raise Rejected("listed in the annotations, not in the archive")
        check_image_bytes(size_bytes)
        if path.endswith(".zip"):
            try:
                return read_zip_entry(
                    self._store, path, offset=offset, size_bytes=size_bytes, max_bytes=MAX_IMAGE_BYTES
                )
            except DamageError as error:
                raise Rejected(str(error)) from None
        return read_image_file(self._store, path, size_bytes=size_bytes)

    @cached_property
    def _places(self) -> dict[str, Place]:
        return find_places(self._store)

    def _annotations(self, split: str) -> Annotations:
        if split not in self._parsed:
            file = self._places[split].instances
            parsed = parse_annotations(read_annotations(self._store, file), where=str(file))
            for name, other in self._parsed.items():
                if (other.classes, other.class_ids) != (parsed.classes, parsed.class_ids):
                    raise UserError(f"{file}: its categories are not those of {name}; get the file again")
            self._parsed[split] = parsed
        return self._parsed[split]

    def _image_rows(
        self, annotations: Annotations, pictures: Mapping[str, Picture], captions: Mapping[int, list[str]]
    ) -> Iterator[Row]:
        for image, file_name in enumerate(annotations.file_names):
            objects = annotations.objects_of(image)
            labels = annotations.labels[objects].tolist()
            details = _image_details(annotations, image, captions) | {
                "boxes": annotations.boxes[objects].tolist(),
                "box_labels": labels,
                "box_crowds": annotations.crowds[objects].tolist(),
            }
            picture = pictures.get(file_name, NOWHERE)
            yield Row(sorted(set(labels)), file_name, *picture, details=json.dumps(details, ensure_ascii=False))

    def _object_rows(
        self, annotations: Annotations, pictures: Mapping[str, Picture], captions: Mapping[int, list[str]]
    ) -> Iterator[Row]:
        for image, file_name in enumerate(annotations.file_names):
            objects = annotations.objects_of(image)
            width, height = annotations.sizes[image].tolist()
            for object_id, label, box, crowd in zip(
                annotations.object_ids[objects].tolist(),
                annotations.labels[objects].tolist(),
                annotations.boxes[objects].tolist(),
                annotations.crowds[objects].tolist(),
                strict=True,
            ):
                pixels = whole_pixels(box, width=width, height=height)
                if crowd or min(pixels[2:]) < self._min_size:
                    continue
                details = _image_details(annotations, image, captions) | {"annotation_id": object_id, "box": box}
                yield Row(
                    label,
                    f"{file_name}/{object_id}",
                    *pictures.get(file_name, NOWHERE),
                    box=pixels,
                    details=json.dumps(details, ensure_ascii=False),
                )


def _image_details(annotations: Annotations, image: int, captions: Mapping[int, list[str]]) -> dict[str, Any]:
    image_id = int(annotations.image_ids[image])
    return {"image_id": image_id} | ({"captions": captions[image_id]} if image_id in captions else {})


def whole_pixels(box: Sequence[float], *, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the pixels that a box touches inside an image: left, top, width, height; sizes 0 where it touches none.

    [10.2, 5.0, 3.5, 2.0] touches columns 10 to 13 and rows 5 to 6: (10, 5, 4, 2).
    """
    # COCO's numbers have two decimals; the rounding keeps 0.1 + 639.9 from touching column 640.
    left, top = min(max(math.floor(box[0]), 0), width), min(max(math.floor(box[1]), 0), height)
    right = min(max(math.ceil(round(box[0] + box[2], 6)), left), width)
    bottom = min(max(math.ceil(round(box[1] + box[3], 6)), top), height)
    return left, top, right - left if box[2] else 0, bottom - top if box[3] else 0
