"""The bytes of one streamed shard: opened by the webdataset library, held to what a whole tar is while they pass.

    with StreamedShard("pipe:curl -s https://host/shard-0000.tar") as shard:
        tarfile.open(fileobj=shard, mode="r|*")     # reads no byte that was not checked
        shard.check_ended()

A stream has no length and no checksum to compare with, and Python's tar reader takes a cut at a member's edge, a
header with a flipped bit, or a command that failed half-way for a shorter tar with no error. So each header is checked
here before it is handed on; the tar must end in two empty blocks, and its command with an exit code of 0. Sizes are
bounded, and links, devices and sparse files refused by name. Tars may be packed by gzip.
"""

from __future__ import annotations

import gzip
import os
import re
import select
import signal
import tarfile
import threading
import time
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, cast

from webdataset import utils
from webdataset.gopen import Pipe, gopen

from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.record import BLOCK_BYTES, padded_bytes

MAX_MEMBER_BYTES = 128 << 20
# Of a long name or pax records, which the tar reader takes into memory.
MAX_EXTENSION_BYTES = 1 << 20
MAX_PADDING_BYTES = 1 << 20  # after the end blocks: tar fills up to its record size, mostly 10 KiB
# The library's curl itself tries for a minute where a server is away.
STALL_S = 300.0

_PIECE_BYTES = 1 << 16
_POLL_MS = 200
_EMPTY_BLOCK = bytes(BLOCK_BYTES)
_EXTENSION_KINDS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)
_REGULAR_KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_GZIP_MAGIC = b"\x1f\x8b"
# What the tar reader would unpack by itself, past all bounds.
_OTHER_MAGIC = (_GZIP_MAGIC, b"BZh", b"\x5d\x00\x00\x80", b"\xfd7zXZ")
_CURL_EXITS = {
    6: "there is no such host",
    7: "no connection to the server",
    18: "the connection broke off before all bytes were there",
    22: "the server answers with an error, such as 404 for a file that is not there",
    28: "the server did not answer in time",
    56: "the connection broke off",
}


class StreamedShard:
    """A shard that can be read once, from its start.

    Attributes:
        name: the path, URL or command as it is shown to people, without what may be a secret.
        error: what ended it too early.
    """

    def __init__(self, url: str, *, stopped: threading.Event | None = None) -> None:
        """Open a path, URL or `pipe:` command.

        Args:
            stopped: ends a read that waits for bytes, by an error, when it is set from another thread.

        Raises:
            UserError: it cannot be opened.
        """
        self.url, self.name = url, _shown(url)
        self.error: UserError | None = None
        self._stopped = stopped or threading.Event()
        self._is_ended = False
        self._ahead = b""
        self._offset = 0
        self._ready = b""
        if url == "-":
            raise UserError("-: standard input is no shard; name a file, a URL, or pipe: and a command")
        try:
            self._stream: Any = _open(url)
        except OSError as error:
            raise UserError(f"{self.name}: cannot be opened ({error.strerror or error})") from None
        except (ValueError, ImportError) as error:
            why = " ".join(str(error).split()).removeprefix(f"{url}: ")
            raise UserError(
                f"{self.name}: cannot be opened ({why}); pipe: and a command that writes the tar reads anything"
            ) from None
        self._unpacked: gzip.GzipFile | None = None
        self._pieces = self._checked()

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` checked bytes, all of them for a negative one; b"" at the end.

        Raises:
            UserError: the command or server failed, or a member is refused.
            DamageError: this is no whole tar.
        """
        if size < 0:
            return self._ready + b"".join(self._pieces)
        while not self._ready:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._ready = piece
        found, self._ready = self._ready[:size], self._ready[size:]
        return found

    def check_ended(self) -> None:
        """Raise DamageError where the reader left before the tar's end."""
        if not self._is_ended:
            self._fail(DamageError, "was not read to its end")

    def close(self) -> None:
        """Let go of the file or end the command."""
        self._pieces.close()  # type: ignore[attr-defined]  # a generator
        if isinstance(self._stream, Pipe):
            process = cast(Any, self._stream).proc
            process.stdout.close()
            if process.returncode is None:
                if self.url.startswith("pipe:"):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
            process.wait()
        else:
            self._stream.close()

    def __enter__(self) -> StreamedShard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _checked(self) -> Iterator[bytes]:
        """Yield the tar, each header and each end of it checked before it is given."""
        first = self._read_raw(_PIECE_BYTES)
        while first and len(first) < BLOCK_BYTES and (more := self._read_raw(_PIECE_BYTES)):
            first += more
        self._check_packing(first, others=_OTHER_MAGIC[1:])
        self._ahead = first
        if first.startswith(_GZIP_MAGIC):
            self._unpacked = gzip.GzipFile(fileobj=cast(BinaryIO, _Unread(self)), mode="rb")
        if not first:
            self._fail(DamageError, "is empty")
        while True:
            start = self._offset
            header = self._take(BLOCK_BYTES)
            if header == _EMPTY_BLOCK:
                self._drain()
                yield header + _EMPTY_BLOCK
                return
            kind, size_bytes = self._check_header(header, is_first=start == 0)
            if kind in _EXTENSION_KINDS:
                content = self._take(padded_bytes(size_bytes))
                # Either gives the next member another size than its header says, for which no bound would hold.
                if b" size=" in content or b"GNU.sparse" in content:
                    self._refuse(start, "pax records of a size or of sparse files")
                yield header + content
                continue
            yield header
            left = padded_bytes(size_bytes)
            while left:
                piece = self._take_some(left)
                left -= len(piece)
                yield piece

    def _check_header(self, header: bytes, *, is_first: bool) -> tuple[bytes, int]:
        """Return a member's kind and how many bytes follow."""
        start = self._offset - BLOCK_BYTES
        if is_first:
            self._check_packing(header, others=_OTHER_MAGIC)
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            self._fail(DamageError, f"no whole header of a tar member ({error}) at byte {start:,}")
        name = ascii(member.name[:100])
        if member.isdir():
            if member.size:
                self._fail(DamageError, f"the folder {name} has content, at byte {start:,}")
        elif member.type in _EXTENSION_KINDS:
            if not 0 <= member.size <= MAX_EXTENSION_BYTES:
                self._fail(DamageError, f"a long name or pax records of {member.size:,} bytes at byte {start:,}")
        elif member.type not in _REGULAR_KINDS:
            self._refuse(start, f"{name}, which is no plain file but of kind {member.type.decode('latin-1')!a},")
        elif not 0 <= member.size <= MAX_MEMBER_BYTES:
            self._refuse(start, f"{name} of {member.size:,} bytes, over {MAX_MEMBER_BYTES >> 20} MiB,")
        return member.type, member.size

    def _check_packing(self, first: bytes, *, others: tuple[bytes, ...]) -> None:
        if first.startswith(others):
            self._fail(UserError, "is packed otherwise than once by gzip; use pipe: and the command that unpacks it")

    def _drain(self) -> None:
        """Read what follows the first empty block: another, then nothing but zeros, then a good exit code."""
        start, num_bytes = self._offset, 0
        while piece := self._take_some(_PIECE_BYTES, may_end=True):
            num_bytes += len(piece)
            if piece.strip(b"\0") or num_bytes > MAX_PADDING_BYTES:
                self._fail(DamageError, f"the tar ends at byte {start - BLOCK_BYTES:,}, but more follows")
        if num_bytes < BLOCK_BYTES:
            self._fail(DamageError, f"cut short at byte {start:,}: two empty blocks end a tar")
        self._is_ended = True

    def _take(self, size_bytes: int) -> bytes:
        pieces: list[bytes] = []
        left = size_bytes
        while left:
            pieces.append(self._take_some(left))
            left -= len(pieces[-1])
        return b"".join(pieces)

    def _take_some(self, most_bytes: int, *, may_end: bool = False) -> bytes:
        """Return 1 to `most_bytes` of the tar's bytes; at the end an error, or b"" where it may end."""
        if self._unpacked is None:
            found = self._take_raw(most_bytes)
        else:
            try:
                found = self._unpacked.read(min(most_bytes, _PIECE_BYTES))
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                self._fail(DamageError, f"not a whole gzip file ({error})")
        if not found and not may_end:
            self._fail(DamageError, f"cut short at byte {self._offset:,}, the tar has no end")
        self._offset += len(found)
        return found

    def _take_raw(self, most_bytes: int) -> bytes:
        if not self._ahead:
            self._ahead = self._read_raw(_PIECE_BYTES)
        found, self._ahead = self._ahead[:most_bytes], self._ahead[most_bytes:]
        return found

    def _read_raw(self, most_bytes: int) -> bytes:
        """Return the next bytes of the file or command; at the end the exit code is looked at."""
        if self._stopped.is_set():
            self._fail(UserError, "the stream was left")
        if not isinstance(self._stream, Pipe):
            try:
                return cast(bytes, self._stream.read(most_bytes))
            except OSError as error:
                self._fail(UserError, f"cannot be read ({error.strerror or error})")
        pipe = cast(Any, self._stream)
        poll = select.poll()
        poll.register(pipe.proc.stdout, select.POLLIN)
        asked_s = time.monotonic()
        while not poll.poll(_POLL_MS):
            if self._stopped.is_set():
                self._fail(UserError, "the stream was left")
            if time.monotonic() - asked_s > STALL_S:
                self._fail(UserError, f"nothing came for {STALL_S:.0f} s")
        found = os.read(pipe.proc.stdout.fileno(), most_bytes)
        if not found:
            self._check_exit(pipe)
        return found

    def _check_exit(self, pipe: Any) -> None:
        try:
            code = pipe.proc.wait(STALL_S)
        except Exception:
            self._fail(UserError, f"its command did not end within {STALL_S:.0f} s of its output")
        if code not in pipe.ignore_status:
            meaning = "" if self.url.startswith("pipe:") else _CURL_EXITS.get(code, "")
            self._fail(UserError, f"{meaning or 'the command failed'} (exit code {code})")

    def _refuse(self, start: int, what: str) -> NoReturn:
        self._fail(UserError, f"{what} at byte {start:,} is refused; make the tar anew without it")

    def _fail(self, kind: type[UserError], reason: str) -> NoReturn:
        """Raise an error that names the shard. It is kept, as the tar reader adds to what passes through it."""
        self.error = kind(f"{self.name}: {reason}")
        raise kind(str(self.error))


def _open(url: str) -> Any:
    """Open as the library does, but a command in a process group of its own, to end all that it starts."""
    if url.startswith("pipe:") and not utils.enforce_security:
        return Pipe(url[5:], mode="rb", shell=True, bufsize=8192, ignore_status=[141], process_group=0)
    return gopen(url)


class _Unread:
    """What gzip reads from: the bytes looked at first, then the rest."""

    def __init__(self, shard: StreamedShard) -> None:
        self._shard = shard

    def read(self, size: int = -1) -> bytes:
        return self._shard._take_raw(size if size > 0 else _PIECE_BYTES)


def _shown(url: str) -> str:
    """Return a URL or command in one line, without what may be a secret in a query."""
    if url.startswith("pipe:"):
        return " ".join(url.split())[:200]
    return re.sub(r"\?.*", "?...", re.sub(r"//[^/@]*@", "//...@", url))
