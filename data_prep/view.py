"""A finished data set's facts, wherever it lies.

    with data_set_view(open_store("s3://bucket/pets")) as data_set:
        data_set.split("train").num_samples

A local data set is read where it is. Of a remote one the small files are fetched into a temporary folder, which lives
for the block: its `root` holds dataset.json, rejected.jsonl and the manifests, and no shards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from pipeline.shards.errors import UserError
from pipeline.shards.manifest import (
    DATA_SET_FILE,
    MANIFEST_FILE,
    MAX_JSON_BYTES,
    REJECTED_FILE,
    DataSet,
    ShardEntry,
    Split,
    read_data_set,
    split_names,
)
from pipeline.storage import Store, is_local, open_store


@contextmanager
def data_set_view(store: Store) -> Iterator[DataSet]:
    """Yield the data set at a store.

    Raises:
        UserError: there is none, or it cannot be read.
        DamageError: a file is not what the checksums say.
    """
    if is_local(store):
        yield read_data_set(Path(store.location))
        return
    if store.size_of(DATA_SET_FILE) is None:
        raise UserError(f"{store.location}: no {DATA_SET_FILE}, so no finished data set")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        content = _fetch(store, DATA_SET_FILE, root)
        for split in split_names(content):
            (root / split).mkdir()
            _fetch(store, f"{split}/{MANIFEST_FILE}", root)
        if store.size_of(REJECTED_FILE) is not None:
            _fetch(store, REJECTED_FILE, root)
        yield read_data_set(root)


def shard_place(store: Store, split: Split, shard: ShardEntry) -> tuple[Store, str]:
    """Return the store that holds a shard of the data set at `store`, and its name there."""
    if split.shards_at is None:
        return store, f"{split.name}/{shard.path.name}"
    if "://" in split.shards_at:
        return _opened(split.shards_at), shard.path.name
    folder = split.shards_at if split.shards_at.startswith("/") else f"{store.location}/{split.shards_at}"
    return _opened(folder), shard.path.name


@lru_cache(maxsize=16)
def _opened(location: str) -> Store:
    return open_store(location)


def _fetch(store: Store, name: str, root: Path) -> bytes:
    content = store.read_bytes(name, max_bytes=MAX_JSON_BYTES)
    (root / name).write_bytes(content)
    return content
