"""Zips read in place."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.storage import Store


class ZipEntry(NamedTuple):
    """A file in a zip: its name, where its local header lies, its stored and its unpacked size."""

    name: str
    offset: int
    size_bytes: int
    unpacked_bytes: int


def list_zip(store: Store, name: str) -> list[ZipEntry]:
    """Return the files of a zip in the order of its directory; folders are skipped."""
    raise NotImplementedError


def read_zip_entry(store: Store, name: str, *, offset: int, size_bytes: int, max_bytes: int) -> bytes:
    """Return one file's bytes, unpacked and checked."""
    raise NotImplementedError
