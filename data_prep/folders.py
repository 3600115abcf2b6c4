"""Folders that this package writes to: made for a block and taken back when it fails, owned by one process at a time.

with created_folder(Path("data/pets"), option="out"), locked_folder(Path("data/pets"), busy="...", wait=False):
    ...
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.shards.errors import UserError

logger = logging.getLogger(__name__)


@contextmanager
def created_folder(folder: Path, *, option: str) -> Iterator[None]:
    """Make `folder` and its parents for the block; on an exception remove those that were made and are empty.

    Raises:
        UserError: it cannot be made or written to; the message names `option`.
    """
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "no permission to write", str(folder))
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{option}={folder}: cannot be written to ({error.strerror}); choose another folder") from None
    try:
        yield
    except BaseException:
        for parent in created:
            with suppress(OSError):
                parent.rmdir()
        raise


@contextmanager
def locked_folder(folder: Path, *, busy: str, wait: bool) -> Iterator[None]:
    """Hold the folder's lock, which dies with its owner and leaves no file; a file system without locks goes without.

    Args:
        folder: exists.
        busy: what to say where another process holds it.
        wait: for the other process to end; otherwise it is an error.

    Raises:
        UserError: another process holds it, and `wait` is false.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise UserError(busy) from None
            logger.info("%s", busy)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            logger.info("%s cannot be locked; going on without a lock", folder)
        yield
    finally:
        os.close(descriptor)
