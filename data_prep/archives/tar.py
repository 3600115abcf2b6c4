"""Listing tars in place, strictly.

    for member in walk_tar(open_store("imagenet"), "ILSVRC2012_img_val.tar"):
        store.read_at("ILSVRC2012_img_val.tar", offset=member.offset, size_bytes=member.size_bytes)

Only headers are read. A tar inside a tar is walked where it lies, by `start` and `end`. What Python's reader takes
for a shorter tar with no error is damage here: a header whose checksum differs, a cut at a member's boundary (the two
end blocks are demanded, and nothing but zeros after them), a size past the end. Links, devices, sparse members and
names that lead out of the archive are refused by name. Formats: ustar, GNU (long names, base-256 sizes), pax.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from data_prep.archives.names import RefusedNameError, member_name
from data_prep.archives.tar_header import (
    EXTENSION_KINDS,
    FOLDER_KIND,
    MAX_EXTENSION_BYTES,
    REFUSED_KINDS,
    REGULAR_KINDS,
    Extension,
    parse_extension,
    parse_header,
)
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.record import BLOCK_BYTES, padded_bytes
from pipeline.storage import Store

MAX_PADDING_BYTES = 1 << 20  # of zeros after the end blocks: tar fills up to its record size, mostly 10 KiB
# Where two headers are nearer than the first, the next read takes the second, and so the headers that follow.
LOCAL_AHEAD = (4 << 10, 64 << 10)
REMOTE_AHEAD = (16 << 10, 256 << 10)

_END_BLOCK = bytes(BLOCK_BYTES)
_PIECE_BYTES = 1 << 16


class TarMember(NamedTuple):
    """A regular file in a tar: its name, and where its content lies. A tuple, as listing makes millions of them."""

    name: str
    offset: int
    size_bytes: int


def walk_tar(store: Store, name: str, *, start: int = 0, end: int | None = None) -> Iterator[TarMember]:
    """Yield the regular files of a tar in its order; folders are skipped.

    Args:
        store: where the tar lies.
        name: its name there.
        start: where the tar starts in that file, for one inside another.
        end: where it ends; None for the end of the file.

    Raises:
        UserError: missing or unreadable, or a member that is refused by name.
        DamageError: naming the file and the byte, for anything that a whole tar does not have.
    """
    if end is None:
        end = store.size_of(name)
        if end is None:
            raise UserError(f"{store.location}/{name}: missing")
    blocks = _Blocks(store, name, end=end)
    extension: Extension | None = None
    offset = start
    while (block := blocks.read(offset, BLOCK_BYTES)) != _END_BLOCK:
        content = offset + BLOCK_BYTES
        try:
            kind, raw_name, size_bytes = parse_header(block)
            if kind in EXTENSION_KINDS:
                extension = _next_extension(extension, kind, blocks, content, size_bytes)
            elif extension:
                raw_name, size_bytes = extension.applied(raw_name, size_bytes)
                extension = None
        except ValueError as error:
            raise DamageError(f"{blocks.at(offset)}: no whole header of a tar member: {error}") from None
        if size_bytes > end - content:
            raise DamageError(f"{blocks.at(offset)}: {raw_name[:200]!r} has {size_bytes} bytes, past the end at {end}")
        if kind in REGULAR_KINDS or kind == FOLDER_KIND:
            try:
                member = member_name(raw_name)
            except RefusedNameError as error:
                raise UserError(f"{blocks.at(offset)}: {error}") from None
            if kind == FOLDER_KIND or (kind == 0 and raw_name.endswith(b"/")):
                if size_bytes:
                    raise DamageError(f"{blocks.at(offset)}: folder {raw_name[:200]!r} has content")
            elif not member or member.endswith("/"):
                raise UserError(f"{blocks.at(offset)}: a file by the name {raw_name[:200]!r}; refused")
            else:
                yield TarMember(member, content, size_bytes)
        elif kind not in EXTENSION_KINDS:
            what = REFUSED_KINDS.get(kind, f"a member of kind {chr(kind)!r}")
            raise UserError(f"{blocks.at(offset)}: {raw_name[:200]!r} is {what}; refused, make the tar anew without it")
        offset = content + padded_bytes(size_bytes)
    if extension:
        raise DamageError(f"{blocks.at(offset)}: the tar ends where the member of a long name should stand")
    _check_end(blocks, offset)


def walk_tars_concurrently(
    store: Store, parts: Sequence[tuple[str, int, int | None]], *, threads: int
) -> Iterator[list[TarMember]]:
    """Yield the members of each (name, start, end) in the order of `parts`, with `threads` walks under way.

    Raises:
        UserError, DamageError: as `walk_tar`, for the first part that fails.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="walk-tar") as pool:
        waiting: deque[Future[list[TarMember]]] = deque()
        try:
            for name, start, end in parts:
                waiting.append(pool.submit(_walk_part, store, name, start, end))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _next_extension(
    before: Extension | None, kind: int, blocks: _Blocks, offset: int, size_bytes: int
) -> Extension | None:
    """Return what stands before the next member, after one more extension was read.

    Raises:
        ValueError: the extension is too long or of the wrong form, or one of two.
    """
    if size_bytes > MAX_EXTENSION_BYTES:
        raise ValueError(f"a long name or pax records of {size_bytes} bytes")
    content = blocks.read(offset, padded_bytes(size_bytes))
    if content[size_bytes:].strip(b"\0"):
        raise ValueError("a long name or pax records longer than they say")
    found = parse_extension(kind, content[:size_bytes])
    if before and found:
        raise ValueError("a second long name, or second pax records, of one member")
    return before or found


def _walk_part(store: Store, name: str, start: int, end: int | None) -> list[TarMember]:
    return list(walk_tar(store, name, start=start, end=end))


class _Blocks:
    """Reads of headers, ahead where they lie near each other."""

    def __init__(self, store: Store, name: str, *, end: int) -> None:
        self._store = store
        self._name = name
        self.end = end
        self._near_bytes, self._ahead_bytes = LOCAL_AHEAD if store.local_path(name) else REMOTE_AHEAD
        self._content = b""
        self._start = 0
        self._last = 0

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return these bytes; what was read before is not read again."""
        near = offset - self._last < self._near_bytes
        self._last = offset
        begin = offset - self._start
        if begin >= 0 and begin + size_bytes <= len(self._content):
            return self._content[begin : begin + size_bytes]
        if size_bytes > self.end - offset:
            raise DamageError(f"{self.at(offset)}: cut short, the tar has no end; get the file again")
        ask_bytes = min(max(size_bytes, self._ahead_bytes), self.end - offset) if near else size_bytes
        self._content = self._store.read_at(self._name, offset=offset, size_bytes=ask_bytes)
        self._start = offset
        return self._content[:size_bytes]

    def at(self, offset: int) -> str:
        """Return the file and the byte, for errors."""
        return f"{self._store.location}/{self._name}, byte {offset}"


def _check_end(blocks: _Blocks, offset: int) -> None:
    """Check that from `offset` on nothing but zeros follow, two blocks or more."""
    if blocks.end - offset > MAX_PADDING_BYTES:
        raise DamageError(f"{blocks.at(offset)}: the tar ends here, {blocks.end - offset} bytes before its file does")
    if blocks.read(offset, 2 * BLOCK_BYTES).strip(b"\0"):
        raise DamageError(f"{blocks.at(offset)}: one empty block where the two at a tar's end are wanted")
    for start in range(offset, blocks.end, _PIECE_BYTES):
        if blocks.read(start, min(_PIECE_BYTES, blocks.end - start)).strip(b"\0"):
            raise DamageError(f"{blocks.at(offset)}: the tar ends here, but more than zeros follow")
