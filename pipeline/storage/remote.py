"""A URL prefix as a store, through obstore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pipeline.storage.base import StoredFile


class RemoteStore:
    """The files below a URL."""

    def __init__(self, location: str) -> None:
        self.location = location

    def size_of(self, name: str) -> int | None:
        raise NotImplementedError

    def read_bytes(self, name: str, *, max_bytes: int) -> bytes:
        raise NotImplementedError

    def read_at(self, name: str, *, offset: int, size_bytes: int) -> bytes:
        raise NotImplementedError

    def list_files(self, prefix: str = "") -> list[StoredFile]:
        raise NotImplementedError

    @contextmanager
    def publish(self, name: str) -> Iterator[BinaryIO]:
        raise NotImplementedError
        yield

    def remove(self, name: str) -> None:
        raise NotImplementedError

    def local_path(self, name: str) -> None:
        return None
