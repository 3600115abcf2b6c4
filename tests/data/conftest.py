"""Fixtures of the tests of data."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_cases import PIECE_BYTES
from pipeline.data import download, shard_cache
from pipeline.data.pixels import native_pixels
from pipeline.native import Absent
from pipeline.storage import remote
from shard_server import ShardServer, shard_server


@pytest.fixture
def native() -> ctypes.CDLL:
    """The compiled library; where there is none the test skips."""
    library = native_pixels()
    if isinstance(library, Absent):
        pytest.skip(library.reason)
    return library


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Shards to stream, of unequal sizes."""
    from stream_shards import COUNTS, write_stream  # needs webdataset

    return write_stream(tmp_path_factory.mktemp("stream"), counts=COUNTS)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder that `server` serves."""
    (tmp_path / "www").mkdir()
    return tmp_path / "www"


@pytest.fixture
def server(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardServer]:
    """A server of shards that misbehaves as it is told, and a cache that asks again at once."""
    monkeypatch.setattr(download, "PIECE_BYTES", PIECE_BYTES)
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(download, "MAX_PAUSE_S", 0.2)
    monkeypatch.setattr(download, "ATTEMPT_S", 1)
    monkeypatch.setattr(shard_cache, "WRONG_BYTES_PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(remote, "BODY_RETRY_DELAYS_S", (0.01,))
    download._opened.cache_clear()
    with shard_server(files) as found:
        yield found
