"""The index of a gzip file: where its stream can be entered, and what is unpacked there.

    index = build_index(store, "winter21_whole.tar.gz", on_progress=None)
    write_index(Path("winter21_whole.index"), index)
    index = read_index(Path("winter21_whole.index"))

rapidgzip finds the places in one pass with all cores, and checks the stream's own CRC-32 meanwhile; of the 32 KiB
before each place that deflate may refer to, it keeps only the bytes that are referred to, which among JPEGs are next
to none: 0.02 % of the archive, where indexed_gzip, which also let flipped bits pass, takes 3 %. The index further
holds a CRC-32 of each 256 KiB unpacked, as the stream's own cannot be checked when reading in its midst.
"""

from __future__ import annotations

import importlib
import io
import json
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.archives.deflate import is_whole_end
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.publish import publish
from pipeline.storage import Store

CELL_BYTES = 256 << 10
CHUNK_BYTES = 1 << 20
MAX_STRETCH_BYTES = 64 << 20
WINDOW_BYTES = 32 << 10

_READ_BYTES = 8 << 20
_CELLS_A_REPORT = 64
_MAGIC = b"tarmac gzip index 1\n"
_ENDS_BYTES = 64 << 10
_GZIDX = struct.Struct("<5sBBQQIII")
_GZIDX_POINT = np.dtype([("packed", "<u8"), ("unpacked", "<u8"), ("bits", "u1"), ("has_window", "u1")])
_POINT = np.dtype([("packed_bit", "<u8"), ("unpacked", "<u8"), ("window_offset", "<u8"), ("window_bytes", "<u4")])


@dataclass(frozen=True, slots=True, kw_only=True)
class GzipIndex:
    """An index, its windows still packed.

    Attributes:
        packed_bytes: the gzip file's length.
        ends_crc32: CRC-32 of its first and last 64 KiB, which with its length tell it from another.
        unpacked_bytes: what it unpacks to.
        points: where the stream can be entered, ascending; the last is its end.
        cell_crc32s: CRC-32 of each `CELL_BYTES` unpacked.
        windows: what is referred to from the points, each a zlib stream.
    """

    packed_bytes: int
    ends_crc32: int
    unpacked_bytes: int
    points: npt.NDArray[Any]
    cell_crc32s: npt.NDArray[np.uint32]
    windows: bytes

    def window(self, point: int) -> bytes:
        """Return the 32 KiB before a point that what follows may refer to; what it does not refer to is zero."""
        start, size_bytes = int(self.points["window_offset"][point]), int(self.points["window_bytes"][point])
        stored = zlib.decompress(self.windows[start : start + size_bytes]) if size_bytes else b""
        return stored.rjust(WINDOW_BYTES, b"\0")


def build_index(store: Store, name: str, *, on_progress: Callable[[int], None] | None) -> GzipIndex:
    """Unpack a gzip file once, keeping nothing, and return its index.

    Args:
        store: where it lies.
        name: its name there.
        on_progress: called with the packed bytes newly read.

    Raises:
        UserError: rapidgzip is not installed; the file is missing or unreadable.
        DamageError: it is cut short or damaged, or its stream cannot be entered for more than `MAX_STRETCH_BYTES`.
    """
    where = f"{store.location}/{name}"
    try:
        rapidgzip: Any = importlib.import_module("rapidgzip")  # has no types
    except ImportError:
        raise UserError(
            f"{where}: to read it in place, pip install 'tarmac[gzip]'; or gunzip it, and give what comes out"
        ) from None
    packed_bytes = store.size_of(name)
    if packed_bytes is None:
        raise UserError(f"{where}: missing")
    path = store.local_path(name)
    source = str(path) if path else io.BufferedReader(_RawFile(store, name, packed_bytes), _READ_BYTES)
    crc32s: list[int] = []
    unpacked_bytes = told_bytes = 0
    try:
        with (
            rapidgzip.RapidgzipFile(source, parallelization=0, chunk_size=CHUNK_BYTES) as stream,
            tempfile.NamedTemporaryFile(prefix="tarmac-") as exported,
        ):
            while cell := stream.read(CELL_BYTES):
                crc32s.append(zlib.crc32(cell))
                unpacked_bytes += len(cell)
                if on_progress is not None and len(crc32s) % _CELLS_A_REPORT == 0:
                    done_bytes = stream.tell_compressed() // 8
                    on_progress(done_bytes - told_bytes)
                    told_bytes = done_bytes
            stream.export_index(exported.name, rapidgzip.IndexFormat.INDEXED_GZIP)
            points, windows = _parse_gzidx(Path(exported.name).read_bytes())
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DamageError(f"{where}: cut short or damaged ({reason}); get the file again") from None
    if on_progress is not None:
        on_progress(packed_bytes - told_bytes)
    stretches = np.diff(points["unpacked"], append=np.uint64(unpacked_bytes))
    if not len(points) or points["unpacked"][0] or (stretches > MAX_STRETCH_BYTES).any():
        raise DamageError(f"{where}: cannot be entered for more than {MAX_STRETCH_BYTES} bytes; unpack it with gunzip")
    index = GzipIndex(
        packed_bytes=packed_bytes,
        ends_crc32=ends_crc32(store, name, packed_bytes=packed_bytes),
        unpacked_bytes=unpacked_bytes,
        points=points,
        cell_crc32s=np.array(crc32s, dtype="<u4"),
        windows=windows,
    )
    if not _ends_whole(store, name, index):  # rapidgzip takes one cut in the midst of a block for a shorter one
        raise DamageError(f"{where}: cut short; get the file again")
    return index


def _ends_whole(store: Store, name: str, index: GzipIndex) -> bool:
    point = max(0, int(np.searchsorted(index.points["unpacked"], index.unpacked_bytes)) - 1)
    start, bits = divmod(int(index.points["packed_bit"][point]), 8)
    packed = store.read_at(name, offset=start, size_bytes=index.packed_bytes - start)
    return is_whole_end(packed, bits=bits, window=index.window(point), max_bytes=MAX_STRETCH_BYTES + 1)


def ends_crc32(store: Store, name: str, *, packed_bytes: int) -> int:
    """Return the CRC-32 of a file's first and last 64 KiB."""
    size_bytes = min(_ENDS_BYTES, packed_bytes)
    first = zlib.crc32(store.read_at(name, offset=0, size_bytes=size_bytes))
    return zlib.crc32(store.read_at(name, offset=packed_bytes - size_bytes, size_bytes=size_bytes), first)


def write_index(path: Path, index: GzipIndex) -> None:
    """Publish an index: a line that names the format, a line of JSON, points, CRC-32s, windows."""
    body = index.points.tobytes() + index.cell_crc32s.tobytes() + index.windows
    facts = {name: getattr(index, name) for name in ("packed_bytes", "ends_crc32", "unpacked_bytes")}
    counts = {"points": len(index.points), "cells": len(index.cell_crc32s), "crc32": zlib.crc32(body)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with publish(path) as stream:
        stream.write(_MAGIC + json.dumps(facts | counts).encode() + b"\n" + body)


def read_index(path: Path) -> GzipIndex:
    """Return a stored index.

    Raises:
        DamageError: it is no index, or damaged.
    """
    magic, _, rest = path.read_bytes().partition(b"\n")
    line, _, body = rest.partition(b"\n")
    try:
        facts = json.loads(line) if magic + b"\n" == _MAGIC else {}
        points_bytes, cells_bytes = facts["points"] * _POINT.itemsize, facts["cells"] * 4
        if zlib.crc32(body) != facts["crc32"]:
            raise ValueError
        return GzipIndex(
            packed_bytes=facts["packed_bytes"],
            ends_crc32=facts["ends_crc32"],
            unpacked_bytes=facts["unpacked_bytes"],
            points=np.frombuffer(body[:points_bytes], dtype=_POINT),
            cell_crc32s=np.frombuffer(body[points_bytes : points_bytes + cells_bytes], dtype="<u4"),
            windows=body[points_bytes + cells_bytes :],
        )
    except (ValueError, KeyError, TypeError):
        raise DamageError(f"{path}: no index of a gzip file, or damaged; remove it, to have it made again") from None


def _parse_gzidx(content: bytes) -> tuple[npt.NDArray[Any], bytes]:
    """Return points and packed windows of an index in indexed_gzip's format, which rapidgzip exports.

    Raises:
        ValueError: it is not of that format.
    """
    magic, version, _, _, _, _, window_bytes, num_points = _GZIDX.unpack_from(content)
    if magic != b"GZIDX" or version > 1 or window_bytes != WINDOW_BYTES:
        raise ValueError("rapidgzip's index is of an unknown version")
    found = np.frombuffer(content, dtype=_GZIDX_POINT, count=num_points, offset=_GZIDX.size)
    points = np.zeros(num_points, dtype=_POINT)
    points["packed_bit"] = found["packed"] * 8 - found["bits"]
    points["unpacked"] = found["unpacked"]
    windows = bytearray()
    start = _GZIDX.size + found.nbytes
    for point in np.flatnonzero(found["has_window"]):
        window = zlib.compress(content[start : start + WINDOW_BYTES].lstrip(b"\0"))
        points["window_offset"][point], points["window_bytes"][point] = len(windows), len(window)
        windows += window
        start += WINDOW_BYTES
    return points, bytes(windows)


class _RawFile(io.RawIOBase):
    """A store's file as Python's readers want it."""

    def __init__(self, store: Store, name: str, size_bytes: int) -> None:
        self._store, self._name, self._size_bytes = store, name, size_bytes
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size_bytes}[whence]
        self._offset = start + offset
        return self._offset

    def readinto(self, buffer: Any) -> int:
        size_bytes = max(0, min(len(buffer), self._size_bytes - self._offset))
        buffer[:size_bytes] = self._store.read_at(self._name, offset=self._offset, size_bytes=size_bytes)
        self._offset += size_bytes
        return size_bytes
