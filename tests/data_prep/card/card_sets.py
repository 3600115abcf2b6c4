"""Small data sets with chosen images, labels and source keys, written with the format's own writers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_prep.card.facts import CardFacts
from data_prep.card.gather import SOURCE_SIZES, gather_facts
from data_prep.card.sizes import SizeHistogram
from data_prep.card.stored_set import StoredSet
from pipeline.shards.manifest import DataSet, publish_data_set, publish_manifest, publish_rejected, read_data_set
from pipeline.shards.publish import publish_into
from pipeline.shards.record import Label, PackedLayout, pack_encoded
from pipeline.shards.task import Task
from pipeline.shards.writer import ShardWriter
from pipeline.storage import open_store

Pixels = npt.NDArray[np.uint8]
# (image, label, source key): pixels for the packed layout, the bytes of a file for the encoded one.
Sample = tuple[Any, Label, str]


def encoded_image(pixels_HWC: Pixels, *, extension: str = "png") -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(pixels_HWC[:, :, 0] if pixels_HWC.shape[2] == 1 else pixels_HWC)
    picture.save(stream, format={"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[extension])
    return stream.getvalue()


def write_set(
    root: Path,
    splits: Mapping[str, Sequence[Sequence[Sample]]],
    *,
    classes: Sequence[str],
    class_ids: Sequence[str] | None = None,
    packed: PackedLayout | None = None,
    rejected: Sequence[dict[str, Any]] = (),
    provenance: dict[str, Any] | None = None,
    statistics: dict[str, Any] | None = None,
    source_sizes: SizeHistogram | None = None,
    name: str = "tiny",
) -> DataSet:
    """Write samples given by split and shard; with lists as labels the task is multilabel.

    Keys skip every third number, as rejected items leave gaps.
    """
    multilabel = False
    rows = {}
    for split, shards in splits.items():
        (root / split).mkdir(parents=True)
        entries, number_of_row = [], 0
        for number, samples in enumerate(shards):
            with ShardWriter(publish_into(root / split), number=number) as writer:
                for image, label, source_key in samples:
                    multilabel |= not isinstance(label, int)
                    number_of_row += 1 + (number_of_row % 3 == 1)
                    _add(writer, f"{number_of_row:09d}", image, label, source_key, packed)
            assert writer.entry is not None
            entries.append(writer.entry)
        rows[split] = publish_manifest(publish_into(root / split), split=split, shardlist=entries)
    layout: dict[str, Any] = {"kind": "encoded"}
    if packed is not None:
        names = ("height", "width", "channels", "label_bytes", "record_bytes", "pixel_offset")
        layout = {"kind": "packed", **{name: getattr(packed, name) for name in names}}
    publish_data_set(
        publish_into(root),
        {
            "name": name,
            "task": str(Task.multilabel if multilabel else Task.classification),
            "classes": list(classes),
            "class_ids": None if class_ids is None else list(class_ids),
            "layout": layout,
            "splits": rows,
            "statistics": statistics,
            **({} if source_sizes is None else {SOURCE_SIZES: source_sizes.to_plain()}),
            "rejected": publish_rejected(publish_into(root), list(rejected)),
            "provenance": provenance or {},
        },
    )
    return read_data_set(root)


class Elsewhere:
    """A folder behind a door: a store that names no path, as a server's, and remembers what was read."""

    def __init__(self, root: Path) -> None:
        self.read: list[str] = []
        self._store = open_store(str(root))

    def local_path(self, name: str) -> None:
        return None

    def read_at(self, name: str, *, offset: int, size_bytes: int) -> bytes:
        self.read.append(name)
        return self._store.read_at(name, offset=offset, size_bytes=size_bytes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def stored_set(data_set: DataSet) -> StoredSet:
    return StoredSet(data_set=data_set, store=open_store(str(data_set.root)))


def facts_of(data_set: DataSet) -> CardFacts:
    return gather_facts(data_set, store=open_store(str(data_set.root)))


def _add(writer: ShardWriter, key: str, image: Any, label: Label, source_key: str, packed: PackedLayout | None) -> None:
    if packed is not None:
        record, image_offset, image_bytes = (
            packed.pack(key=key, label=label, image_HWC=image),
            packed.image_offset,
            packed.image_bytes,
        )
        height, width = packed.height, packed.width
    else:
        details = {"note": source_key * (len(source_key) % 30)} if len(source_key) % 2 else None
        extension = {b"\x89PNG": "png", b"RIFF": "webp"}.get(image[:4], "jpg")
        record = pack_encoded(key=key, label=label, image=image, extension=extension, details=details)
        image_bytes = len(image)
        image_offset = len(record) - -(-image_bytes // 512) * 512
        width, height = Image.open(io.BytesIO(image)).size
    writer.add(
        record,
        label=label,
        height=height,
        width=width,
        image_offset=image_offset,
        image_bytes=image_bytes,
        source_key=source_key.encode(),
    )
