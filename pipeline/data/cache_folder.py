"""The folder of a node-local cache, shared by any number of processes: who uses what, how much there is, what goes.

    folder = CacheFolder(Path("~/.cache/tarmac").expanduser(), max_bytes=100_000_000_000)
    claim = folder.claim(entry)                 # None: another process is downloading it
    folder.make_room(claim, next_use=ranks)     # False: what else is there is in use
    ...                                         # write to claim.parts
    with claim.publish() as pin:                # the files are in place, and stay while the pin is held
        folder.path_of(entry, 0)

An entry is a shard and its sidecar. Its files are `<key>.0-shard-000000.tar` and `<key>.1-shard-000000.idx.npy`, while
they are being downloaded `<key>.0.part` and `<key>.1.part`. The first file carries the entry's lock: held exclusively
by who downloads or evicts it, shared by who reads it. Locks are flocks on open files, so the kernel lets go of them
with their owner, however it ends.

The sizes of all files below the folder, parts at their full size from the start, never exceed `max_bytes` by a
download: room is reserved, and what is in the way evicted, under one lock around the accounting.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from pipeline.data.cache_entry import KEY_DIGITS, CacheEntry
from pipeline.data.file_locks import Pin, allocate, is_at, lock_at_once
from pipeline.data.part_mark import came_bytes
from pipeline.shards.errors import UserError
from pipeline.shards.publish import fsync_folder

SHARDS_FOLDER = "shards"
PART = "part"
_PAUSE_S = 0.01
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

# Returns the step at which an entry (by key) is used next, infinity for not in sight.
NextUse = Callable[[str], float]


class CacheFolder:
    """One process's view of the folder; safe to use from several threads.

    Raises:
        UserError: the folder cannot be made or written to.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self.root, self.max_bytes = root, max_bytes
        self._shards = root / SHARDS_FOLDER
        try:
            self._shards.mkdir(parents=True, exist_ok=True)
            for name in ("lock", "hungry"):
                os.close(os.open(root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise UserError(f"cache.dir={root}: cannot be written to ({error.strerror}); give another folder") from None

    def path_of(self, entry: CacheEntry, number: int) -> Path:
        """Return where file `number` of an entry is, or will be."""
        return self._shards / f"{entry.key}.{number}-{entry.files[number].name.rpartition('/')[2]}"

    def pin(self, entry: CacheEntry) -> Pin | None:
        """Return a pin on an entry that is there, None where it is not."""
        path = self.path_of(entry, 0)
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            if lock_at_once(descriptor, fcntl.LOCK_SH) and is_at(descriptor, path):
                break
            os.close(descriptor)
            time.sleep(_PAUSE_S)
        pin = Pin(descriptor)
        if not self._is_whole(entry):
            pin.close()
            self.discard(entry)
            return None
        with suppress(PermissionError):  # another user's
            os.utime(path)
        return pin

    def discard(self, entry: CacheEntry) -> None:
        """Remove an entry that is not what it should be; who has it mapped keeps what is mapped."""
        for number in range(len(entry.files)):
            self.path_of(entry, number).unlink(missing_ok=True)

    def claim(self, entry: CacheEntry) -> Claim | None:
        """Return the right to download an entry; None while another has it, or as soon as the entry is there."""
        part = self._part_of(entry, 0)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not lock_at_once(descriptor, fcntl.LOCK_EX) or not is_at(descriptor, part):
            os.close(descriptor)
            return None
        claim = Claim(self, entry, descriptor)
        if self.path_of(entry, 0).exists():
            claim.close()
            return None
        return claim

    def make_room(self, claim: Claim, *, next_use: NextUse) -> bool:
        """Reserve the bytes of a claim's entry, evicting what is used later; False where the rest is in use.

        Nothing is evicted in vain. First go leftovers of killed processes, then what has no use in sight, least
        recently used first, then what is used latest.

        Raises:
            OSError: the disk cannot be written to; a full one is no room.
        """
        entry = claim.entry
        with self.accounting(), ExitStack() as stack:
            groups, used_bytes = self._scan()
            used_bytes -= sum(size for _, size in groups.pop(entry.key, _Group()).files)
            victims = self._lockable(groups, stack, next_use=next_use, before=next_use(entry.key))
            chosen: list[_Group] = []
            while used_bytes + entry.size_bytes > self.max_bytes:
                if (group := next(victims, None)) is None:
                    return False
                chosen.append(group)
                used_bytes -= group.size_bytes
            for group in chosen:
                group.remove()
            while True:
                try:
                    claim.reserve()
                except OSError as error:
                    if error.errno not in _NO_SPACE:
                        raise
                    # The disk is smaller than max_bytes.
                    if (group := next(victims, None)) is None:
                        return False
                    group.remove()
                else:
                    return True

    def used_bytes(self) -> int:
        """Return the bytes of everything in the folder."""
        return self._scan()[1]

    def bytes_below(self, name: str) -> int:
        """Return the bytes of the files below one of the folders."""
        return sum(path.stat().st_size for path in (self.root / name).rglob("*") if path.is_file())

    @contextmanager
    def accounting(self) -> Iterator[None]:
        """Keep every other thread and process from reserving and evicting."""
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def hunger(self) -> Iterator[None]:
        """Say that a step waits for room, so that others read nothing ahead meanwhile."""
        descriptor = os.open(self.root / "hungry", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def is_hungry(self) -> bool:
        """Tell whether a step of any process waits for room."""
        descriptor = os.open(self.root / "hungry", os.O_RDWR | os.O_CLOEXEC)
        try:
            return not lock_at_once(descriptor, fcntl.LOCK_EX)
        finally:
            os.close(descriptor)

    def _part_of(self, entry: CacheEntry, number: int) -> Path:
        return self._shards / f"{entry.key}.{number}.{PART}"

    def _is_whole(self, entry: CacheEntry) -> bool:
        try:
            sizes = [self.path_of(entry, number).stat().st_size for number in range(len(entry.files))]
        except FileNotFoundError:
            return False
        return sizes == [file.size_bytes for file in entry.files]

    def _scan(self) -> tuple[dict[str, _Group], int]:
        """Return the files of each key, and the bytes of everything in the folder."""
        groups: dict[str, _Group] = {}
        used_bytes = 0
        waiting = [self.root]
        while waiting:
            folder = waiting.pop()
            with os.scandir(folder) as found:
                for file in found:
                    with suppress(FileNotFoundError):
                        if file.is_dir(follow_symlinks=False):
                            waiting.append(Path(file.path))
                            continue
                        told = file.stat(follow_symlinks=False)
                        used_bytes += told.st_size
                        if folder == self._shards:
                            group = groups.setdefault(file.name[:KEY_DIGITS], _Group())
                            group.files.append((Path(file.path), told.st_size))
                            group.used_s = max(group.used_s, told.st_mtime)
        return groups, used_bytes

    def _lockable(
        self, groups: dict[str, _Group], stack: ExitStack, *, next_use: NextUse, before: float
    ) -> Iterator[_Group]:
        """Yield what may go, locked until the stack ends: leftovers, what is of no use, what is used after `before`."""
        uses = {key: next_use(key) for key in groups}
        ranked = sorted(groups.items(), key=lambda item: (item[1].is_published, -uses[item[0]], item[1].used_s))
        for key, group in ranked:
            if group.is_published and uses[key] <= before and uses[key] < math.inf:
                return
            stack.callback(group.unlock)
            if group.lock():
                yield group


@dataclass(slots=True)
class _Group:
    """The files of one key, as a scan found them."""

    files: list[tuple[Path, int]] = field(default_factory=list)
    used_s: float = 0.0
    locks: list[int] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return sum(size for _, size in self.files)

    @property
    def is_published(self) -> bool:
        return any(self._carries_lock(path) and path.suffix != f".{PART}" for path, _ in self.files)

    def lock(self) -> bool:
        """Lock the files; False where somebody has them."""
        for path, _ in self.files:
            if self._carries_lock(path):
                try:
                    # To write, as a network file system wants for an exclusive lock.
                    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                except (FileNotFoundError, PermissionError):
                    return False
                self.locks.append(descriptor)
                if not lock_at_once(descriptor, fcntl.LOCK_EX):
                    return False
        return True

    def unlock(self) -> None:
        while self.locks:
            os.close(self.locks.pop())

    def remove(self) -> None:
        """Remove the files, and give their disk back: while a descriptor is open it is taken."""
        for path, _ in sorted(self.files):
            path.unlink(missing_ok=True)
        self.unlock()

    @staticmethod
    def _carries_lock(path: Path) -> bool:
        return path.name[KEY_DIGITS : KEY_DIGITS + 2] == ".0"


class Claim:
    """The right to download one entry.

    Attributes:
        parts: descriptors to write the entry's files to, once there is room.
        is_kept: whether what came of the entry stays, for the next download of it to go on from.
    """

    def __init__(self, folder: CacheFolder, entry: CacheEntry, descriptor: int) -> None:
        self.entry = entry
        self.parts = [descriptor]
        self.is_kept = False
        self._folder = folder

    def reserve(self) -> None:
        """Take the entry's bytes on the disk."""
        for number, file in enumerate(self.entry.files):
            if number == len(self.parts):
                path = self._folder._part_of(self.entry, number)
                self.parts.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
            os.ftruncate(self.parts[number], file.size_bytes)
            if file.size_bytes:
                allocate(self.parts[number], file.size_bytes)

    def publish(self) -> Pin:
        """Put the files in place, whole also after a loss of power, and return a pin on them."""
        for descriptor in self.parts:
            os.fsync(descriptor)
        # Nobody evicts while the lock goes over from exclusive to shared.
        with self._folder.accounting():
            for number in reversed(range(len(self.entry.files))):
                self._folder._part_of(self.entry, number).rename(self._folder.path_of(self.entry, number))
            fcntl.flock(self.parts[0], fcntl.LOCK_SH)
        fsync_folder(self._folder._shards)
        pin = Pin(self.parts[0])
        for descriptor in self.parts[1:]:
            os.close(descriptor)
        self.parts = []
        return pin

    def close(self) -> None:
        """Let others have the entry; of what is not published the start of its first file may be kept."""
        is_kept = self.is_kept and bool(self.parts) and self._has_start()
        for number in reversed(range(len(self.parts))):
            if not is_kept:
                self._folder._part_of(self.entry, number).unlink(missing_ok=True)
            os.close(self.parts[number])
        self.parts = []

    def _has_start(self) -> bool:
        return came_bytes(self.parts[0], size_bytes=self.entry.files[0].size_bytes) > 0

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
