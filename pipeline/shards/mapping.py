"""All shards of a split, mapped read-only into one range of addresses: a tar is an array, many tars are one.

    with MappedFiles([shard.path for shard in split.shards]) as mapped:
        mapped.array            # uint8, every byte of every shard; file k starts at mapped.starts[k]

A record's pixels are then at `starts[shard] + row * record_bytes + pixel_offset`, so one gather fills a batch from
any number of shards. Python's `mmap` cannot place a mapping at an address, hence libc's mmap through ctypes
(POSIX mmap with MAP_FIXED over a reserved range; Linux and macOS).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

PROT_NONE = 0x0
MAP_FIXED = 0x10
MAP_FAILED = ctypes.c_void_p(-1).value


class MappedFiles:
    """Owns the range; `array` must not outlive it. An empty file takes no room."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Map every file. Raises OSError where one cannot be opened or mapped."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        flags = (ctypes.c_int, ctypes.c_int, ctypes.c_int)
        self._libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *flags, ctypes.c_long)
        self._libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        sizes = np.array([path.stat().st_size for path in paths], dtype=np.int64)
        rooms = -(-sizes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.starts: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(rooms)[:-1]]).astype(np.int64)
        self._length = max(mmap.PAGESIZE, int(rooms.sum()))
        self._address: int | None = self._map(0, self._length, PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANON, -1)
        try:
            for path, start, size in zip(paths, self.starts, sizes, strict=True):
                if size:
                    self._map_file(path, self._address + int(start), int(size))
        except BaseException:
            self.close()
            raise
        view = (ctypes.c_uint8 * self._length).from_address(self._address)
        # Not marked read-only, since torch warns of that: the pages themselves are, a write is a fault.
        self.array: npt.NDArray[np.uint8] = np.ctypeslib.as_array(view)

    def _map_file(self, path: Path, address: int, size: int) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self._map(address, size, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED, descriptor)
        finally:
            os.close(descriptor)

    def _map(self, address: int, length: int, protection: int, flags: int, descriptor: int) -> int:
        mapped = self._libc.mmap(address, length, protection, flags, descriptor, 0)
        if mapped is None or mapped == MAP_FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return int(mapped)

    def close(self) -> None:
        """Give the addresses back; reading `array` after this is a segmentation fault, so it is dropped."""
        if self._address is not None:
            self.array = np.empty(0, dtype=np.uint8)
            self._libc.munmap(self._address, self._length)
            self._address = None

    def __enter__(self) -> MappedFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
