"""Several processes in one cache, also killed ones."""

from __future__ import annotations

import math
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from cache_cases import (
    PIECE_BYTES,
    SHARD_BYTES,
    cached,
    fetch_and_check,
    finish_worker,
    options,
    parts,
    start_worker,
)
from pipeline.data.cache_entry import CacheEntry
from pipeline.data.cache_folder import CacheFolder
from pipeline.data.part_mark import came_bytes
from pipeline.data.shard_cache import ShardCache
from shard_server import ShardServer, write_entries
from waiting import wait_until


@pytest.mark.slow
def test_of_several_processes_that_want_a_shard_one_downloads_it(
    server: ShardServer, files: Path, tmp_path: Path
) -> None:
    entries = write_entries(files, server.url, number=1, size_bytes=SHARD_BYTES)
    server.bytes_per_s = 50_000.0
    workers = [start_worker(tmp_path, entries, max_bytes=10**9, seed=seed, rounds=1) for seed in range(3)]
    for worker in workers:
        finish_worker(worker)
    assert server.requests == {"000.tar": math.ceil(SHARD_BYTES / PIECE_BYTES), "000.idx.npy": 1}


def killed_in_a_download(server: ShardServer, tmp_path: Path, entry: CacheEntry, *, after_bytes: int) -> int:
    """Kill a process that downloads an entry; return how many bytes of its shard had come."""
    server.bytes_per_s = 50_000.0
    worker = start_worker(tmp_path, [entry], max_bytes=10**9, seed=0, rounds=1)
    wait_until(lambda: came(tmp_path, entry) >= after_bytes, what="a part of a shard")
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert len(parts(tmp_path)) == 2
    assert not cached(tmp_path)
    server.bytes_per_s = None
    return came(tmp_path, entry)


def came(tmp_path: Path, entry: CacheEntry) -> int:
    try:
        with (tmp_path / "cache" / "shards" / f"{entry.key}.0.part").open("rb") as part:
            return came_bytes(part.fileno(), size_bytes=entry.files[0].size_bytes)
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("is_damaged", [False, True])
def test_after_a_kill_in_a_download_the_next_one_goes_on_where_it_was(
    is_damaged: bool, server: ShardServer, files: Path, tmp_path: Path
) -> None:
    """Where the bytes that came are not those of the manifest any more, it is fetched anew."""
    (entry,) = write_entries(files, server.url, number=1, size_bytes=40 * PIECE_BYTES)
    before = killed_in_a_download(server, tmp_path, entry, after_bytes=10 * PIECE_BYTES)
    if is_damaged:
        with next(path for path in parts(tmp_path) if path.name.endswith(".0.part")).open("r+b") as part:
            part.write(b"?")
    cache = ShardCache(options(tmp_path))
    fetch_and_check(cache, entry, files)
    assert 10 * PIECE_BYTES <= before < 40 * PIECE_BYTES
    assert cache.bytes_downloaded == entry.size_bytes - before + is_damaged * entry.files[0].size_bytes
    assert not parts(tmp_path)


def test_what_a_killed_download_has_left_makes_way_for_another_shard(
    server: ShardServer, files: Path, tmp_path: Path
) -> None:
    entries = write_entries(files, server.url, number=2, size_bytes=40 * PIECE_BYTES)
    killed_in_a_download(server, tmp_path, entries[0], after_bytes=PIECE_BYTES)
    cache = ShardCache(options(tmp_path, max_bytes=2 * entries[0].size_bytes - 1))
    fetch_and_check(cache, entries[1], files)
    assert not parts(tmp_path)
    fetch_and_check(cache, entries[0], files)


@pytest.mark.slow
@pytest.mark.parametrize("with_kills", [False, True])
def test_many_processes_read_right_bytes_and_keep_the_limit(
    with_kills: bool, server: ShardServer, files: Path, tmp_path: Path
) -> None:
    """Room for 4 of 10 entries; each of 3 processes holds at most one at a time."""
    entries = write_entries(files, server.url, number=10, size_bytes=SHARD_BYTES)
    max_bytes = 4 * entries[0].size_bytes
    server.faults["*"] = ["cut", "reset", "500"] * 8 + ["wrong"] * 2
    is_over = threading.Event()
    most_bytes = 0

    def watch() -> None:
        nonlocal most_bytes
        folder = CacheFolder(tmp_path / "cache", max_bytes=0)
        while not is_over.is_set():
            with folder.accounting():
                most_bytes = max(most_bytes, folder.used_bytes())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        start = lambda seed: start_worker(tmp_path, entries, max_bytes=max_bytes, seed=seed, rounds=30)  # noqa: E731
        workers = [start(seed) for seed in range(3)]
        numbers = random.Random(1)
        for round_ in range(12 if with_kills else 0):
            victim = numbers.randrange(3)
            assert workers[victim].stdout is not None
            workers[victim].stdout.readline()
            time.sleep(numbers.uniform(0, 0.3))
            workers[victim].kill()
            workers[victim].communicate()
            workers[victim] = start(10 + round_)
        for worker in workers:
            finish_worker(worker)
    finally:
        is_over.set()
        watcher.join()
    assert 2 * entries[0].size_bytes < most_bytes <= max_bytes
