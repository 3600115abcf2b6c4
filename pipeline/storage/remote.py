"""A URL prefix as a store, through obstore.

    store = RemoteStore("s3://bucket/imagenet")       # AWS_ENDPOINT_URL and the like from the environment
    store.read_at("train.tar", offset=0, size_bytes=512)

obstore retries what may pass (5xx, refused and reset connections, timeouts) with exponential back-off. Until the
first answer it gives up within seconds, as the address or the credentials are then likely wrong; from then on an
outage of minutes is waited out. A body that breaks off or has another length than asked is asked for again, and is
an error when it stays so: there are never fewer or other bytes than asked.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from pipeline.shards.errors import DamageError, UserError
from pipeline.storage.base import BrokenBodyError, PassingError, StoredFile, check_name
from pipeline.storage.remote_errors import FaultKind, PastEndError, WrongLengthError, read_fault

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

BODY_RETRY_DELAYS_S = (0.2, 1.0, 4.0)
MULTIPART_BYTES = 8 << 20
MAX_PARTS = 9_000  # S3 takes 10,000
WEB_SCHEMES = ("http", "https")

# Our client options take the place of those that obstore reads from the environment, so these are carried over.
_CLIENT_OPTIONS = ("allow_http", "allow_invalid_certificates", "proxy_url", "proxy_ca_certificate", "proxy_excludes")
_ENVIRONMENT_PREFIXES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}

Result = TypeVar("Result")


class RemoteStore:
    """The files below a URL."""

    def __init__(self, location: str, *, retry_s: int) -> None:
        parts = urlsplit(location)
        if parts.query or parts.fragment or parts.username or parts.password:
            shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            raise UserError(f"{shown}: the URL has a query, a fragment or a password; give the plain prefix")
        self.location = location.rstrip("/")
        self._scheme = parts.scheme
        self._is_web = parts.scheme in WEB_SCHEMES
        self._answered = False
        self._bucket_exists = self._is_web
        try:
            self._hasty = _connect(location, parts.scheme, retries=3, retry_s=8, read_s=10)
            self._patient = _connect(location, parts.scheme, retries=10, retry_s=retry_s, read_s=60)
        except (BaseError, ValueError) as error:
            raise UserError(f"{location}: {read_fault(error, scheme=self._scheme).text}") from None

    def size_of(self, name: str) -> int | None:
        """Return a file's size in bytes, None where there is no such file."""
        check_name(name)
        try:
            return self._call(name, lambda client: obstore.head(client, name)["size"], doing="looking it up")
        except FileNotFoundError:
            self._check_bucket()
            return None

    def read_bytes(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole file of at most `max_bytes`."""
        check_name(name)

        def read(client: ObjectStore) -> bytes:
            found = obstore.get(client, name)
            size_bytes = found.meta["size"]
            if size_bytes > max_bytes:
                raise DamageError(f"{self._url(name)}: longer than the {max_bytes} bytes that such a file can have")
            return _checked(found.bytes().to_bytes(), size_bytes=size_bytes)

        return self._read(name, read, doing="reading it")

    def read_at(self, name: str, *, offset: int, size_bytes: int) -> bytes:
        """Return exactly `size_bytes` bytes from `offset` on, in one request."""
        check_name(name)
        if size_bytes == 0:
            return b""

        def read(client: ObjectStore) -> bytes:
            found = obstore.get(client, name, options={"range": (offset, offset + size_bytes)})
            if found.meta["size"] < offset + size_bytes:
                raise PastEndError(f"the file ends at byte {found.meta['size']}")
            return _checked(found.bytes().to_bytes(), size_bytes=size_bytes)

        return self._read(name, read, doing=f"reading bytes {offset} to {offset + size_bytes}")

    def list_files(self, prefix: str = "") -> list[StoredFile]:
        """Return all files below the folder `prefix`, sorted by name."""
        if self._is_web:
            raise UserError(f"{self.location}: a web server does not list its files; give a folder, or s3, gs or az")
        if prefix:
            check_name(prefix)

        def read(client: ObjectStore) -> list[StoredFile]:
            pages = obstore.list(client, prefix or None, chunk_size=1000)
            return [StoredFile(name=file["path"], size_bytes=file["size"]) for page in pages for file in page]

        return sorted(self._call(prefix, read, doing="listing it"), key=lambda file: file.name)

    @contextmanager
    def publish(self, name: str) -> Iterator[BinaryIO]:
        """Write a local temporary file, and upload it whole at the end of the block."""
        self._check_writable()
        check_name(name)
        with tempfile.TemporaryDirectory(prefix="tarmac-") as folder:
            part = Path(folder) / "part"
            with part.open("wb") as stream:
                yield stream
                stream.flush()
            chunk_bytes = max(MULTIPART_BYTES, part.stat().st_size // MAX_PARTS)
            self._call(name, lambda client: obstore.put(client, name, part, chunk_size=chunk_bytes), doing="writing it")

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is fine."""
        self._check_writable()
        check_name(name)
        try:
            self._call(name, lambda client: obstore.delete(client, name), doing="removing it")
        except FileNotFoundError:
            return

    def local_path(self, name: str) -> None:
        """Return None: the file is not on this machine."""
        check_name(name)

    def _url(self, name: str) -> str:
        return f"{self.location}/{name}" if name else self.location

    def _check_writable(self) -> None:
        if self._is_web:
            raise UserError(f"{self.location}: a web server takes no files; give a folder, or s3, gs or az")

    def _check_bucket(self) -> None:
        """Ask for the bucket once, where a file is missing: the answer to HEAD does not tell the two apart."""
        if not self._bucket_exists:
            with suppress(_NotAllowedError):  # who may read need not be let list
                self._call("", lambda client: next(iter(obstore.list(client)), None), doing="listing it")
            self._bucket_exists = True

    def _read(self, name: str, request: Callable[[ObjectStore], bytes], *, doing: str) -> bytes:
        try:
            return self._call(name, request, doing=doing)
        except FileNotFoundError:
            raise UserError(f"{self._url(name)}: missing") from None

    def _call(self, name: str, request: Callable[[ObjectStore], Result], *, doing: str) -> Result:
        """Return what a request gives; what obstore raises becomes one line that names the URL.

        Raises:
            FileNotFoundError: no such file, for the caller to judge.
            DamageError: the file is shorter than asked.
            BrokenBodyError: its bytes did not arrive whole in any attempt.
            PassingError: there is no connection, or the server fails.
            UserError: everything else.
        """
        delays_s = iter(BODY_RETRY_DELAYS_S)
        while True:
            try:
                result = request(self._patient if self._answered else self._hasty)
            except (BaseError, WrongLengthError, PastEndError, FileNotFoundError, ValueError) as error:
                fault = read_fault(error, scheme=self._scheme)
            else:
                self._answered = True
                return result
            if fault.kind is FaultKind.missing:
                self._answered = True
                raise FileNotFoundError
            delay_s = next(delays_s, None) if fault.kind is FaultKind.broken_body else None
            if delay_s is None:
                raise _ERRORS.get(fault.kind, UserError)(f"{self._url(name)}: {doing}: {fault.text}")
            time.sleep(delay_s)


class _NotAllowedError(UserError):
    """No credentials, or no permission."""


_ERRORS: dict[FaultKind, type[UserError]] = {
    FaultKind.not_allowed: _NotAllowedError,
    FaultKind.past_end: DamageError,
    FaultKind.broken_body: BrokenBodyError,
    FaultKind.outage: PassingError,
}


def _checked(content: bytes, *, size_bytes: int) -> bytes:
    if len(content) != size_bytes:
        raise WrongLengthError(f"{len(content)} bytes came where {size_bytes} were wanted")
    return content


def _connect(location: str, scheme: str, *, retries: int, retry_s: int, read_s: int) -> ObjectStore:
    """Return obstore's client. Its whole request has no short limit, as a shard may take long; each read has."""
    options: dict[str, Any] = {"connect_timeout": "3s", "read_timeout": f"{read_s}s", "timeout": "12h"}
    if scheme in _ENVIRONMENT_PREFIXES:
        names = {option: f"{_ENVIRONMENT_PREFIXES[scheme]}_{option.upper()}" for option in _CLIENT_OPTIONS}
        options |= {option: os.environ[name] for option, name in names.items() if name in os.environ}
    elif scheme == "http":
        options["allow_http"] = True
    retry: RetryConfig = {
        "max_retries": retries,
        "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=15), "base": 2},
        "retry_timeout": timedelta(seconds=retry_s),
    }
    return from_url(location, client_options=cast("ClientConfig", options), retry_config=retry)
