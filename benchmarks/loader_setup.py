"""What benchmarks/loader.py asks of every way of reading: the images, the floats made of them, and how much of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIDE, PADDING = 64, 4
SHAPE = (SIDE, SIDE, 3)
MEAN = np.array([125.3, 123.0, 113.9], dtype=np.float32)
STD = np.array([63.0, 62.1, 66.7], dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is asked of a reader: `floats` are mirrored, shifted and normalised, else uint8 as stored."""

    folder: Path
    batch_size: int
    workers: int
    floats: bool
    seconds: float


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield epoch after epoch."""
    while True:
        yield from loader
