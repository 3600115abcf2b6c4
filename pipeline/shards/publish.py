"""Atomic publishing: a file is either whole under its name or not there at all.

    with publish(Path("train/shard-000000.tar")) as stream:
        stream.write(record)

Bytes go to `.<name>.<random>.part` beside the target, then fsync, rename, fsync of the folder. Two writers of one
target do not meet: each has a part file of its own, and the last to rename wins. Leaving the block by an exception
removes the part file; a killed process leaves one behind, which `remove_part_files` clears.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

PART_SUFFIX = ".part"

# Opens a name for writing; what is written appears under it, whole, when the block ends without an exception.
Publish = Callable[[str], AbstractContextManager[BinaryIO]]


@contextmanager
def publish(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary stream, named as the part file, whose bytes appear at `path` when the block ends well."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
    try:
        with part.open("xb", buffering=1 << 18) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def publish_into(folder: Path) -> Publish:
    """Return the function that publishes names in a folder of this machine."""
    return lambda name: publish(folder / name)


def publish_bytes(path: Path, content: bytes) -> None:
    """Publish `content` at `path`."""
    with publish(path) as stream:
        stream.write(content)


def publish_json(path: Path, value: Any) -> bytes:
    """Publish `value` as indented, key-ordered-as-given JSON and return the bytes written."""
    content = (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    publish_bytes(path, content)
    return content


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_part_files(folder: Path) -> None:
    """Remove what killed writers left below `folder`."""
    for part in folder.rglob(f".*{PART_SUFFIX}"):
        part.unlink(missing_ok=True)
