"""Images of many classes, kept in a temporary file while they are listed: memory stays flat for 14 million.

    spool = ClassSpool()
    spool.add(Image("n00004475/n00004475_32.JPEG", "n00004475.tar", 512, 9000), ...)     # one class's, in order
    list(spool.images(0, start=0, end=1))       # the same image again

A walk over ImageNet-21k takes minutes, and two splits and the count of each class are wanted from it: one walk is
enough when its result is kept. About 60 bytes an image; the file has no name and goes with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.sources.class_tars import Image


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a class's images lie in the file: keys, then their offsets and sizes."""

    path: str
    offset: int
    keys_bytes: int
    num_images: int


class ClassSpool:
    """Lists of images that lie in one file each, by number in the order of adding."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="tarmac-listing-")  # noqa: SIM115  # closed with the spool
        self._places: list[_Place] = []

    def __del__(self) -> None:
        self._file.close()

    def add(self, images: Sequence[Image], *, path: str) -> int:
        """Keep images that all lie in the file `path`; return the list's number."""
        keys = "\0".join(image.key for image in images).encode()
        numbers = np.array([(image.offset, image.size_bytes) for image in images], dtype=np.int64)
        offset = self._file.seek(0, 2)
        self._file.write(keys + numbers.tobytes())
        self._places.append(_Place(path, offset, len(keys), len(images)))
        return len(self._places) - 1

    def images(self, number: int, *, start: int, end: int) -> list[Image]:
        """Return images `start` to `end` of a list."""
        place = self._places[number]
        self._file.seek(place.offset)
        keys = self._file.read(place.keys_bytes).decode().split("\0") if place.num_images else []
        numbers = np.frombuffer(self._file.read(16 * place.num_images), dtype=np.int64).reshape(-1, 2).tolist()
        return [
            Image(key, place.path, offset, size_bytes)
            for key, (offset, size_bytes) in zip(keys[start:end], numbers[start:end], strict=True)
        ]
