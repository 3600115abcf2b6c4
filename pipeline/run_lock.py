"""One process at a time trains in a run folder: a lock that dies with its owner.

with hold_run(Path("runs/0001")):       # UserError where another process holds it
    ...
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.shards.errors import UserError

LOCK_FILE = "run.lock"


@contextmanager
def hold_run(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; file systems without locks are trusted.

    Raises:
        UserError: another process holds it, named as it named itself.
    """
    path = folder / LOCK_FILE
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                stream.seek(0)
                owner = stream.read().strip() or "another process"
                raise UserError(
                    f"run_dir={folder}: {owner} is training there now; end it first, or choose another run_dir"
                ) from None
        else:
            stream.truncate(0)
            stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            stream.flush()
        yield
