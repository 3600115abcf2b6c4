"""A .tar.gz read at unpacked offsets, without unpacking it to disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.storage import Store


def open_gzip(store: Store, name: str, *, index_path: Path, on_progress: Callable[[int], None] | None = None) -> Store:
    """Return a store in which the file `name` stands for what the gzip file `name` unpacks to.

    Args:
        store: where the gzip file lies.
        name: its name there.
        index_path: the index of its unpacked offsets; built in one pass when it is not there, else used.
        on_progress: called with the packed bytes newly read while the index is built.
    """
    raise NotImplementedError
