"""Small ImageNets in the layouts of the genuine archives, written by other code than that which reads them."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.sources.base import Source
from tiny_sets import SHARED_DATA

SHARED_IMAGENET = SHARED_DATA / "imagenet1k"
DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
# Sorted by id: classes 0 to 3. The kit's own ids are 3, 1, 4, 2, and two classes share their words, as in the genuine.
WORDS = {
    "n01440764": "tench, Tinca tinca",
    "n02012849": "crane",
    "n02105855": "Shetland sheepdog, Shetland sheep dog, Shetland",
    "n03126707": "crane",
}
KIT_ORDER = ("n02012849", "n03126707", "n01440764", "n02105855")
NAMES = (
    "tench, Tinca tinca",
    "crane (n02012849)",
    "Shetland sheepdog, Shetland sheep dog, Shetland",
    "crane (n03126707)",
)


def picture(seed: int, *, width: int = 20, height: int = 16, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def tar_bytes(members: Mapping[str, bytes], *, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@dataclass(frozen=True)
class Synset:
    number: int
    wordnet_id: str
    words: str
    children: int = 0


def kit_synsets() -> list[Synset]:
    """The classes in the kit's order, and two inner nodes behind them."""
    leaves = [Synset(number, class_id, WORDS[class_id]) for number, class_id in enumerate(KIT_ORDER, start=1)]
    return [*leaves, Synset(5, "n00001740", "entity", children=2), Synset(6, "n01503061", "bird", children=1)]


def meta_mat(
    synsets: Sequence[Synset], *, order: str = "<", packed: bool = True, text_type: int = 4, number_type: int = 9
) -> bytes:
    """Write the kit's struct array as MATLAB does. Types are MAT-file's own numbers (4: UTF-16 units, 9: double)."""

    def element(kind: int, data: bytes) -> bytes:
        if len(data) <= 4 and kind != 14:
            return struct.pack(f"{order}I", len(data) << 16 | kind) + data.ljust(4, b"\0")
        return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)

    def matrix(array_class: int, shape: tuple[int, int], body: bytes, *, name: str = "") -> bytes:
        head = element(6, struct.pack(f"{order}II", array_class, 0)) + element(5, struct.pack(f"{order}2i", *shape))
        return element(14, head + element(1, name.encode()) + body)

    def text(value: str) -> bytes:
        codec = {1: "utf-8", 2: "utf-8", 16: "utf-8", 4: "utf-16", 17: "utf-16", 18: "utf-32"}[text_type]
        if codec != "utf-8":
            codec += "-le" if order == "<" else "-be"
        return matrix(4, (1, len(value)), element(text_type, value.encode(codec)))

    def number(value: int) -> bytes:
        code = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}[number_type]
        return matrix(6, (1, 1), element(number_type, struct.pack(f"{order}{code}", value)))

    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")

    def numbers(values: range) -> bytes:
        return matrix(6, (1, len(values)), element(9, struct.pack(f"{order}{len(values)}d", *values)))

    rows = b"".join(
        number(synset.number)
        + text(synset.wordnet_id)
        + text(synset.words)
        + text("what it is")
        + number(synset.children)
        + matrix(
            6, (1, synset.children), element(9, struct.pack(f"{order}{synset.children}d", *range(synset.children)))
        )
        + number(0)
        for synset in synsets
    )
    names = b"".join(name.encode().ljust(32, b"\0") for name in fields)
    body = element(5, struct.pack(f"{order}i", 32)) + element(1, names) + rows
    variable = matrix(2, (len(synsets), 1), body, name="synsets")
    if packed:
        compressed = zlib.compress(variable)
        variable = struct.pack(f"{order}II", 15, len(compressed)) + compressed
    version = struct.pack(f"{order}H", 0x0100) + (b"IM" if order == "<" else b"MI")
    return b"MATLAB 5.0 MAT-file".ljust(116) + bytes(8) + version + variable


def devkit(truth: Sequence[int | str], *, meta: bytes | None = None) -> bytes:
    """The kit's archive with its readme, meta.mat and ground truth."""
    members = {
        f"{DEVKIT}/readme.txt": b"A development kit.\n",
        f"{DEVKIT}/data/{TRUTH}": "".join(f"{line}\n" for line in truth).encode(),
        f"{DEVKIT}/data/meta.mat": meta_mat(kit_synsets()) if meta is None else meta,
    }
    return gzip.compress(tar_bytes(members))


@dataclass(frozen=True)
class TinyImagenet1k:
    """Images by name and class, and every form of them."""

    train: dict[str, dict[str, bytes]]
    val: dict[str, tuple[str, bytes]]

    @classmethod
    def make(cls) -> TinyImagenet1k:
        train = {
            class_id: {f"{class_id}_{number}.JPEG": picture(10 * row + number) for number in (12, 3, 10026)}
            for row, class_id in enumerate(WORDS)
        }
        shown = ("n03126707", "n01440764", "n01440764", "n02105855", "n02012849")
        val = {
            f"ILSVRC2012_val_{number:08d}.JPEG": (class_id, picture(900 + number))
            for number, class_id in enumerate(shown, start=1)
        }
        return cls(train=train, val=val)

    def train_tar(self, class_ids: Sequence[str] = tuple(reversed(WORDS))) -> bytes:
        return tar_bytes({f"{class_id}.tar": tar_bytes(self.train[class_id]) for class_id in class_ids})

    def val_tar(self) -> bytes:
        return tar_bytes({name: content for name, (_, content) in reversed(self.val.items())})

    def truth(self) -> list[int]:
        return [KIT_ORDER.index(class_id) + 1 for class_id, _ in self.val.values()]

    def solution(self) -> str:
        lines = [f"{name.removesuffix('.JPEG')},{class_id} 85 1 499 272 " for name, (class_id, _) in self.val.items()]
        lines[0] += f"{self.val['ILSVRC2012_val_00000001.JPEG'][0]} 131 0 499 254 "  # two boxes of one class
        return "ImageId,PredictionString\n" + "".join(f"{line}\n" for line in reversed(lines))

    def mapping(self) -> str:
        return "".join(f"{class_id} {words}\n" for class_id, words in WORDS.items())

    def write_archives(self, root: Path) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        (root / "ILSVRC2012_img_train.tar").write_bytes(self.train_tar())
        (root / "ILSVRC2012_img_val.tar").write_bytes(self.val_tar())
        (root / f"{DEVKIT}.tar.gz").write_bytes(devkit(self.truth()))
        return root

    def kaggle_files(self) -> dict[str, bytes]:
        folder = "ILSVRC/Data/CLS-LOC"
        files = {
            f"{folder}/train/{class_id}/{name}": content
            for class_id, images in self.train.items()
            for name, content in images.items()
        }
        files |= {f"{folder}/val/{name}": content for name, (_, content) in self.val.items()}
        files |= {f"{folder}/test/ILSVRC2012_test_00000001.JPEG": picture(1)}
        files |= {"ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml": b"<annotation/>"}
        lists = {"LOC_synset_mapping.txt": self.mapping(), "LOC_val_solution.csv": self.solution()}
        return files | {name: text.encode() for name, text in lists.items()}

    def write_tree(self, root: Path) -> Path:
        for name, content in self.kaggle_files().items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        return root

    def write_zip(self, root: Path) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(root / "imagenet-object-localization-challenge.zip", "w") as archive:
            for name, content in self.kaggle_files().items():
                archive.writestr(name, content, compress_type=zipfile.ZIP_DEFLATED)
        return root


def listed(source: Source, split: str) -> dict[str, tuple[str, bytes]]:
    """Return (WordNet id, bytes) of each item by its key, in the order of the listing."""
    assert source.class_ids is not None
    found = {}
    for items in source.list_items(split):
        for row, key in enumerate(items.source_keys):
            content = source.read(
                path=items.paths[row], offset=int(items.offsets[row]), size_bytes=int(items.sizes_bytes[row])
            )
            assert isinstance(content, bytes)
            assert key not in found
            found[key] = source.class_ids[items.labels[row]], content
    return found
