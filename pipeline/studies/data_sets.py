"""The small data sets of the studies: where each lies, and the options of `python -m data_prep` that make it.

folder = ready("rings", root=Path("data/studies"))         # made on first use, by a process of its own
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DATA_SET_FILE

# CIFAR-10 is that of `make train`, so it is there already on most machines.
CIFAR10 = "cifar10"
CIFAR10_FOLDER = Path("data/default")
DATA_SETS: Mapping[str, tuple[str, ...]] = {
    CIFAR10: (),
    # The whole of it at 8x8 pixels in colour, 192 values: a small net reads it in seconds.
    "cifar10-8": ("layout.resolution=8",),
    # The same with the pixels of all images in one other order.
    "cifar10-8-shuffled": ("layout.resolution=8", "layout.pixel_shuffle_seed=1"),
    "cifar10-shuffled": ("layout.pixel_shuffle_seed=1",),
    # 20,000 images of four classes at 64x64, 330 MB in shards of 1 MB: for reading under a cap on memory.
    "cifar10-64": ("classes=[airplane,automobile,ship,truck]", "layout.resolution=64", "layout.shard_bytes=1048576"),
    # Two of its classes, in 64 values; deer and truck are told apart more easily.
    "deer-truck-8": ("classes=[deer,truck]", "layout.resolution=8", "layout.channels=grey"),
    "pair-8": ("classes=[airplane,ship]", "layout.resolution=8", "layout.channels=grey"),
    "points-apart": (
        *("source=points", "source.shape=halves", "source.gap=0.02"),
        *("source.samples=2000", "source.val_samples=2000"),
    ),
    "points-mixed": (
        *("source=points", "source.shape=halves", "source.gap=-0.1"),
        *("source.samples=2000", "source.val_samples=2000"),
    ),
    "rings": ("source=points", "source.samples=2000", "source.val_samples=2000"),
    "function-waves": ("source=function", "source.function=waves", "source.samples=8192", "source.val_samples=4096"),
    "function-hills": ("source=function", "source.function=hills", "source.samples=8192", "source.val_samples=4096"),
    "function-noisy": (
        *("source=function", "source.function=waves", "source.noise=0.3"),
        *("source.samples=4096", "source.val_samples=4096"),
    ),
    "function-noisy-many": (
        *("source=function", "source.function=waves", "source.noise=0.3"),
        *("source.samples=65536", "source.val_samples=4096"),
    ),
}
# What they are, in the captions of figures.
TITLES: Mapping[str, str] = {
    CIFAR10: "CIFAR-10 at 32x32 pixels",
    "cifar10-8": "CIFAR-10 at 8x8 pixels",
    "cifar10-8-shuffled": "the same with shuffled pixels",
    "cifar10-shuffled": "the same with shuffled pixels",
    "cifar10-64": "vehicles of CIFAR-10 at 64x64 pixels",
    "deer-truck-8": "deer and trucks of CIFAR-10 at 8x8 grey pixels",
    "pair-8": "airplanes and ships of CIFAR-10 at 8x8 grey pixels",
    "points-apart": "points that a line separates",
    "points-mixed": "points that no line separates",
    "rings": "points on two rings",
    "function-waves": "a function of one variable",
    "function-hills": "a function of two variables",
    "function-noisy": "a function of one variable with noise",
    "function-noisy-many": "a function of one variable with noise",
}


def ready(name: str, *, root: Path) -> Path:
    """Return the folder of a data set; make it if it is not there.

    Raises:
        UserError: it could not be made; preparation has told why.
    """
    folder = CIFAR10_FOLDER if name == CIFAR10 else root / name
    if not (folder / DATA_SET_FILE).is_file():
        command = [sys.executable, "-m", "data_prep", *DATA_SETS[name], f"out={folder}"]
        if subprocess.run(command, check=False).returncode != 0:
            raise UserError(f"the data set {name} could not be made (see above); the same command tries again")
    return folder
