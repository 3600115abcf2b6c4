"""docs/FORMAT.md against the code: its example is written here, and its reader is run."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.shards.check import find_damage, find_malformed
from pipeline.shards.manifest import DataSet, publish_data_set, publish_manifest, publish_rejected, read_data_set
from pipeline.shards.publish import publish_into
from pipeline.shards.record import PackedLayout
from pipeline.shards.writer import ShardWriter
from tiny_data import ROOT, Pixels

LAYOUT = PackedLayout(height=2, width=3, channels=3)
DOCUMENT = (ROOT / "docs" / "FORMAT.md").read_text() if (ROOT / "docs" / "FORMAT.md").exists() else ""


def example_pixels(row: int) -> Pixels:
    return (100 * row + np.arange(18, dtype=np.uint8)).reshape(2, 3, 3)


def write_example(root: Path) -> DataSet:
    """Write the example of the document: two pictures, dog/1.png and cat/2.png."""
    (root / "train").mkdir(parents=True)
    with ShardWriter(publish_into(root / "train"), number=0) as writer:
        for row, (label, source_key) in enumerate([(1, b"dog/1.png"), (0, b"cat/2.png")]):
            writer.add(
                LAYOUT.pack(key=f"{row:09d}", label=label, image_HWC=example_pixels(row)),
                label=label,
                height=2,
                width=3,
                image_offset=LAYOUT.image_offset,
                image_bytes=LAYOUT.image_bytes,
                source_key=source_key,
            )
    assert writer.entry is not None
    facts = {name: getattr(LAYOUT, name) for name in ("height", "width", "channels", "record_bytes", "pixel_offset")}
    publish_data_set(
        publish_into(root),
        {
            "name": "pets",
            "task": "classification",
            "classes": ["cat", "dog"],
            "layout": {"kind": "packed", **facts},
            "splits": {
                "train": publish_manifest(publish_into(root / "train"), split="train", shardlist=[writer.entry])
            },
            "statistics": {"mean": [57.5, 58.5, 59.5], "std": [50.5, 50.5, 50.5]},
            "rejected": publish_rejected(publish_into(root), []),
            "provenance": {"seed": 0},
        },
    )
    return read_data_set(root)


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.S)


def test_the_example_is_what_the_writers_write(tmp_path: Path) -> None:
    data_set = write_example(tmp_path / "pets")
    stored_data_set, stored_manifest = blocks("json")
    assert (tmp_path / "pets" / "dataset.json").read_text() == stored_data_set
    assert (tmp_path / "pets" / "train" / "manifest.json").read_text() == stored_manifest
    shard = data_set.split("train").shards[0]
    assert [*find_damage(data_set, shard), *find_malformed(data_set, shard)] == []
    sidecar = shard.index_path.read_bytes()
    row = b"".join(bytes.fromhex(line.split(maxsplit=2)[2]) for line in blocks("text")[-1].splitlines())
    assert sidecar.endswith(row)
    assert len(row) * 2 + sidecar.index(b"\n", 10) + 1 == len(sidecar)
    header = blocks("text")[0]
    assert header.strip() in sidecar.decode("latin-1")


def test_the_offsets_of_the_example_are_those_of_the_tar(tmp_path: Path) -> None:
    write_example(tmp_path / "pets")
    tar = (tmp_path / "pets" / "train" / "shard-000000.tar").read_bytes()
    table = re.findall(r"^\| (\d+) \| (\d+) \| `([^`]*)`", DOCUMENT, flags=re.M)
    assert len(table) >= 12
    for offset, length, content in table:
        piece = content.encode().decode("unicode_escape").encode("latin-1")
        assert tar[int(offset) : int(offset) + int(length)].startswith(piece), content


def test_the_reader_in_the_document_reads(tmp_path: Path) -> None:
    write_example(tmp_path / "pets")
    code = blocks("python")[-1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 14
    names: dict[str, Any] = {}
    exec(code, names)
    images, labels = names["read_packed"](str(tmp_path / "pets"), "train")
    assert np.array_equal(images, np.stack([example_pixels(0), example_pixels(1)]))
    assert labels.tolist() == [1, 0]


def test_the_checksum_is_what_the_document_says(tmp_path: Path) -> None:
    write_example(tmp_path / "pets")
    raw = (tmp_path / "pets" / "dataset.json").read_bytes()
    assert raw[-4:] == b'"\n}\n'
    assert hashlib.sha256(raw[:-68]).hexdigest().encode() == raw[-68:-4]
    assert json.loads(raw)["checksum"] == raw[-68:-4].decode()
