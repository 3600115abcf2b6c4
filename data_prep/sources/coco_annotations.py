"""COCO's annotation files as columns, checked: nothing in them is trusted.

    annotations = parse_annotations(pieces, where="instances_val2017.json")
    annotations.classes[:2]                     # ("person", "bicycle"), by ascending category id
    annotations.file_names[0]                   # "000000000139.jpg", by ascending image id
    annotations.objects_of(0)                   # slice(0, 20): its objects' rows in `boxes`, `labels`, `crowds`
    captions = parse_captions(pieces, where="captions_val2017.json")
    captions[139]                               # ["A woman stands in the dining area at the table.", ...]

The format: https://cocodataset.org/#format-data. Segmentations are skipped.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.sources.classes import MAX_CLASSES, checked_classes
from data_prep.sources.json_stream import iterate_fields
from data_prep.sources.spelling import is_utf8, shown
from pipeline.shards.errors import UserError

MAX_ID = 1 << 53
MAX_SIDE = 1 << 24
MAX_FILE_NAME_CHARS = 1000
MAX_CAPTION_CHARS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """The images of an instances file, by ascending id, and their objects, by image and then by ascending id.

    Attributes:
        class_ids: category ids, ascending; not contiguous in COCO.
        classes: category names; a label is an index into them.
        image_ids: int64 (images,).
        file_names: of each image.
        sizes: int64 (images, 2), width and height in pixels.
        object_starts: int64 (images + 1,), where each image's objects begin.
        object_ids: int64 (objects,).
        labels: int64 (objects,), class numbers.
        boxes: float64 (objects, 4), left, top, width and height in pixels; finite, sizes at least 0.
        crowds: bool (objects,), True where one box holds many objects.
    """

    class_ids: tuple[int, ...]
    classes: tuple[str, ...]
    image_ids: npt.NDArray[np.int64]
    file_names: list[str]
    sizes: npt.NDArray[np.int64]
    object_starts: npt.NDArray[np.int64]
    object_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    crowds: npt.NDArray[np.bool_]

    def objects_of(self, image: int) -> slice:
        """Return the rows of an image's objects."""
        return slice(int(self.object_starts[image]), int(self.object_starts[image + 1]))


def parse_annotations(pieces: Iterator[bytes], *, where: str) -> Annotations:
    """Parse an instances file.

    Args:
        pieces: the file's bytes in order, cut anywhere.
        where: the file's name, for errors.

    Raises:
        UserError: not JSON, or a field that is missing, of another type, out of range, or an id or a file name that
            stands twice or refers to nothing; the message names the field.
    """
    images, objects, categories = array("q"), array("q"), array("q")
    sizes, boxes = array("q"), array("d")
    file_names: list[str] = []
    names: list[Any] = []
    for field, row in _rows(pieces, where=where, fields=("images", "annotations", "categories")):
        match field:
            case "images":
                images.append(row.integer("id"))
                file_names.append(row.text("file_name", max_chars=MAX_FILE_NAME_CHARS))
                sizes.extend((row.integer("width", 1, MAX_SIDE), row.integer("height", 1, MAX_SIDE)))
            case "annotations":
                crowd = row.integer("iscrowd", 0, 1, default=0)
                objects.extend((row.integer("image_id"), row.integer("id"), row.integer("category_id"), crowd))
                boxes.extend(row.box("bbox"))
            case "categories":
                if len(names) >= MAX_CLASSES:
                    raise UserError(f"{where}: categories: more than {MAX_CLASSES:,}; refused")
                categories.append(row.integer("id"))
                names.append(row.value.get("name"))
    category_order, category_ids = _sorted_ids(categories, where=f"{where}: categories[].id")
    classes = checked_classes([names[number] for number in category_order], where=f"{where}: categories[].name")
    image_order, image_ids = _sorted_ids(images, where=f"{where}: images[].id")
    if len(set(file_names)) < len(file_names):
        raise UserError(f"{where}: images[].file_name: one stands there twice; get the file again")
    columns = np.array(objects, dtype=np.int64).reshape(-1, 4)
    image_rows = _places(columns[:, 0], image_ids, where=f"{where}: annotations[].image_id", what="image")
    labels = _places(columns[:, 2], category_ids, where=f"{where}: annotations[].category_id", what="category")
    _sorted_ids(columns[:, 1], where=f"{where}: annotations[].id")
    order = np.lexsort((columns[:, 1], image_rows))
    return Annotations(
        class_ids=tuple(category_ids.tolist()),
        classes=classes,
        image_ids=image_ids,
        file_names=[file_names[number] for number in image_order],
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2)[image_order],
        object_starts=np.searchsorted(image_rows[order], np.arange(len(image_ids) + 1)),
        object_ids=columns[order, 1],
        labels=labels[order],
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4)[order],
        crowds=columns[order, 3] == 1,
    )


def parse_captions(pieces: Iterator[bytes], *, where: str) -> dict[int, list[str]]:
    """Parse a captions file: the captions of each image by image id, in the order of their own ids.

    Raises:
        UserError: as `parse_annotations`.
    """
    found: dict[int, list[tuple[int, str]]] = {}
    for _, row in _rows(pieces, where=where, fields=("annotations",)):
        caption = row.text("caption", max_chars=MAX_CAPTION_CHARS)
        found.setdefault(row.integer("image_id"), []).append((row.integer("id"), caption))
    return {image: [caption for _, caption in sorted(captions)] for image, captions in found.items()}


@dataclass(frozen=True, slots=True)
class _Row:
    """One object of one of the file's arrays; `place` is its name in errors, such as annotations[17]."""

    value: dict[str, Any]
    where: str
    place: str

    def integer(self, name: str, lowest: int = 0, highest: int = MAX_ID, *, default: int | None = None) -> int:
        value = self.value.get(name, default)
        if type(value) is not int or not lowest <= value <= highest:
            raise self.fault(name, f"a whole number from {lowest} to {highest}")
        return value

    def text(self, name: str, *, max_chars: int) -> str:
        value = self.value.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= max_chars or not is_utf8(value):
            raise self.fault(name, f"text of 1 to {max_chars} characters")
        return value

    def box(self, name: str) -> list[float]:
        value = self.value.get(name)
        if type(value) is list and len(value) == 4:
            try:
                box = [float(number) for number in value if type(number) in (int, float)]
            except OverflowError:
                box = []
            if len(box) == 4 and all(abs(number) <= MAX_SIDE for number in box) and box[2] >= 0 and box[3] >= 0:
                return box
        raise self.fault(name, f"[left, top, width, height] with numbers up to {MAX_SIDE} and sizes of at least 0")

    def fault(self, name: str, wanted: str) -> UserError:
        got = shown(self.value[name]) if name in self.value else "missing"
        return UserError(f"{self.where}: {self.place}.{name}: {got}; {wanted} wanted; get the file again")


def _rows(pieces: Iterator[bytes], *, where: str, fields: tuple[str, ...]) -> Iterator[tuple[str, _Row]]:
    """Yield the objects of the wanted arrays with their field's name.

    Raises:
        UserError: one of the fields is missing or no array of objects.
    """
    missing = set(fields)
    for field, number, value in iterate_fields(pieces, where=where):
        if field not in fields:
            continue
        missing.discard(field)
        if number is None and value != []:
            raise UserError(f"{where}: {field}: a list of objects wanted; get the file again")
        if number is None:
            continue
        if not isinstance(value, dict):
            raise UserError(f"{where}: {field}[{number}]: {type(value).__name__}, an object wanted; get the file again")
        yield field, _Row(value, where, f"{field}[{number}]")
    if missing:
        raise UserError(f"{where}: has no {' and no '.join(sorted(missing))}; is it the right file?")


def _sorted_ids(
    ids: array[int] | npt.NDArray[np.int64], *, where: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the order that sorts the ids, and the ids sorted.

    Raises:
        UserError: one stands twice.
    """
    values = np.array(ids, dtype=np.int64)
    order = np.argsort(values, kind="stable")
    values = values[order]
    twice = np.flatnonzero(values[1:] == values[:-1])
    if len(twice):
        raise UserError(f"{where}: {values[twice[0]]} stands there twice; get the file again")
    return order, values


def _places(
    ids: npt.NDArray[np.int64], known: npt.NDArray[np.int64], *, where: str, what: str
) -> npt.NDArray[np.int64]:
    """Return the row of each id in the sorted `known`.

    Raises:
        UserError: one is not among them.
    """
    places = np.searchsorted(known, ids)
    unknown = np.flatnonzero(known[np.minimum(places, len(known) - 1)] != ids) if len(known) else np.arange(len(ids))
    if len(unknown):
        raise UserError(f"{where}: {ids[unknown[0]]} (annotations[{unknown[0]}]): there is no such {what}")
    return places
