"""COCO's json: every wrong field is an error that names it."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coco_sets import Json, tiny_annotations
from data_prep.sources.coco_annotations import parse_annotations, parse_captions
from pipeline.shards.errors import UserError


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
@pytest.mark.slow
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
