"""Samples inside the tars of WebDataset: members of one key that stand beside each other, and the label among them.

    for sample in samples_of(walk_tar(store, "train-000.tar"), where="train-000.tar"):
        sample.key, sorted(sample.members)      # ("n01440764/10026", ["cls", "jpg"])
    parse_label("cls", b"7\\n", label_field="label")     # "7"

A member's name is cut at the first dot of its last part, as the webdataset library does: `a.b/c.seg.png` is the
member `seg.png` of the sample `a.b/c`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from data_prep.archives.tar import TarMember
from data_prep.sources.classes import is_name, is_number
from data_prep.sources.spelling import shown
from pipeline.shards.errors import DamageError

IMAGE_MEMBERS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")
# Where labels are looked for, first to last, and the most bytes that they may have.
LABEL_MEMBERS = {"cls": 1 << 12, "json": 1 << 24, "txt": 1 << 12}
MAX_MEMBERS = 1000
MAX_LABELS = 10_000


class Sample(NamedTuple):
    """A key, and its members by what follows the key's dot, in lower case."""

    key: str
    members: dict[str, TarMember]


def samples_of(members: Iterable[TarMember], *, where: str) -> Iterator[Sample]:
    """Group members; those without a key, and the library's own `__notes__`, are left out.

    Raises:
        DamageError: a key that comes back later in the tar, or a member that stands twice.
    """
    sample: Sample | None = None
    seen: set[str] = set()
    for member in members:
        folder, slash, base = member.name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not stem or not dot or (member.name.startswith("__") and member.name.endswith("__")):
            continue
        key = folder + slash + stem
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            if key in seen:
                raise DamageError(f"{where}: the members of {shown(key)} do not stand beside each other")
            seen.add(key)
            sample = Sample(key, {})
        extension = extension.lower()
        if extension in sample.members or len(sample.members) == MAX_MEMBERS:
            raise DamageError(f"{where}: {shown(member.name)} stands there twice, or has over {MAX_MEMBERS} beside it")
        sample.members[extension] = member
    if sample is not None:
        yield sample


def image_of(sample: Sample, name: str | None) -> TarMember | None:
    """Return the image of a sample: the member of that name, or without one by the order of IMAGE_MEMBERS."""
    if name is not None:
        return sample.members.get(name)
    return next((sample.members[name] for name in IMAGE_MEMBERS if name in sample.members), None)


def parse_label(kind: str, content: bytes, *, label_field: str) -> str | list[str] | None:
    """Return the label that a member holds: a class name, a number in plain digits, or a list of them.

    Returns None for a json member without the field.

    Raises:
        ValueError: it holds something else; the message says what.
    """
    if kind != "json":
        return _label(content.decode().strip())
    facts = json.loads(content)
    if not isinstance(facts, Mapping) or facts.get(label_field) is None:
        return None
    value = facts[label_field]
    if isinstance(value, list) and len(value) <= MAX_LABELS:
        return [_label(one) for one in value]
    return _label(value)


def _label(value: Any) -> str:
    text = str(value) if type(value) is int and 0 <= value < 1 << 62 else value
    if not is_name(text):
        raise ValueError(f"the label {shown(value)}")
    return str(int(text)) if is_number(text) else str(text)
