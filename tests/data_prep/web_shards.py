"""Shards as users of the webdataset package write them, and their adoption."""

from __future__ import annotations

import io
from pathlib import Path

import webdataset
from PIL import Image

from data_prep.index import main
from tiny_data import random_pixels


def encoded(seed: int, kind: str = "JPEG", *, width: int = 20, height: int = 16) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(random_pixels(seed, height=height, width=width)).save(stream, kind)
    return stream.getvalue()


def write_shards(folder: Path, *, counts: dict[str, int], maxcount: int = 4) -> dict[str, tuple[bytes, int]]:
    """Write shards as users of the webdataset package do; return image and label by key."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = {}
    for split, count in counts.items():
        with webdataset.ShardWriter(str(folder / f"pets-{split}-%03d.tar"), maxcount=maxcount, verbose=0) as writer:
            for number in range(count):
                image = encoded(number, width=20 + number)
                key = f"{split}/{number:04d}"
                writer.write({"__key__": key, "jpg": image, "cls": number % 3, "txt": "a caption"})
                samples[key] = (image, number % 3)
    return samples


def adopt(path: Path, *options: str) -> None:
    assert main([f"path={path}", *options]) == 0
