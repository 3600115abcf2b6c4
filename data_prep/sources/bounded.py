"""Reading files that strangers made: every read has a limit, and damage is an error that names the file.

    members = read_tar_gz("cifar-10-binary.tar.gz", {"cifar-10-batches-bin/test_batch.bin": 30_730_000})

Nothing is extracted to disk. A gzip stream is read to its end, so that its CRC-32 is checked also where the last
wanted member stands early; a tar cut short or with a flipped header bit, which Python's tar reader takes for a
shorter tar, is noticed there.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from pipeline.shards.errors import DamageError, UserError

MAX_UNPACKED_BYTES = 1 << 30
MAX_TAR_MEMBERS = 1000
_PIECE_BYTES = 1 << 20


def read_inside(root: Path, name: str, *, max_bytes: int) -> bytes:
    """Return the bytes of `root / name`, a regular file of at most `max_bytes`.

    Raises:
        UserError: the file is missing or unreadable, or a link that leaves `root`.
        DamageError: the file is longer than `max_bytes`.
    """
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path}: a link that leads out of {root}; refused, put the file itself there")
    if not path.is_file():
        raise UserError(f"{path}: missing")
    with explain_damage(path), path.open("rb") as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise DamageError(f"{path}: longer than the {max_bytes} bytes that such a file can have")
    return content


def read_tar_gz(
    path: Path | str, max_bytes_by_name: Mapping[str, int], *, content: bytes | None = None
) -> dict[str, bytes]:
    """Return the wanted members of a gzipped tar, in one pass, by their exact names (a leading `./` is let pass).

    Args:
        path: the file; only its name, for errors, where `content` is given.
        max_bytes_by_name: the wanted members with the most bytes that each can have.
        content: the file's bytes, where they did not come from this machine's disk.

    Raises:
        UserError: a wanted member is missing, or the file cannot be read.
        DamageError: the archive is damaged, a wanted member stands twice, is no plain file or is longer than its
            limit, or the archive unpacks to more than 1 GiB or 1,000 members.
    """
    found: dict[str, bytes] = {}
    with explain_damage(path), gzip.open(path if content is None else io.BytesIO(content)) as unpacked:
        limited = _LimitedStream(unpacked, path=path, max_bytes=MAX_UNPACKED_BYTES)
        with tarfile.open(fileobj=cast(IO[bytes], limited), mode="r|") as archive:  # it only calls read()
            for number, member in enumerate(archive):
                if number >= MAX_TAR_MEMBERS:
                    raise DamageError(f"{path}: more than {MAX_TAR_MEMBERS} members")
                name = member.name.removeprefix("./")
                if name in max_bytes_by_name:
                    if name in found:
                        raise DamageError(f"{path}: member {name} stands there twice")
                    found[name] = _read_member(path, archive, member, max_bytes=max_bytes_by_name[name])
        while limited.read(_PIECE_BYTES):
            pass
    missing = [name for name in max_bytes_by_name if name not in found]
    if missing:
        raise UserError(f"{path}: has no member {missing[0]}; get the archive again")
    return found


def _read_member(path: Path | str, archive: tarfile.TarFile, member: tarfile.TarInfo, *, max_bytes: int) -> bytes:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        raise DamageError(f"{path}: member {member.name} is a link or another thing than a plain file; refused")
    if member.size > max_bytes:
        raise DamageError(f"{path}: member {member.name} has {member.size} bytes, at most {max_bytes} can be right")
    stream = archive.extractfile(member)
    content = stream.read() if stream else b""
    if len(content) != member.size:
        raise DamageError(f"{path}: member {member.name} is cut short")
    return content


class _LimitedStream:
    """The first `max_bytes` of a stream; asking for more than that is a decompression bomb's work."""

    def __init__(self, stream: gzip.GzipFile, *, path: Path | str, max_bytes: int) -> None:
        self._stream = stream
        self._path = path
        self._left_bytes = max_bytes

    def read(self, size: int) -> bytes:
        piece = self._stream.read(min(size, self._left_bytes + 1))
        self._left_bytes -= len(piece)
        if self._left_bytes < 0:
            raise DamageError(f"{self._path}: unpacks to more than {MAX_UNPACKED_BYTES} bytes; refused")
        return piece


@contextmanager
def explain_damage(path: Path | str) -> Iterator[None]:
    """Turn what the gzip and tar readers raise inside the block into errors that name the file.

    Raises:
        DamageError: for compressed data cut short or damaged.
        UserError: for what the operating system says about the file (no permission, an I/O error).
    """
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, ValueError, OverflowError) as error:
        raise DamageError(f"{path}: cut short or damaged ({error}); get the file again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def file_checksum(path: Path, *, algorithm: str) -> str:
    """Return a file's checksum, such as `md5:c58f...`; md5 names a known file here, it guards nothing."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{digest.hexdigest()}"


def existing_folder(root: str | os.PathLike[str]) -> Path:
    """Return `root` with `~` expanded.

    Raises:
        UserError: it is missing or no folder.
    """
    path = Path(root).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"source.root={root}: a file; give the folder that holds it")
    raise UserError(f"source.root={root}: no such folder; create it, or correct source.root")
