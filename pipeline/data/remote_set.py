"""A data set wherever it lies: a folder, or a URL whose shards go through the node's cache.

    opened = open_data_set("s3://bucket/imagenet-64", cache=CacheOptions(max_bytes=100_000_000_000))
    train_feed, val_feed = make_feeds([(opened, "train"), (opened, "val")], ranks=8)      # None for local shards
    reader = PackedReader(opened.data_set, "train", make_feed=train_feed)

Of a remote data set dataset.json and the manifests are read at once, into a folder of the cache that is named after
their content; shards and sidecars when they are first used. A local data set whose foreign shards are remote is
treated alike, its sidecars are read where they are.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.data.cache_entry import CacheEntry, RemoteFile
from pipeline.data.cache_folder import CacheFolder
from pipeline.data.cached_feed import CachedFeed
from pipeline.data.reader import MakeFeed
from pipeline.data.shard_cache import CacheOptions, ShardCache
from pipeline.data.working_set import allot
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import (
    DATA_SET_FILE,
    MANIFEST_FILE,
    MAX_JSON_BYTES,
    DataSet,
    Split,
    is_sealed,
    read_data_set,
    split_names,
)
from pipeline.shards.publish import publish_bytes
from pipeline.storage import Store, is_local, open_store

SETS_FOLDER = "sets"
_KEY_DIGITS = 32
# Descriptors for everything but pins: sockets, logs, libraries.
_SPARE_FILES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSet:
    """A data set, and where the shards come from that are not on this machine. Plain values: it can be sent to ranks.

    Attributes:
        data_set: whose paths of remote files point to where the cache will have them.
        location: the folder or URL that was asked for.
        entries: of each split that has remote files, one to a shard.
    """

    data_set: DataSet
    location: str
    entries: dict[str, tuple[CacheEntry, ...]]
    cache: CacheOptions

    @property
    def is_remote(self) -> bool:
        return bool(self.entries)


def open_data_set(location: str, *, cache: CacheOptions) -> OpenedSet:
    """Read a data set's facts, at a folder or a URL; no shard is opened.

    Raises:
        UserError: there is no data set, it cannot be read, or the cache's folder cannot be written to.
        DamageError: a file is not what the checksums say.
    """
    store = open_store(location)
    if is_local(store):
        data_set = read_data_set(Path(store.location))
    else:
        root = _mirror(store, cache)
        try:
            data_set = read_data_set(root)
        except UserError as error:
            raise type(error)(str(error).replace(str(root), store.location)) from None
    entries = {name: _entries(split, store) for name, split in data_set.splits.items()}
    entries = {name: found for name, found in entries.items() if found}
    if entries:
        folder = CacheFolder(cache.root, max_bytes=cache.max_bytes)
        splits = data_set.splits | {
            name: _cached(data_set.splits[name], found, folder) for name, found in entries.items()
        }
        data_set = dataclasses.replace(data_set, splits=splits)
    return OpenedSet(data_set=data_set, location=store.location, entries=entries, cache=cache)


def make_feeds(parts: Sequence[tuple[OpenedSet, str]], *, ranks: int) -> list[MakeFeed | None]:
    """Return what a reader of each (data set, split) takes as `make_feed`; None for local ones.

    Args:
        parts: all that the run reads; they share one cache, that of the first remote one.
        ranks: of this run on this machine, which share it as well.

    Raises:
        UserError: the cache's folder cannot be written to, or the machine allows too few open files.
    """
    feeds: list[MakeFeed | None] = [None] * len(parts)
    remote = [number for number, (opened, split) in enumerate(parts) if split in opened.entries]
    if not remote:
        return feeds
    cache = ShardCache(parts[remote[0]][0].cache)
    entries = {number: parts[number][0].entries[parts[number][1]] for number in remote}
    sizes = [sum(entry.size_bytes for entry in entries[number]) for number in remote]
    sets_bytes = cache.folder.bytes_below(SETS_FOLDER)
    shares = allot(sizes, room_bytes=max(0, cache.options.max_bytes - sets_bytes), ranks=ranks)
    for number, share_bytes in zip(remote, shares, strict=True):
        opened, split = parts[number]
        feeds[number] = functools.partial(
            CachedFeed,
            opened.data_set.split(split),
            entries[number],
            cache=cache,
            share_bytes=share_bytes,
            all_bytes=_rounded_up(sum(sizes) + sets_bytes),
        )
    _allow_open_files(sum(map(len, entries.values())))
    return feeds


def _mirror(store: Store, cache: CacheOptions) -> Path:
    """Copy dataset.json and the manifests into the folder of their content, and return it."""
    if store.size_of(DATA_SET_FILE) is None:
        raise UserError(f"{store.location}: no {DATA_SET_FILE}, so no finished data set")
    content = store.read_bytes(DATA_SET_FILE, max_bytes=MAX_JSON_BYTES)
    key = hashlib.sha256(store.location.encode() + b"\n" + content).hexdigest()[:_KEY_DIGITS]
    CacheFolder(cache.root, max_bytes=cache.max_bytes)
    root = cache.root / SETS_FOLDER / key
    wanted = json.loads(content)["splits"] if is_sealed(content) else {}
    for name in split_names(content):
        path = root / name / MANIFEST_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        row = wanted.get(name)
        sha256 = row.get("manifest_sha256") if isinstance(row, dict) else None
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            publish_bytes(path, store.read_bytes(f"{name}/{MANIFEST_FILE}", max_bytes=MAX_JSON_BYTES))
    publish_bytes(root / DATA_SET_FILE, content)
    return root


def _entries(split: Split, store: Store) -> tuple[CacheEntry, ...]:
    """Return what of a split is fetched, one to a shard; nothing where all is local."""
    place = split.shards_at
    shards_at: tuple[str, str] | None = None
    if place is not None and "://" in place:
        shards_at = (place.rstrip("/"), "")
    elif not is_local(store) and place is None:
        shards_at = (store.location, f"{split.name}/")
    elif not is_local(store) and place is not None and not place.startswith("/"):
        # "." is the data set's own folder.
        shards_at = (store.location, "".join(f"{part}/" for part in PurePosixPath(place).parts))
    entries = []
    for shard in split.shards:
        files = []
        if shards_at is not None:
            location, folder = shards_at
            name = f"{folder}{shard.path.name}"
            files.append(RemoteFile(location=location, name=name, size_bytes=shard.size_bytes, sha256=shard.sha256))
        if not is_local(store):
            name = f"{split.name}/{shard.index_path.name}"
            size_bytes, sha256 = shard.index_bytes, shard.index_sha256
            files.append(RemoteFile(location=store.location, name=name, size_bytes=size_bytes, sha256=sha256))
        if files:
            entries.append(CacheEntry(tuple(files)))
    return tuple(entries)


def _cached(split: Split, entries: tuple[CacheEntry, ...], folder: CacheFolder) -> Split:
    """Return a split whose remote files have the paths that they will have in the cache."""
    shards = []
    for shard, entry in zip(split.shards, entries, strict=True):
        paths = {file.name.rpartition("/")[2]: folder.path_of(entry, number) for number, file in enumerate(entry.files)}
        shards.append(
            dataclasses.replace(
                shard,
                path=paths.get(shard.path.name, shard.path),
                index_path=paths.get(shard.index_path.name, shard.index_path),
            )
        )
    return dataclasses.replace(split, shards=tuple(shards))


def _allow_open_files(num_pins: int) -> None:
    """Raise this process's limit of open files: a pin is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_pins + _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UserError(
            f"{num_pins:,} shards need as many open files, this machine allows {hard:,}: raise it (ulimit -Hn),"
            " or prepare larger shards"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _rounded_up(num_bytes: int) -> int:
    """Return a number that is easy to type: two digits, then zeros."""
    unit = int(10 ** max(0, len(str(num_bytes)) - 2))
    return -(-num_bytes // unit) * unit
