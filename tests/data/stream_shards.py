"""Shards as users of the webdataset package write them, to be streamed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
import webdataset
from PIL import Image

from pipeline.data.crop import CentreCrop
from pipeline.data.loader import BatchLoader
from pipeline.data.stream import StreamOrder, StreamReader, stream_facts
from tiny_data import Pixels, random_pixels

SIZE = (6, 5)
NUM_CLASSES = 7
# Of the shards that the fixture `shards` writes.
COUNTS = [1, 9, 4, 12, 2]
NUM = sum(COUNTS)


def png(pixels_HWC: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels_HWC).save(stream, "PNG")
    return stream.getvalue()


def pixels_of(number: int) -> Pixels:
    return random_pixels(number, height=SIZE[0], width=SIZE[1])


def write_stream(folder: Path, *, counts: Sequence[int], first: int = 0) -> list[str]:
    """Write shards of so many samples each, numbered through; class = number modulo 7."""
    folder.mkdir(parents=True, exist_ok=True)
    shards, number = [], first
    for index, count in enumerate(counts):
        path = folder / f"part-{index:04d}.tar"
        with webdataset.TarWriter(str(path)) as writer:
            for _ in range(count):
                writer.write({"__key__": f"a/{number:06d}", "png": png(pixels_of(number)), "cls": number % NUM_CLASSES})
                number += 1
        shards.append(str(path))
    return shards


def open_reader(shards: Sequence[str], *, num_samples: int, rank: int = 0, world_size: int = 1, **options: object):  # type: ignore[no-untyped-def]
    facts = stream_facts(shards, split="train", num_samples=num_samples, num_classes=NUM_CLASSES, size=SIZE)
    options = {"crop": CentreCrop(frac=1.0), "seed": 3, "rank": rank, "world_size": world_size, **options}
    return StreamReader(shards, facts=facts, **options)  # type: ignore[arg-type]


def open_loader(
    shards: Sequence[str],
    *,
    num_samples: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    first_step: int = 0,
    micro_slots: int | None = None,
    **options: object,
) -> BatchLoader:
    reader = open_reader(shards, num_samples=num_samples, rank=rank, world_size=world_size, **options)
    order = StreamOrder(num_samples=num_samples, batch_size=batch_size)
    return BatchLoader(
        reader,
        order,
        rank=rank,
        world_size=world_size,
        first_step=lambda: first_step,
        micro_slots=micro_slots,
    )


class Known:
    """Tells which sample an image is, by its pixels."""

    def __init__(self, num_samples: int) -> None:
        self._numbers = {pixels_of(number).tobytes(): number for number in range(num_samples)}

    def numbers(self, images_BHWC: torch.Tensor) -> list[int]:
        return [self._numbers[image.tobytes()] for image in images_BHWC.numpy()]

    def drain(self, loader: BatchLoader) -> list[list[int]]:
        """Return the samples of each batch of an epoch's rest, after looking at their labels."""
        batches = []
        try:
            for batch in loader:
                batches.append(self.numbers(batch.images_BHWC))
                assert batch.labels_B.tolist() == [number % NUM_CLASSES for number in batches[-1]]
        finally:
            loader.close()
            loader.reader.close()
        return batches


def drain(shards: list[str], *, num_samples: int = NUM, batch_size: int = 4, **options: object) -> list[list[int]]:
    """Return the samples of each batch of an epoch over the fixture's shards."""
    return Known(NUM).drain(open_loader(shards, num_samples=num_samples, batch_size=batch_size, **options))  # type: ignore[arg-type]
