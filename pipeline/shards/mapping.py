"""All shards of a split, mapped read-only into one range of addresses: a tar is an array, many tars are one.

    with MappedFiles([shard.size_bytes for shard in split.shards]) as mapped:
        mapped.map_file(0, split.shards[0].path)
        mapped.array            # uint8, every byte of every shard; file k starts at mapped.starts[k]
        mapped.unmap_file(0)    # its addresses stay its own

A record's pixels are then at `starts[shard] + row * record_bytes + pixel_offset`, so one gather fills a batch from
any number of shards. Python's `mmap` cannot place a mapping at an address, hence libc's mmap through ctypes
(POSIX mmap with MAP_FIXED over a reserved range; Linux and macOS).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

PROT_NONE = 0x0
MAP_FIXED = 0x10
MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0)
# Files start at multiples of this, so that the kernel can map them by pages of 2 MB; only addresses are spent.
PLACE_BYTES = 2 << 20
MAP_FAILED = ctypes.c_void_p(-1).value


class MappedFiles:
    """Owns the range; `array` must not outlive it. An empty file takes no room.

    Reading where no file is mapped is a segmentation fault, and so is reading beyond the end of a file that was cut
    after it was mapped (a bus error).
    """

    def __init__(self, sizes_bytes: Sequence[int]) -> None:
        """Reserve addresses for files of these sizes; nothing is mapped yet."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        flags = (ctypes.c_int, ctypes.c_int, ctypes.c_int)
        self._libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *flags, ctypes.c_long)
        self._libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self.sizes_bytes: npt.NDArray[np.int64] = np.array(sizes_bytes, dtype=np.int64)
        rooms = -(-self.sizes_bytes // PLACE_BYTES) * PLACE_BYTES
        self.starts: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(rooms)[:-1]]).astype(np.int64)
        self._length = max(PLACE_BYTES, int(rooms.sum()))
        self._reserved = self._reserve(0, self._length + PLACE_BYTES)
        self._address: int | None = -(-self._reserved // PLACE_BYTES) * PLACE_BYTES
        view = (ctypes.c_uint8 * self._length).from_address(self._address)
        # Not marked read-only, since torch warns of that: the pages themselves are, a write is a fault.
        self.array: npt.NDArray[np.uint8] = np.ctypeslib.as_array(view)

    def map_file(self, number: int, path: Path) -> None:
        """Map file `number` into its place, over what was there.

        Raises:
            OSError: it cannot be opened or mapped, or has another size than was said.
        """
        size = int(self.sizes_bytes[number])
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if (found := os.fstat(descriptor).st_size) != size:
                raise OSError(errno.EINVAL, f"has {found} bytes, {size} wanted", str(path))
            if size:
                flags = mmap.MAP_SHARED | MAP_FIXED
                self._map(self._address_of(number), size, mmap.PROT_READ, flags, descriptor)
        finally:
            os.close(descriptor)

    def unmap_file(self, number: int) -> None:
        """Put reserved addresses in a file's place, which lets go of its pages, and of its disk if it is deleted."""
        if size := int(self.sizes_bytes[number]):
            self._reserve(self._address_of(number), size)

    def _address_of(self, number: int) -> int:
        if self._address is None:
            raise ValueError("the mapping is closed")
        return self._address + int(self.starts[number])

    def _reserve(self, address: int, length: int) -> int:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANON | (MAP_FIXED if address else 0) | MAP_NORESERVE
        return self._map(address, length, PROT_NONE, flags, -1)

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
            self._libc.munmap(self._reserved, self._length + PLACE_BYTES)
            self._address = None

    def __enter__(self) -> MappedFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
