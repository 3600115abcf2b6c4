"""What a node-local cache keeps together, and under which name.

entry = CacheEntry((shard, sidecar))        # each a RemoteFile
entry.key                                   # 32 hexadecimal digits
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

KEY_DIGITS = 32
_CACHED_NAME = re.compile(rf"[0-9a-f]{{{KEY_DIGITS}}}\.[0-9]+-(.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a store, as the manifest has it."""

    location: str
    name: str
    size_bytes: int
    sha256: str

    @property
    def url(self) -> str:
        return f"{self.location}/{self.name}"


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """Files that are downloaded and evicted together.

    Attributes:
        key: the hash of their URLs and checksums, so that other bytes never stand under the same name.
    """

    files: tuple[RemoteFile, ...]
    key: str = field(init=False)

    def __post_init__(self) -> None:
        told = "\n".join(f"{file.url} {file.sha256}" for file in self.files)
        object.__setattr__(self, "key", hashlib.sha256(told.encode()).hexdigest()[:KEY_DIGITS])

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def plain_name(path: Path) -> str:
    """Return a file's name where it came from, whether it is one of a cache or not."""
    match = _CACHED_NAME.fullmatch(path.name)
    return match[1] if match else path.name
