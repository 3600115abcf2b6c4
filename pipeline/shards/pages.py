"""The pages of mapped shards: read ahead, brought in, dropped from memory again.

    pages = MappedPages(mapped, [shard.path for shard in split.shards])
    pages.request(3, 0, 1 << 20)        # the disk begins to read the first MB of shard 3; returns at once
    pages.load(3, 0, 1 << 20)           # waits until it is there; reading the array is then no fault
    pages.drop(3, 0, 1 << 20)           # neither this process nor the page cache holds it any more

These are hints about where bytes are held: whatever is done here, reading the mapped array gives the file's bytes.

Linux: `posix_fadvise` and `madvise`, with MADV_POPULATE_READ (5.14) to wait for pages and to enter them into the page
table in one call. Without that, `load` reads the range into a scratch buffer, which waits as well. What another
process has mapped stays in the page cache.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from pipeline.shards.errors import DamageError
from pipeline.shards.mapping import MappedFiles

# Linux cuts one request to the larger of the disk's read-ahead (128 kB as it comes) and its largest transfer.
REQUEST_BYTES = 128 << 10
SCRATCH_BYTES = 1 << 20
MADV_POPULATE_READ = 22
# Files held open: requests go by a few shards at a time, and a split may have more than a process may open.
MAX_OPEN_FILES = 64


class MappedPages:
    """Maps the files into their places and advises about their pages. For one thread."""

    def __init__(self, mapped: MappedFiles, paths: Sequence[Path]) -> None:
        """Map all files.

        Raises:
            OSError: one cannot be mapped, or has another size than was said.
        """
        self._mapped, self._paths = mapped, paths
        for number, path in enumerate(paths):
            mapped.map_file(number, path)
        self._address = mapped.array.ctypes.data
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        # A fault beside what was loaded then reads its own page and not the disk's whole read-ahead around it.
        self._advise(0, len(mapped.array), mmap.MADV_RANDOM)
        self._can_populate = True
        self._scratch = memoryview(b"")
        self._open: OrderedDict[int, int] = OrderedDict()

    def request(self, shard: int, offset: int, size_bytes: int) -> None:
        """Have the disk begin to read a range; blocks only while its queue is full."""
        if not hasattr(os, "posix_fadvise"):
            return
        descriptor = self._descriptor(shard)
        for start in range(offset, offset + size_bytes, REQUEST_BYTES):
            size = min(REQUEST_BYTES, offset + size_bytes - start)
            os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_WILLNEED)

    def load(self, shard: int, offset: int, size_bytes: int) -> None:
        """Return when a range is in memory, which is not empty. `offset` is a multiple of the page size.

        Raises:
            DamageError: the disk cannot read it, or the file has become shorter.
        """
        if self._can_populate:
            code = self._advise(int(self._mapped.starts[shard]) + offset, size_bytes, MADV_POPULATE_READ)
            if code == 0:
                return
            if code not in (errno.EINVAL, errno.ENOSYS):
                raise self._unreadable(shard, offset, os.strerror(code))
            self._can_populate = False
        self._read(shard, offset, size_bytes)

    def drop(self, shard: int, offset: int, size_bytes: int) -> None:
        """Give a range's memory back. `offset` is a multiple of the page size, and the size too but at a file's end."""
        self._advise(int(self._mapped.starts[shard]) + offset, size_bytes, mmap.MADV_DONTNEED)
        if hasattr(os, "posix_fadvise"):
            page_bytes = -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
            os.posix_fadvise(self._descriptor(shard), offset, page_bytes, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the files; the mapping is its owner's."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _advise(self, start: int, size_bytes: int, advice: int) -> int:
        """Advise about a part of the range and return the error's number, 0 for none."""
        if self._libc.madvise(self._address + start, size_bytes, advice):
            return ctypes.get_errno()
        return 0

    def _read(self, shard: int, offset: int, size_bytes: int) -> None:
        if not self._scratch:
            self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        end = offset + size_bytes
        while offset < end:
            try:
                num_read = os.preadv(
                    self._descriptor(shard), [self._scratch[: min(SCRATCH_BYTES, end - offset)]], offset
                )
            except OSError as error:
                raise self._unreadable(shard, offset, str(error.strerror)) from None
            if num_read == 0:
                raise self._unreadable(shard, offset, "the file ends here")
            offset += num_read

    def _unreadable(self, shard: int, offset: int, reason: str) -> DamageError:
        path = self._paths[shard]
        return DamageError(
            f"{path}: cannot be read from byte {offset:,} on ({reason}): it was changed while it was in use,"
            " or the disk fails; see what is damaged with python -m data_prep.verify"
        )

    def _descriptor(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) == MAX_OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        self._open[shard] = os.open(self._paths[shard], os.O_RDONLY)
        return self._open[shard]
