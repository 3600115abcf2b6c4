"""Data sets of a regression, written with the format's own writers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.shards.manifest import DataSet, publish_data_set, publish_manifest, publish_rejected, read_data_set
from pipeline.shards.publish import publish_into
from pipeline.shards.record import PackedLayout, Targets, pack_encoded
from pipeline.shards.writer import ShardWriter

SHARD_SAMPLES = 20
LABEL_BYTES = 512
# Of each split: pixels uint8 (N, H, W, C) and targets (N, K).
Samples = Mapping[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]]


def random_samples(num_each: Mapping[str, int], *, num_targets: int = 2, side: int = 2, channels: int = 1) -> Samples:
    """Return random pixels, and targets that are a linear function of them and some noise."""
    generator = np.random.default_rng(0)
    slopes_DK = generator.normal(size=(side * side * channels, num_targets))
    samples = {}
    for split, count in num_each.items():
        pixels = generator.integers(0, 256, size=(count, side, side, channels)).astype(np.uint8)
        values = (
            (pixels.reshape(count, -1) / 128 - 1) @ slopes_DK + 3 + 0.1 * generator.normal(size=(count, num_targets))
        )
        samples[split] = (pixels, values.astype(np.float32))
    return samples


def write_regression_set(root: Path, samples: Samples, *, encoded: bool = False) -> DataSet:
    """Write a data set, in shards of 20 samples."""
    splits = {}
    pixels, targets = next(iter(samples.values()))
    height, width, channels = pixels.shape[1:]
    layout = PackedLayout(height=height, width=width, channels=channels, label_bytes=LABEL_BYTES)
    for split, (images, values) in samples.items():
        (root / split).mkdir(parents=True)
        entries = []
        for first in range(0, len(images), SHARD_SAMPLES):
            with ShardWriter(publish_into(root / split), number=len(entries)) as writer:
                for row in range(first, min(first + SHARD_SAMPLES, len(images))):
                    _add(writer, layout, row, images[row], Targets(tuple(values[row].tolist())), encoded=encoded)
            entries.append(writer.entry)
        splits[split] = publish_manifest(
            publish_into(root / split), split=split, shardlist=[entry for entry in entries if entry is not None]
        )
    facts = {name: getattr(layout, name) for name in ("height", "width", "channels", "record_bytes", "pixel_offset")}
    packed = {"kind": "packed", **facts, "label_bytes": LABEL_BYTES}
    first_pixels = pixels.reshape(-1, channels)
    statistics = {"mean": first_pixels.mean(axis=0).tolist(), "std": first_pixels.std(axis=0).tolist()}
    publish_data_set(
        publish_into(root),
        {
            "name": "plane",
            "task": "regression",
            "classes": [f"height-{number}" for number in range(targets.shape[1])],
            "layout": {"kind": "encoded"} if encoded else packed,
            "splits": splits,
            "statistics": statistics,
            "rejected": publish_rejected(publish_into(root), []),
            "provenance": {},
        },
    )
    return read_data_set(root)


def _add(
    writer: ShardWriter,
    layout: PackedLayout,
    row: int,
    image: npt.NDArray[np.uint8],
    targets: Targets,
    *,
    encoded: bool,
) -> None:
    key = f"{row:09d}"
    if encoded:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, format="PNG")
        content = stream.getvalue()
        record = pack_encoded(key=key, label=targets, image=content, extension="png")
        image_bytes = len(content)
        image_offset = len(record) - -(-image_bytes // 512) * 512
    else:
        record = layout.pack(key=key, label=targets, image_HWC=image)
        image_bytes, image_offset = layout.image_bytes, layout.image_offset
    writer.add(
        record,
        label=targets,
        height=layout.height,
        width=layout.width,
        image_offset=image_offset,
        image_bytes=image_bytes,
        source_key=b"%d" % row,
    )
