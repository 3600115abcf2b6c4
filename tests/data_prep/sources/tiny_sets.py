"""Small archives in the forms of the genuine ones, written by other code than that which reads them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.sources.base import Items, Source

ROWS = 3
SHARED_DATA = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"


def list_all(source: Source, split: str) -> Items:
    """Return a whole split as one table."""
    batches = list(source.list_items(split))
    return Items(
        labels=np.concatenate([np.empty(0, np.int64), *(np.asarray(batch.labels) for batch in batches)]),
        source_keys=[key for batch in batches for key in batch.source_keys],
        paths=[path for batch in batches for path in batch.paths],
        offsets=np.concatenate([np.empty(0, np.int64), *(batch.offsets for batch in batches)]),
        sizes_bytes=np.concatenate([np.empty(0, np.int64), *(batch.sizes_bytes for batch in batches)]),
    )


def python2_pickle(fields: dict[bytes, Any]) -> bytes:
    """Write a dict as Python 2's cPickle did at protocol 2: byte strings as BINSTRING, everything memoised."""
    memo = iter(range(1, 1_000_000))

    def put(code: bytes) -> bytes:
        slot = next(memo)
        return code + (b"q" + bytes([slot]) if slot < 256 else b"r" + struct.pack("<I", slot))

    def write(value: Any) -> bytes:
        match value:
            case bytes() if len(value) < 256:
                return put(b"U" + bytes([len(value)]) + value)
            case bytes():
                return put(b"T" + struct.pack("<I", len(value)) + value)
            case int() if 0 <= value < 256:
                return b"K" + bytes([value])
            case int() if 0 <= value < 65536:
                return b"M" + struct.pack("<H", value)
            case list():
                return put(b"]") + b"(" + b"".join(map(write, value)) + b"e"
            case np.ndarray():
                empty = (
                    put(b"cnumpy.core.multiarray\n_reconstruct\n")
                    + put(b"cnumpy\nndarray\n")
                    + put(b"K\x00\x85")
                    + write(b"b")
                    + put(b"\x87")
                    + put(b"R")
                )
                dtype = put(b"cnumpy\ndtype\n") + write(b"u1") + b"K\x00K\x01" + put(b"\x87") + put(b"R")
                dtype += b"(K\x03" + write(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00" + put(b"t") + b"b"
                shape = b"".join(map(write, value.shape)) + put({1: b"\x85", 2: b"\x86"}[value.ndim])
                return empty + b"(K\x01" + shape + dtype + b"\x89" + write(value.tobytes()) + put(b"t") + b"b"
        raise TypeError(type(value))

    items = b"".join(write(key) + write(value) for key, value in fields.items())
    return b"\x80\x02}q\x00(" + items + b"u."


def tar_gz(members: dict[str, bytes], *, prefix: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@dataclass(frozen=True)
class TinyCifar:
    """Random images and labels by batch, and every form of them as files by name."""

    images: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def make(cls, batch_names: list[str], *, classes: int) -> TinyCifar:
        rng = np.random.default_rng(7)
        tiny = cls()
        for number, name in enumerate(batch_names):
            tiny.images[name] = rng.integers(0, 256, (ROWS + number, 32, 32, 3), dtype=np.uint8)
            tiny.labels[name] = rng.integers(0, classes, ROWS + number).tolist()
        return tiny

    def planes(self, name: str) -> np.ndarray:
        return np.ascontiguousarray(self.images[name].transpose(0, 3, 1, 2)).reshape(-1, 3072)

    def python_files(self, *, label_field: bytes = b"labels", protocol: int | None = None) -> dict[str, bytes]:
        def dump(name: str) -> bytes:
            fields = {
                b"batch_label": b"a batch",
                label_field: self.labels[name],
                b"data": self.planes(name),
                b"filenames": [b"x_%d.png" % row for row in range(len(self.labels[name]))],
            }
            if protocol is None:
                return python2_pickle(fields)
            return pickle.dumps({key.decode(): value for key, value in fields.items()}, protocol=protocol)

        return {name: dump(name) for name in self.images}

    def binary_files(self, *, coarse: bool = False) -> dict[str, bytes]:
        return {
            f"{name}.bin": b"".join(
                (b"\x05" if coarse else b"") + bytes([label]) + row.tobytes()
                for label, row in zip(self.labels[name], self.planes(name), strict=True)
            )
            for name in self.images
        }

    def sheet_files(self) -> dict[str, bytes]:
        files = {}
        for name, images in self.images.items():
            stream = io.BytesIO()
            Image.fromarray(images.reshape(len(images), 1024, 3)).save(stream, "PNG")
            files[f"{name}.png"] = stream.getvalue()
        train = [label for name, labels in self.labels.items() if name != "test_batch" for label in labels]
        files["train_lables.json"] = json.dumps(train).encode()
        files["test_lables.json"] = json.dumps(self.labels["test_batch"]).encode()
        return files


def idx_bytes(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@dataclass
class Server:
    """A web server on loopback; `habits` says what happens to a request for a path."""

    url: str
    files: dict[str, bytes]
    habits: dict[str, str]
    requests: list[str]
