"""Downloading over http and https: a server that refuses, or that nobody answers for, is given up within seconds.

fetch_url("https://example.org/a.bin", Path("a.bin"), checksum="md5:...", max_bytes=200_000)
"""

from __future__ import annotations

import http.client
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from tqdm import tqdm

from data_prep.download.attempts import Attempt, FetchError, check_file, one_line

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
MAX_DOWNLOAD_S = 3600.0
_PIECE_BYTES = 1 << 16


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
        check_file(path, checksum=checksum, max_bytes=max_bytes)
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
        raise FetchError(one_line(str(getattr(reason, "strerror", None) or reason))) from None


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
