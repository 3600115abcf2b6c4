"""The pages of mapped shards: brought in, and dropped from memory again.

    pages = MappedPages(mapped, [shard.path for shard in split.shards], is_large=True)
    pages.load(3, 0, 2 << 20)           # waits until these 2 MB of shard 3 are there; reading them is then no fault
    pages.drop(3, 0, 2 << 20)           # neither this process nor the page cache holds them any more

These are hints about where bytes are held: whatever is done here, reading the mapped array gives the file's bytes.

Linux. MADV_POPULATE_READ (5.14) reads pages and enters them into the page table in one call; `drop` is `madvise` and
`posix_fadvise` DONTNEED. With MADV_HUGEPAGE and MADV_RANDOM a fault reads one aligned piece of 2 MB, no more and no
less, since 5.18, and where the file system has large folios (XFS 5.18, ext4 6.16, Btrfs 6.17) as one page of 2 MB.
Measured over 2.3 GB on ext4, 6.18, 4 threads: 2,600 MB/s and 0.05 s of processor time, against 1,140 MB/s and 1.0 s
by `posix_fadvise(WILLNEED)` and pages of 4 kB, and 1,210 MB/s and 0.6 s by `pread` into a buffer in one thread.

Elsewhere `load` reads the range into a scratch buffer, which brings it in as well. What another process has mapped
stays in the page cache.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from pathlib import Path

from pipeline.shards.errors import DamageError
from pipeline.shards.mapping import MappedFiles

# Linux cuts one request to the larger of the disk's read-ahead (128 kB as it comes) and its largest transfer.
REQUEST_BYTES = 128 << 10
LARGE_BYTES = 2 << 20
MADV_POPULATE_READ = 22
# Files held open by a thread: requests go by a few shards at a time, and a split may have more than a process may open.
MAX_OPEN_FILES = 64


class MappedPages:
    """Maps the files into their places and advises about their pages. For several threads,
    each of which has files open of its own; `close` is for when they have ended."""

    def __init__(self, mapped: MappedFiles, paths: Sequence[Path], *, is_large: bool) -> None:
        """Map all files.

        Args:
            is_large: ranges to load and drop are those between multiples of LARGE_BYTES.

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
        self._reads_large = False
        if is_large and _kernel() >= (5, 18):
            self._reads_large = self._advise(0, len(mapped.array), mmap.MADV_HUGEPAGE) == 0
        self._can_populate = _kernel() >= (5, 14)
        self._open: defaultdict[int, OrderedDict[int, int]] = defaultdict(OrderedDict)

    def load(self, shard: int, offset: int, size_bytes: int) -> None:
        """Return when a range is in memory, which is not empty. `offset` is a multiple of the page size.

        Raises:
            DamageError: the disk cannot read it, or the file has become shorter.
        """
        if not self._can_populate:
            self._read(shard, offset, size_bytes)
            return
        if not self._reads_large:
            descriptor = self._descriptor(shard)
            for start in range(offset, offset + size_bytes, REQUEST_BYTES):
                size = min(REQUEST_BYTES, offset + size_bytes - start)
                os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_WILLNEED)
        if code := self._advise(int(self._mapped.starts[shard]) + offset, size_bytes, MADV_POPULATE_READ):
            raise self._unreadable(shard, offset, os.strerror(code))

    def drop(self, shard: int, offset: int, size_bytes: int) -> None:
        """Give a range's memory back. `offset` is a multiple of the page size, and the size too but at a file's end."""
        self._advise(int(self._mapped.starts[shard]) + offset, size_bytes, mmap.MADV_DONTNEED)
        if hasattr(os, "posix_fadvise"):
            page_bytes = -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
            os.posix_fadvise(self._descriptor(shard), offset, page_bytes, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the files; the mapping is its owner's."""
        for files in self._open.values():
            for descriptor in files.values():
                os.close(descriptor)
        self._open.clear()

    def _advise(self, start: int, size_bytes: int, advice: int) -> int:
        """Advise about a part of the range and return the error's number, 0 for none."""
        if self._libc.madvise(self._address + start, size_bytes, advice):
            return ctypes.get_errno()
        return 0

    def _read(self, shard: int, offset: int, size_bytes: int) -> None:
        scratch = memoryview(bytearray(size_bytes))
        end = offset + size_bytes
        while offset < end:
            try:
                num_read = os.preadv(self._descriptor(shard), [scratch[: end - offset]], offset)
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
        files = self._open[threading.get_ident()]
        if shard not in files:
            if len(files) == MAX_OPEN_FILES:
                os.close(files.popitem(last=False)[1])
            files[shard] = os.open(self._paths[shard], os.O_RDONLY)
        files.move_to_end(shard)
        return files[shard]


def _kernel() -> tuple[int, int]:
    """Return Linux's version, (0, 0) elsewhere."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release) if sys.platform == "linux" else None
    return (int(found[1]), int(found[2])) if found else (0, 0)
