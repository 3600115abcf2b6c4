"""A store of one file that is held as bytes, for tests that read thousands of damaged ones."""

from __future__ import annotations

from pipeline.shards.errors import DamageError


class BytesStore:
    """The file `a`; counts its reads, and the bytes of them."""

    location = "memory"

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.num_reads = 0
        self.num_bytes = 0

    def size_of(self, name: str) -> int | None:
        return len(self.content) if name == "a" else None

    def read_at(self, name: str, *, offset: int, size_bytes: int) -> bytes:
        assert name == "a"
        assert offset >= 0
        assert size_bytes >= 0
        self.num_reads += 1
        self.num_bytes += size_bytes
        content = self.content[offset : offset + size_bytes]
        if len(content) != size_bytes:
            raise DamageError(f"memory/a: ends at byte {offset + len(content)}")
        return content

    def local_path(self, name: str) -> None:
        return None
