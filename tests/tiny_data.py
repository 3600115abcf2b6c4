"""Tiny pictures, data sets and commands that several folders of tests use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_prep.config import PREPARE_SCHEMAS
from data_prep.prepare import prepare
from pipeline.compose import compose
from pipeline.shards.index import IndexRows, read_index
from pipeline.shards.keyed import make_key, random_bits
from pipeline.shards.manifest import DataSet, publish_data_set, publish_manifest, publish_rejected, read_data_set
from pipeline.shards.publish import publish_into
from pipeline.shards.record import PackedLayout
from pipeline.shards.writer import ShardWriter

ROOT = Path(__file__).resolve().parent.parent
Pixels = npt.NDArray[np.uint8]
# Four records of 64x64.
SMALL_SHARDS = "layout.shard_bytes=60000"


def random_pixels(seed: int, *, height: int, width: int, channels: int = 3) -> Pixels:
    """Return noise that stays the same with every version of numpy, as golden bytes are made of it."""
    bits = random_bits(make_key("pixels", seed), np.arange(height * width * channels))
    return (bits >> np.uint64(56)).astype(np.uint8).reshape(height, width, channels)


def save_pixels(path: Path, pixels_HWC: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_HWC[:, :, 0] if pixels_HWC.shape[2] == 1 else pixels_HWC).save(path)


def write_pictures(
    root: Path,
    *,
    num_each: int,
    classes: Sequence[str] = ("cat", "dog", "owl"),
    size: int = 8,
    extension: str = "png",
) -> dict[str, Pixels]:
    """Write class folders of random RGB pictures and return their pixels by path below the root."""
    pictures = {}
    for label, name in enumerate(classes):
        for number in range(num_each):
            key = f"{name}/{number:03d}.{extension}"
            save_pixels(root / key, random_pixels(1000 * label + number, height=size, width=size))
            pictures[key] = np.asarray(Image.open(root / key).convert("RGB"))
    return pictures


def prepare_here(out: Path, *options: str) -> DataSet:
    """Run a preparation in this process."""
    return prepare(compose("prepare", PREPARE_SCHEMAS, [f"out={out}", "engine.workers=1", *options]))


def prepare_pictures(root: Path, out: Path, *options: str) -> DataSet:
    return prepare_here(out, "source=folder", f"source.root={root}", *options)


def write_packed_set(root: Path, *, shard_sizes: dict[str, list[int]], layout: PackedLayout) -> DataSet:
    """Write a packed data set of random pixels with the format's own writers; class = row number modulo 3."""
    splits = {}
    for split, sizes in shard_sizes.items():
        (root / split).mkdir(parents=True)
        entries, row = [], 0
        for number, size in enumerate(sizes):
            with ShardWriter(publish_into(root / split), number=number) as writer:
                for _ in range(size):
                    pixels = random_pixels(row, height=layout.height, width=layout.width, channels=layout.channels)
                    writer.add(
                        layout.pack(key=f"{row:09d}", label=row % 3, image_HWC=pixels),
                        label=row % 3,
                        height=layout.height,
                        width=layout.width,
                        image_offset=layout.image_offset,
                        image_bytes=layout.image_bytes,
                        source_key=b"%s/%d.png" % (split.encode(), row),
                    )
                    row += 1
            assert writer.entry is not None
            entries.append(writer.entry)
        splits[split] = publish_manifest(publish_into(root / split), split=split, shardlist=entries)
    facts = {name: getattr(layout, name) for name in ("height", "width", "channels", "record_bytes", "pixel_offset")}
    publish_data_set(
        publish_into(root),
        {
            "name": "tiny",
            "task": "classification",
            "classes": ["a", "b", "é"],
            "layout": {"kind": "packed", **facts},
            "splits": splits,
            "statistics": None,
            "rejected": publish_rejected(publish_into(root), []),
            "provenance": {},
        },
    )
    return read_data_set(root)


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, hidden ones too, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows_of(data_set: DataSet, split: str) -> list[tuple[Path, IndexRows]]:
    """Return (shard, sidecar row) of each sample in the order of ids."""
    return [
        (shard.path, row)
        for shard in data_set.split(split).shards
        for row in read_index(shard.index_path, num_samples=shard.num_samples)
    ]


def stored_image(shard: Path, row: IndexRows) -> bytes:
    with shard.open("rb") as stream:
        stream.seek(int(row["image_offset"]))
        return stream.read(int(row["image_bytes"]))


def command(module: str, *options: str) -> list[str]:
    return [sys.executable, "-m", module, *options]


def run_module(module: str, *options: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run one of the commands as a user would, from the repository's root."""
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    return subprocess.run(
        command(module, *options), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s
    )


def copy_of(data_set: DataSet, folder: Path) -> Path:
    shutil.copytree(data_set.root, folder)
    return folder
