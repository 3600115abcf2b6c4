"""Which columns of a Parquet file hold images and labels, and what its labels mean.

columns = find_columns(schema, image=None, label=None, where="train-00000-of-00294.parquet")
columns.image_leaf, columns.label, columns.class_names      # ("image.bytes", "label", ("tench", ...))
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_prep.sources.classes import checked_classes
from pipeline.shards.errors import UserError

USUAL_IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")
USUAL_LABEL_NAMES = ("label", "labels", "cls", "class", "fine_label")
MAX_FEATURES_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where images and labels lie.

    Attributes:
        image: name of the image column.
        image_leaf: path of its bytes: the column's own name, or `image.bytes` inside a struct.
        label: name of the label column.
        is_number: labels are class numbers; else they are class names.
        is_list: each row has any number of labels.
        class_names: by number, as the file's features have them; None where they have none.
    """

    image: str
    image_leaf: str
    label: str
    is_number: bool
    is_list: bool
    class_names: tuple[str, ...] | None


def find_columns(schema: pa.Schema, *, image: str | None, label: str | None, where: str) -> Columns:
    """Find the columns by the names given, by the features stored in the schema, or by usual names.

    Raises:
        UserError: there is none that fits, or more than one.
    """
    features = _features(schema)
    images = {field.name for field in schema if _image_leaf(field) is not None}
    labels = {field.name for field in schema if _label_kind(field.type) is not None}
    by_feature = {
        kind: [name for name, feature in features.items() if _feature_type(feature) == kind]
        for kind in ("Image", "ClassLabel")
    }
    image = _choose(
        image, images, (by_feature["Image"], USUAL_IMAGE_NAMES, sorted(images)), where=where, option="image_column"
    )
    label = _choose(
        label, labels - {image}, (by_feature["ClassLabel"], USUAL_LABEL_NAMES), where=where, option="label_column"
    )
    kind = _label_kind(schema.field(label).type)
    leaf = _image_leaf(schema.field(image))
    assert kind is not None
    assert leaf is not None
    names = _class_names(features.get(label))
    return Columns(
        image=image,
        image_leaf=leaf,
        label=label,
        is_number=kind == "number",
        is_list=_is_list(schema.field(label).type),
        class_names=None if names is None else checked_classes(names, where=f"{where}: names of {label}"),
    )


def _choose(
    given: str | None, fitting: set[str], preferred: Iterable[Iterable[str]], *, where: str, option: str
) -> str:
    """Return the column given, or the only one of the first preferred names that fit."""
    if given is not None:
        if given in fitting:
            return given
        raise UserError(f"source.{option}={given}: no such column in {where}; {_listed(fitting)} would fit")
    for names in preferred:
        found = [name for name in names if name in fitting]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{where}: several columns fit: choose one with source.{option}, {_listed(found)}")
    raise UserError(f"{where}: no column found; name it with source.{option}: {_listed(fitting)} would fit")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:20]) or "none"


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return the features that `datasets` stores in a schema, {} where it has none that can be read."""
    raw = (schema.metadata or {}).get(b"huggingface", b"")
    if not 0 < len(raw) <= MAX_FEATURES_BYTES:
        return {}
    try:
        features = json.loads(raw)["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _inner(feature: Any) -> Any:
    """Return what a list's feature is made of, for both ways of `datasets` to spell a list."""
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    if isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        return feature.get("feature")
    return feature


def _feature_type(feature: Any) -> Any:
    inner = _inner(feature)
    return inner.get("_type") if isinstance(inner, dict) else None


def _class_names(feature: Any) -> list[Any] | None:
    inner = _inner(feature)
    names = inner.get("names") if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" else None
    return names if isinstance(names, list) else None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _image_leaf(field: pa.Field) -> str | None:
    """Return the path of a column's bytes, None where it has none."""
    if _is_binary(field.type):
        return str(field.name)
    if pa.types.is_struct(field.type) and "." not in field.name:
        index = field.type.get_field_index("bytes")
        if index >= 0 and _is_binary(field.type.field(index).type):
            return f"{field.name}.bytes"
    return None


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _label_kind(kind: pa.DataType) -> str | None:
    """Return "number" or "name" for a type that labels may have, else None."""
    if _is_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return "number"
    return "name" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None
