"""A node-local cache of remote shards: whole files, checked, shared by all ranks and by several runs.

    cache = ShardCache(CacheOptions(dir="~/.cache/tarmac", max_bytes=100_000_000_000))
    pin = cache.fetch(entry, next_use=steps, is_urgent=lambda: True, is_stopped=lambda: False)
    cache.folder.path_of(entry, 0)      # the shard; it stays while the pin is held

What is there is there whole, under a name that its URL and checksum decide, and was checked against the manifest's
SHA-256 on its way. Of several processes that want an entry one downloads it. docs/STREAMING.md says what is promised.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.cache_entry import CacheEntry
from pipeline.data.cache_folder import CacheFolder, Claim, NextUse
from pipeline.data.download import PieceThreads, StoppedError, WrongBytesError, download
from pipeline.data.file_locks import Pin
from pipeline.shards.check import file_sha256
from pipeline.shards.errors import UserError

log = logging.getLogger(__name__)

NUM_PIECE_THREADS = 16
WRONG_BYTES_PAUSES_S = (0.5, 4.0)
_POLL_S = 0.05
_ROOM_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """What a user chooses.

    Attributes:
        dir: the folder, "~" allowed.
        max_bytes: what all files in it may have together.
        patience_s: how long a server may fail, or room in the cache be taken by others, before that is an error.
        recheck: read what is in the cache already again, when it is first used, and check it.
    """

    dir: str = "~/.cache/tarmac"
    max_bytes: int = 100_000_000_000
    patience_s: float = 600.0
    recheck: bool = False

    @property
    def root(self) -> Path:
        return Path(self.dir).expanduser().absolute()


class ShardCache:
    """Fetches entries into the folder; may be used by several threads and feeds.

    Attributes:
        bytes_downloaded, num_downloads: since it was opened.
        num_hits: entries that were there already when they were wanted.
    """

    def __init__(self, options: CacheOptions) -> None:
        """Open a folder, making it where it is not there.

        Raises:
            UserError: it cannot be written to.
        """
        self.options = options
        self.folder = CacheFolder(options.root, max_bytes=options.max_bytes)
        self.bytes_downloaded = self.num_downloads = self.num_hits = 0
        self._counting = threading.Lock()
        self._checked: set[str] = set()
        self._pieces: PieceThreads | None = None

    def fetch(
        self,
        entry: CacheEntry,
        *,
        next_use: NextUse,
        is_urgent: Callable[[], bool],
        is_stopped: Callable[[], bool],
    ) -> Pin | None:
        """Return a pin on an entry, downloaded where it is not there; None: no room, and it is not urgent.

        Raises:
            StoppedError: it was stopped.
            DamageError: the bytes that come are not those of the manifest.
            UserError: it cannot be had, or not kept.
        """
        waits = False
        blocked_s: float | None = None
        with ExitStack() as hungry:
            while not is_stopped():
                if (pin := self._pin(entry)) is not None:
                    with self._counting:
                        self.num_hits += not waits
                    return pin
                if (claim := self._claim(entry)) is None:
                    waits = True  # for another process, which ends or dies
                    time.sleep(_POLL_S)
                    continue
                with claim:
                    try:
                        if self.folder.make_room(claim, next_use=next_use):
                            return self._download(claim, is_stopped)
                    except OSError as error:
                        raise self._cannot_write(error) from None
                if not is_urgent():
                    return None
                if blocked_s is None:
                    blocked_s = time.monotonic()
                    hungry.enter_context(self.folder.hunger())
                if time.monotonic() - blocked_s > self.options.patience_s:
                    raise UserError(self._no_room_message(entry))
                time.sleep(_ROOM_POLL_S)
        raise StoppedError

    def counters(self) -> dict[str, float]:
        with self._counting:
            counts = {"cache_hits": self.num_hits, "cache_misses": self.num_downloads}
            return {**counts, "downloaded_bytes": self.bytes_downloaded}

    def close(self) -> None:
        """End the threads, once their requests are answered."""
        if self._pieces is not None:
            self._pieces.close()
            self._pieces = None

    def _pin(self, entry: CacheEntry) -> Pin | None:
        pin = self.folder.pin(entry)
        if pin is None or not self.options.recheck or entry.key in self._checked:
            return pin
        for number, file in enumerate(entry.files):
            if file_sha256(self.folder.path_of(entry, number)) != file.sha256:
                log.warning("data: %s has changed in the cache; fetched again", self.folder.path_of(entry, number))
                pin.close()
                self.folder.discard(entry)
                return None
        self._checked.add(entry.key)
        return pin

    def _claim(self, entry: CacheEntry) -> Claim | None:
        try:
            return self.folder.claim(entry)
        except OSError as error:
            raise self._cannot_write(error) from None

    def _download(self, claim: Claim, is_stopped: Callable[[], bool]) -> Pin:
        with self._counting:
            if self._pieces is None:
                self._pieces = PieceThreads(NUM_PIECE_THREADS)
            pieces = self._pieces
        claim.is_kept = True
        for file, descriptor in zip(claim.entry.files, claim.parts, strict=True):
            pauses_s = iter(WRONG_BYTES_PAUSES_S)
            while True:
                try:
                    download(
                        file,
                        descriptor,
                        pieces=pieces,
                        patience_s=self.options.patience_s,
                        is_stopped=is_stopped,
                        count=self._count,
                    )
                    break
                except WrongBytesError:
                    if (pause_s := next(pauses_s, None)) is None:
                        claim.is_kept = False
                        raise
                    time.sleep(pause_s)
        pin = claim.publish()
        self._checked.add(claim.entry.key)
        with self._counting:
            self.num_downloads += 1
        return pin

    def _count(self, num_bytes: int) -> None:
        with self._counting:
            self.bytes_downloaded += num_bytes

    def _cannot_write(self, error: OSError) -> UserError:
        return UserError(
            f"cache.dir={self.options.root}: cannot be written to ({error.strerror}); free some space, or give"
            " another cache.dir or a lower cache.max_bytes"
        )

    def _no_room_message(self, entry: CacheEntry) -> str:
        used_bytes = self.folder.used_bytes()
        where = f"cache.dir={self.options.root}"
        if used_bytes + entry.size_bytes > self.options.max_bytes:
            return (
                f"{where}: no room for {entry.files[0].url} ({entry.size_bytes:,} bytes): of"
                f" cache.max_bytes={self.options.max_bytes} {used_bytes:,} are there, and what is not in use is not"
                " enough; raise cache.max_bytes, or give other runs another cache.dir"
            )
        return (
            f"{where}: the disk is full: no room for {entry.files[0].url} ({entry.size_bytes:,} bytes), the cache has"
            f" {used_bytes:,}; free some space, or give another cache.dir or a lower cache.max_bytes"
        )
