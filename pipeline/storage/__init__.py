"""Where files lie: a folder, or a URL prefix that obstore reads (s3, gs, az, http, https).

    store = open_store("s3://bucket/imagenet")
    store.read_at("train.tar", offset=0, size_bytes=512)
    with store.publish("shards/shard-000000.tar") as stream:
        stream.write(record)

Both kinds keep the same promises: a read gives all the bytes asked for or raises, and a file is whole under its
name or not there at all. Credentials and endpoints come from the environment, as obstore reads it.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.shards.errors import UserError
from pipeline.storage.base import PassingError, Store, StoredFile
from pipeline.storage.local import LocalStore

__all__ = ["PassingError", "Store", "StoredFile", "is_local", "open_store"]

RETRY_S = 180
REMOTE_SCHEMES = ("s3", "gs", "az", "http", "https")


def open_store(location: str, *, retry_s: int = RETRY_S) -> Store:
    """Open a folder or a URL prefix; nothing is read yet, and it need not exist.

    Args:
        retry_s: how long a server that has answered before may fail until that is an error.

    Raises:
        UserError: a URL of another kind, or one that obstore cannot be set up for.
    """
    scheme, separator, _ = location.partition("://")
    if not separator:
        return LocalStore(Path(location).expanduser())
    if scheme == "file":
        parts = urlsplit(location)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise UserError(f"{location}: no local folder; write it as file:///folder")
        return LocalStore(Path(unquote(parts.path)))
    if scheme not in REMOTE_SCHEMES:
        raise UserError(f"{location}: {scheme}:// is not known; a folder, or one of file, {', '.join(REMOTE_SCHEMES)}")
    from pipeline.storage.remote import RemoteStore  # with it comes obstore, which local use does without

    return RemoteStore(location, retry_s=retry_s)


def is_local(store: Store) -> bool:
    """Tell whether a store is a folder of this machine, at `store.location`."""
    return isinstance(store, LocalStore)
