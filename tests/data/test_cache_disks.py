"""The cache on disks that are full, fill up, or cannot be written to."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest

from cache_cases import SHARD_BYTES, cached, fetch, fetch_and_check, options, parts, start_worker, total_bytes
from pipeline.data import cache_folder, download
from pipeline.data.shard_cache import CacheOptions, ShardCache
from pipeline.shards.errors import UserError
from shard_server import ShardServer, write_entries


def test_a_full_disk_takes_what_is_not_in_use_and_then_says_so(
    server: ShardServer, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk of room for two entries, where the limit would allow a thousand."""
    entries = write_entries(files, server.url, number=3, size_bytes=SHARD_BYTES)
    disk_bytes = 2 * entries[0].size_bytes
    allocate = cache_folder.allocate

    def allocate_on_small_disk(descriptor: int, size_bytes: int) -> None:
        if total_bytes(tmp_path / "cache") > disk_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(descriptor, size_bytes)

    monkeypatch.setattr(cache_folder, "allocate", allocate_on_small_disk)
    cache = ShardCache(options(tmp_path, max_bytes=1000 * disk_bytes, patience_s=0.3))
    for entry in entries:
        fetch_and_check(cache, entry, files)
    assert len(cached(tmp_path)) == 2
    with fetch(cache, entries[1]), fetch(cache, entries[2]):
        with pytest.raises(UserError, match=r"cache.dir=.*: the disk is full: no room for .*000.tar .*free some space"):
            fetch(cache, entries[0])
        assert not parts(tmp_path)


def test_a_real_disk_that_is_too_small_takes_what_is_not_in_use_and_then_says_so(
    server: ShardServer, files: Path, tmp_path: Path
) -> None:
    entries = write_entries(files, server.url, number=3, size_bytes=SHARD_BYTES)
    disk = tmp_path / "cache"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    try:
        is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        is_mounted = False
    if not is_mounted:
        pytest.skip("a tmpfs cannot be mounted here, which takes root")
    try:
        cache = ShardCache(options(tmp_path, patience_s=0.3))
        for entry in entries:
            fetch_and_check(cache, entry, files)
        assert len(cached(tmp_path)) == 2
        with fetch(cache, entries[1]), fetch(cache, entries[2]):
            with pytest.raises(UserError, match=r"the disk is full: no room for .*000.tar .*free some space"):
                fetch(cache, entries[0])
            assert not parts(tmp_path)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_fills_while_writing_is_one_line(
    server: ShardServer, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (entry,) = write_entries(files, server.url, number=1, size_bytes=SHARD_BYTES)
    monkeypatch.setattr(download, "_write", write)
    with pytest.raises(UserError, match=r"cache.dir=.*: cannot be written to \(No space left on device\); free some"):
        fetch(ShardCache(options(tmp_path)), entry)
    assert not parts(tmp_path)


def test_a_limit_of_file_sizes_is_one_line(server: ShardServer, files: Path, tmp_path: Path) -> None:
    entries = write_entries(files, server.url, number=1, size_bytes=SHARD_BYTES)
    worker = start_worker(tmp_path, entries, max_bytes=10**9, seed=0, rounds=1, limit_bytes=SHARD_BYTES // 2)
    _, stderr = worker.communicate(timeout=60)
    assert re.search(r"UserError: cache.dir=.*: cannot be written to \(File too large\); free", stderr.splitlines()[-1])
    assert not parts(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cache.dir=.*/file/x: cannot be written to \(Not a directory\)"):
        ShardCache(CacheOptions(dir=str(tmp_path / "file" / "x")))
