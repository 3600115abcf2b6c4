"""Downloading a file in ranged pieces, several in flight, into an open file; what fails is asked for again.

    pieces = PieceThreads(16)
    download(file, descriptor, pieces=pieces, patience_s=600, is_stopped=lambda: False)

A piece that fails for a reason that may pass (PassingError: no connection, 5xx, a body that broke off) is asked for
again, with growing pauses, until nothing of it has come for `patience_s`; the pieces that came are kept. Pieces are
written and hashed in their order, so the SHA-256 is known when the last one is, and nothing is read back.

A download that was stopped or killed goes on where it was: pipeline/data/part_mark.py says how far it came. Whether
the file is the same at the server still is asked of nobody: the manifest's SHA-256 decides, at the end, over all bytes.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import lru_cache

from pipeline.data.cache_entry import RemoteFile
from pipeline.data.part_mark import came_bytes, mark
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import PassingError, Store, open_store

log = logging.getLogger(__name__)

PIECE_BYTES = 8 << 20
PIECES_IN_FLIGHT = 6
# Of the store's own attempts at one request, before it is said that the server fails.
ATTEMPT_S = 20
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 15.0
TELL_EVERY_S = 15.0
_POLL_S = 0.2


class StoppedError(Exception):
    """Nobody wants the file any more."""


class WrongBytesError(DamageError):
    """All bytes came, and they are not those of the manifest."""


class PieceThreads:
    """A few threads that run what they are given. They are daemons: a request in flight holds up no end of a run."""

    def __init__(self, num_threads: int) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[bytes], Callable[[], bytes]] | None] = queue.SimpleQueue()
        self._num_threads = num_threads
        self._told_s = -math.inf
        for number in range(num_threads):
            threading.Thread(target=self._run, name=f"download-{number}", daemon=True).start()

    def submit(self, job: Callable[[], bytes]) -> Future[bytes]:
        future: Future[bytes] = Future()
        self._jobs.put((future, job))
        return future

    def tell(self, error: Exception) -> None:
        """Log that a request failed and is repeated; once a while, as many fail at a time."""
        if time.monotonic() - self._told_s > TELL_EVERY_S:
            self._told_s = time.monotonic()
            log.warning("data: %s; asked again", error)

    def close(self) -> None:
        for _ in range(self._num_threads):
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, read = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(read())
                except BaseException as error:
                    future.set_exception(error)


def download(
    file: RemoteFile,
    descriptor: int,
    *,
    pieces: PieceThreads,
    patience_s: float,
    is_stopped: Callable[[], bool],
    count: Callable[[int], None] = lambda _: None,
) -> None:
    """Write all of a file to an open one, or the rest, where an earlier download of the same file was broken off.

    Args:
        descriptor: open to read and write, of the file's size.
        patience_s: how long a piece may fail before that is an error.
        is_stopped: asked now and then; true ends the download.
        count: told of bytes as they come.

    Raises:
        StoppedError: it was stopped.
        WrongBytesError: the SHA-256 is not the manifest's.
        UserError: it cannot be had; the message has the URL and the reason.
        OSError: it cannot be written.
    """
    store = _opened(file.location)
    first = came_bytes(descriptor, size_bytes=file.size_bytes)
    offsets = iter(range(first, file.size_bytes, PIECE_BYTES))
    waiting: deque[tuple[int, Future[bytes]]] = deque()
    digest = hashlib.sha256()
    is_over = False

    def submit() -> None:
        if (offset := next(offsets, None)) is not None:
            size_bytes = min(PIECE_BYTES, file.size_bytes - offset)
            waiting.append((offset, pieces.submit(lambda: read(offset, size_bytes))))

    def read(offset: int, size_bytes: int) -> bytes:
        return _read(
            store,
            file,
            offset,
            size_bytes,
            patience_s=patience_s,
            is_stopped=lambda: is_over or is_stopped(),
            tell=pieces.tell,
        )

    try:
        for _ in range(PIECES_IN_FLIGHT):
            submit()
        if first:
            log.info("data: %s: going on after %.1f of %.1f MB", file.url, first / 1e6, file.size_bytes / 1e6)
            _hash_start(digest, descriptor, first)
        while waiting:
            offset, future = waiting.popleft()
            content = _result(future, is_stopped)
            submit()
            count(len(content))
            _write(descriptor, content, offset)
            digest.update(content)
            mark(descriptor, came_bytes=offset + len(content), size_bytes=file.size_bytes)
    finally:
        is_over = True
        for _, future in waiting:
            future.cancel()
    if digest.hexdigest() != file.sha256:
        raise WrongBytesError(
            f"{file.url}: its SHA-256 is not the manifest's: the file was changed or damaged there, or on its way"
        )


def _read(
    store: Store,
    file: RemoteFile,
    offset: int,
    size_bytes: int,
    *,
    patience_s: float,
    is_stopped: Callable[[], bool],
    tell: Callable[[Exception], None],
) -> bytes:
    """Return a piece, however often it has to be asked for."""
    started_s = time.monotonic()
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return store.read_at(file.name, offset=offset, size_bytes=size_bytes)
        except PassingError as error:
            tried_s = time.monotonic() - started_s
            if tried_s + pause_s > patience_s:
                raise UserError(f"{error} (tried for {tried_s:.0f} s, cache.patience_s={patience_s:g})") from None
            tell(error)
        deadline_s = time.monotonic() + pause_s * random.uniform(0.5, 1)
        while (left_s := deadline_s - time.monotonic()) > 0:
            if is_stopped():
                raise StoppedError
            time.sleep(min(_POLL_S, left_s))
        pause_s = min(2 * pause_s, MAX_PAUSE_S)


def _result(future: Future[bytes], is_stopped: Callable[[], bool]) -> bytes:
    while True:
        try:
            return future.result(timeout=_POLL_S)
        except FutureTimeoutError:
            if future.done():
                return future.result()
            if is_stopped():
                future.cancel()
                raise StoppedError from None


def _hash_start(digest: hashlib._Hash, descriptor: int, num_bytes: int) -> None:
    """Hash what an earlier download has left."""
    for offset in range(0, num_bytes, PIECE_BYTES):
        digest.update(os.pread(descriptor, min(PIECE_BYTES, num_bytes - offset), offset))


def _write(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


@lru_cache(maxsize=16)
def _opened(location: str) -> Store:
    return open_store(location, retry_s=ATTEMPT_S)
