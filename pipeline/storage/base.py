"""What every store gives, and which names it takes.

    store.read_at("train.tar", offset=512, size_bytes=4)        # b"\\xff\\xd8\\xff\\xe0", or an error, never less
    store.size_of("val.tar")                                    # None: not there

Names are relative to the store's location, with "/" between their parts on every system. One that could lead out of
there is refused before anything is opened.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.shards.errors import DamageError, UserError


class PassingError(UserError):
    """What may go well later: there is no connection, or the server fails."""


class BrokenBodyError(DamageError, PassingError):
    """The bytes did not arrive whole, in several attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of a store: its name there, and its size in bytes."""

    name: str
    size_bytes: int


class Store(Protocol):
    """A folder or a URL prefix with files below it. All methods may be called from several threads."""

    @property
    def location(self) -> str:
        """The folder or URL, as it is shown to people."""

    def size_of(self, name: str) -> int | None:
        """Return a file's size in bytes, None where there is no such file."""

    def read_bytes(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole file.

        Raises:
            UserError: missing or unreadable.
            DamageError: longer than `max_bytes`.
        """

    def read_at(self, name: str, *, offset: int, size_bytes: int) -> bytes:
        """Return exactly `size_bytes` bytes from `offset` on.

        Raises:
            UserError: missing or unreadable.
            DamageError: the file ends before that, or the server sent another number of bytes.
        """

    def list_files(self, prefix: str = "") -> list[StoredFile]:
        """Return all files, or those below the folder `prefix`, at any depth, sorted by name.

        Raises:
            UserError: the store cannot list (http), or may not.
        """

    def publish(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Return a block whose stream appears under `name`, whole, when the block ends without an exception."""

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is fine."""

    def local_path(self, name: str) -> Path | None:
        """Return the file's path where it lies on this machine, None where it is remote."""


def check_name(name: str) -> str:
    """Return `name` when it names a file below the location.

    Raises:
        UserError: it is empty or absolute, or has a part that is empty, "." or "..", a backslash or a NUL.
    """
    if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name:
        raise UserError(f"{name!r}: no name of a file in a store; a relative one is wanted, as in train/a.tar")
    return name
