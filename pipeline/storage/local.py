"""A folder as a store.

    store = LocalStore(Path("data/imagenet"))
    store.read_at("train.tar", offset=512, size_bytes=4)

Reads are `pread`s on descriptors kept open: listing a large tar takes a million of them. The oldest of too many
descriptors is closed when the last thread that reads through it lets go. What another process puts in a file's
place is seen once its descriptor is closed; what this store publishes or removes, at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.publish import PART_SUFFIX, publish
from pipeline.storage.base import StoredFile, check_name

MAX_OPEN_FILES = 64
_MAX_UNCHECKED_BYTES = 1 << 20  # a read sets memory aside for what is asked, so more than this is checked before


class LocalStore:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self.location = str(root)
        self._root = root
        self._open: dict[str, _OpenFile] = {}
        self._lock = Lock()

    def size_of(self, name: str) -> int | None:
        """Return a file's size in bytes, None where there is no such file."""
        path = self.local_path(name)
        with _explain(path):
            try:
                return path.stat().st_size if path.is_file() else None
            except FileNotFoundError:
                return None

    def read_bytes(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole file of at most `max_bytes`."""
        path = self.local_path(name)
        with _explain(path), path.open("rb") as stream:
            content = stream.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise DamageError(f"{path}: longer than the {max_bytes} bytes that such a file can have")
        return content

    def read_at(self, name: str, *, offset: int, size_bytes: int) -> bytes:
        """Return exactly `size_bytes` bytes from `offset` on."""
        opened = self._open.get(name) or self._opened(name)
        try:
            if size_bytes > _MAX_UNCHECKED_BYTES:
                self._check_end(name, opened, offset + size_bytes)
            content = os.pread(opened.descriptor, size_bytes, offset)
            while len(content) < size_bytes:  # the end of the file, or more than the kernel gives in one call
                piece = os.pread(opened.descriptor, size_bytes - len(content), offset + len(content))
                if not piece:
                    self._check_end(name, opened, offset + size_bytes)
                content += piece
        except OSError as error:
            raise UserError(f"{self._root / name}: cannot be read ({error.strerror})") from None
        return content

    def list_files(self, prefix: str = "") -> list[StoredFile]:
        """Return all files below the folder `prefix`, sorted by name; unfinished ones are left out.

        Raises:
            UserError: a folder that cannot be listed, a link to a folder, or a name that is not UTF-8.
        """
        start = self._root / check_name(prefix) if prefix else self._root
        return sorted(_files_below(start, prefix), key=lambda file: file.name) if start.is_dir() else []

    @contextmanager
    def publish(self, name: str) -> Iterator[BinaryIO]:
        """Write a file that appears whole under `name` at the end of the block; folders are made as needed."""
        path = self.local_path(name)
        with ExitStack() as stack:
            with _explain(path, verb="written"):
                path.parent.mkdir(parents=True, exist_ok=True)
                stream = stack.enter_context(publish(path))
            yield stream
        self._forget(name)

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is fine."""
        path = self.local_path(name)
        with _explain(path, verb="removed"):
            path.unlink(missing_ok=True)
        self._forget(name)

    def local_path(self, name: str) -> Path:
        """Return the file's path."""
        return self._root / check_name(name)

    def _check_end(self, name: str, opened: _OpenFile, end: int) -> None:
        found = os.fstat(opened.descriptor).st_size
        if found < end:
            raise DamageError(f"{self._root / name}: ends at byte {found}, {end} were wanted; get the file again")

    def _opened(self, name: str) -> _OpenFile:
        path = self.local_path(name)
        with _explain(path):
            opened = _OpenFile(path)
        with self._lock:
            self._open[name] = opened
            while len(self._open) > MAX_OPEN_FILES:
                del self._open[next(iter(self._open))]
        return opened

    def _forget(self, name: str) -> None:
        with self._lock:
            self._open.pop(name, None)


class _OpenFile:
    """A descriptor that lives as long as somebody holds it."""

    __slots__ = ("descriptor",)

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _files_below(folder: Path, name: str) -> Iterator[StoredFile]:
    waiting = [(folder, f"{name}/" if name else "")]
    while waiting:
        folder, prefix = waiting.pop()
        with _explain(folder, verb="listed"), os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.isascii():
                    _check_utf8(entry)
                if entry.is_dir():
                    if entry.is_symlink():
                        raise UserError(f"{entry.path}: a link to a folder; refused, put the folder itself there")
                    waiting.append((Path(entry.path), f"{prefix}{entry.name}/"))
                elif entry.is_file() and not (entry.name.startswith(".") and entry.name.endswith(PART_SUFFIX)):
                    yield StoredFile(name=prefix + entry.name, size_bytes=entry.stat().st_size)


def _check_utf8(entry: os.DirEntry[str]) -> None:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{ascii(entry.path)[1:-1]}: the name is not UTF-8; rename it") from None


@contextmanager
def _explain(path: Path, *, verb: str = "read") -> Iterator[None]:
    """Turn what the operating system says into one line that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{path}: cannot be {verb} ({error.strerror})") from None
