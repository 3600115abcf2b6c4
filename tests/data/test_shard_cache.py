"""The cache against a server that misbehaves, several processes at once, and disks that fill."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.data import cache_folder, download, shard_cache
from pipeline.data.cache_entry import CacheEntry
from pipeline.data.cache_folder import CacheFolder
from pipeline.data.file_locks import Pin
from pipeline.data.shard_cache import CacheOptions, ShardCache
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import remote
from shard_server import ShardServer, shard_server, write_entries
from tiny_data import ROOT
from waiting import wait_until

PIECE_BYTES = 10_000
SHARD_BYTES = 45_678


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "www").mkdir()
    return tmp_path / "www"


@pytest.fixture
def server(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardServer]:
    monkeypatch.setattr(download, "PIECE_BYTES", PIECE_BYTES)
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(download, "ATTEMPT_S", 1)
    monkeypatch.setattr(shard_cache, "WRONG_BYTES_PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(remote, "BODY_RETRY_DELAYS_S", (0.01,))
    download._opened.cache_clear()
    with shard_server(files) as found:
        yield found


def options(tmp_path: Path, **chosen: object) -> CacheOptions:
    return dataclasses.replace(CacheOptions(dir=str(tmp_path / "cache"), patience_s=20), **chosen)


def fetch(
    cache: ShardCache, entry: CacheEntry, *, urgent: bool = True, uses: dict[str, float] | None = None
) -> Pin | None:
    return cache.fetch(
        entry,
        next_use=lambda key: (uses or {}).get(key, math.inf),
        is_urgent=lambda: urgent,
        is_stopped=lambda: False,
    )


def fetch_and_check(cache: ShardCache, entry: CacheEntry, files: Path) -> None:
    with fetch(cache, entry) as pin:
        assert pin is not None
        for number, file in enumerate(entry.files):
            assert cache.folder.path_of(entry, number).read_bytes() == (files / file.name).read_bytes()


def cached(tmp_path: Path) -> list[str]:
    """Return the names of the shards in the cache, without their keys."""
    return sorted(path.name.partition("-")[2] for path in (tmp_path / "cache" / "shards").glob("*.0-*"))


def parts(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "shards").glob("*.part"))


def total_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("fault", ["none", "500", "503", "reset", "cut", "wrong", "hang"])
def test_what_passes_costs_time_and_the_bytes_are_right(
    fault: str, server: ShardServer, files: Path, tmp_path: Path
) -> None:
    (entry,) = write_entries(files, server.url, number=1, size_bytes=SHARD_BYTES)
    server.faults["000.tar"] = [fault] * 2
    cache = ShardCache(options(tmp_path))
    fetch_and_check(cache, entry, files)
    fetch_and_check(cache, entry, files)
    assert (cache.num_downloads, cache.num_hits) == (1, 1)
    assert not parts(tmp_path)
    # A fault costs its own piece again, wrong bytes the file.
    assert server.requests["000.tar"] <= {"none": 5, "hang": 5, "wrong": 15}.get(fault, 7)


@pytest.mark.parametrize(
    ("fault", "error", "reason"),
    [
        ("404", UserError, "missing"),
        ("403", UserError, "not permitted"),
        ("wrong", DamageError, "its SHA-256 is not the manifest's"),
    ],
)
def test_what_does_not_pass_is_one_line_at_once_and_leaves_nothing(
    fault: str, error: type[UserError], reason: str, server: ShardServer, files: Path, tmp_path: Path
) -> None:
    (entry,) = write_entries(files, server.url, number=1, size_bytes=SHARD_BYTES)
    server.faults["000.tar"] = [fault] * 1000
    started_s = time.monotonic()
    with pytest.raises(error, match=reason) as caught:
        fetch(ShardCache(options(tmp_path)), entry)
    assert time.monotonic() - started_s < 10
    assert str(caught.value).startswith(f"{server.url}/000.tar: ")
    assert "\n" not in str(caught.value)
    assert not cached(tmp_path)
    assert not parts(tmp_path)


@pytest.mark.slow
def test_patience_ends(server: ShardServer, files: Path, tmp_path: Path) -> None:
    (entry,) = write_entries(files, server.url, number=1, size_bytes=SHARD_BYTES)
    server.faults["000.tar"] = ["500"] * 10_000
    started_s = time.monotonic()
    with pytest.raises(UserError, match=r"000.tar: .*500.* \(tried for \d s, cache.patience_s=2\)") as caught:
        fetch(ShardCache(options(tmp_path, patience_s=2)), entry)
    assert time.monotonic() - started_s < 30
    assert "\n" not in str(caught.value)


def outage(server: ShardServer, files: Path, tmp_path: Path, seconds: float) -> None:
    entries = write_entries(files, server.url, number=3, size_bytes=SHARD_BYTES)
    cache = ShardCache(options(tmp_path, patience_s=10 * seconds))
    fetch_and_check(cache, entries[0], files)
    server.is_away.set()
    threading.Timer(seconds, server.is_away.clear).start()
    started_s = time.monotonic()
    fetch_and_check(cache, entries[1], files)
    assert time.monotonic() - started_s >= seconds
    fetch_and_check(cache, entries[2], files)


@pytest.mark.slow
def test_a_server_that_goes_away_for_a_while_is_waited_for(server: ShardServer, files: Path, tmp_path: Path) -> None:
    outage(server, files, tmp_path, 2.0)


@pytest.mark.slow
def test_a_server_that_goes_away_for_a_minute_is_waited_for(server: ShardServer, files: Path, tmp_path: Path) -> None:
    outage(server, files, tmp_path, 60.0)


def test_a_slow_server_is_only_slow(server: ShardServer, files: Path, tmp_path: Path) -> None:
    (entry,) = write_entries(files, server.url, number=1, size_bytes=SHARD_BYTES)
    server.bytes_per_s = 20_000.0
    fetch_and_check(ShardCache(options(tmp_path)), entry, files)


def test_the_limit_holds_for_everything_and_what_is_used_latest_goes_first(
    server: ShardServer, files: Path, tmp_path: Path
) -> None:
    entries = write_entries(files, server.url, number=6, size_bytes=SHARD_BYTES)
    entry_bytes = entries[0].size_bytes
    cache = ShardCache(options(tmp_path, max_bytes=4 * entry_bytes))
    for entry in entries[:4]:
        fetch_and_check(cache, entry, files)
    # 1 and 2 have no use in sight, 2 was used longer ago; of 0 and 3 the latter is used later.
    for number, age_s in ((1, 10), (2, 20)):
        path = cache.folder.path_of(entries[number], 0)
        for each in (path, cache.folder.path_of(entries[number], 1)):
            os.utime(each, (time.time() - age_s,) * 2)
    uses = {entries[0].key: 7.0, entries[3].key: 9.0, entries[4].key: 5.0, entries[5].key: 6.0}
    for new, kept in ((4, [0, 1, 3, 4]), (5, [0, 3, 4, 5])):
        with fetch(cache, entries[new], uses=uses):
            assert cached(tmp_path) == [f"{number:03d}.tar" for number in kept]
            assert total_bytes(tmp_path / "cache") <= 4 * entry_bytes
    uses[entries[1].key] = 8.0
    with fetch(cache, entries[1], uses=uses):
        assert cached(tmp_path) == ["000.tar", "001.tar", "004.tar", "005.tar"]
    # What is used before is not evicted for what is used later.
    uses |= {entries[1].key: 8.0, entries[2].key: 10.0}
    assert fetch(cache, entries[2], uses=uses, urgent=False) is None
    assert cached(tmp_path) == ["000.tar", "001.tar", "004.tar", "005.tar"]


def test_what_is_in_use_stays_and_the_error_names_the_numbers(server: ShardServer, files: Path, tmp_path: Path) -> None:
    entries = write_entries(files, server.url, number=3, size_bytes=SHARD_BYTES)
    max_bytes = 2 * entries[0].size_bytes + 10
    cache = ShardCache(options(tmp_path, max_bytes=max_bytes, patience_s=0.3))
    with fetch(cache, entries[0]), fetch(cache, entries[1]):
        assert fetch(cache, entries[2], urgent=False) is None
        with pytest.raises(UserError, match=f"no room for {server.url}/002.tar .* of cache.max_bytes={max_bytes}"):
            fetch(cache, entries[2])
        assert not cache.folder.is_hungry()
        assert cached(tmp_path) == ["000.tar", "001.tar"]
        assert not parts(tmp_path)
    fetch_and_check(cache, entries[2], files)
    assert len(cached(tmp_path)) == 2


def test_whoever_waits_for_room_gets_it_when_a_pin_goes(server: ShardServer, files: Path, tmp_path: Path) -> None:
    entries = write_entries(files, server.url, number=2, size_bytes=SHARD_BYTES)
    cache = ShardCache(options(tmp_path, max_bytes=entries[0].size_bytes))
    pin = fetch(cache, entries[0])
    assert pin is not None
    other = threading.Thread(target=fetch_and_check, args=(cache, entries[1], files))
    other.start()
    wait_until(cache.folder.is_hungry, what="somebody waiting for room")
    pin.close()
    other.join(30)
    assert not other.is_alive()
    assert cached(tmp_path) == ["001.tar"]


def test_other_content_at_the_same_url_is_another_entry(server: ShardServer, files: Path, tmp_path: Path) -> None:
    cache = ShardCache(options(tmp_path))
    (old,) = write_entries(files, server.url, number=1, size_bytes=600)
    fetch_and_check(cache, old, files)
    (new,) = write_entries(files, server.url, number=1, size_bytes=660)
    fetch_and_check(cache, new, files)
    assert cache.num_downloads == 2


@pytest.mark.parametrize("damage", ["cut", "removed", "changed"])
def test_what_was_damaged_in_the_cache_is_fetched_again(
    damage: str, server: ShardServer, files: Path, tmp_path: Path
) -> None:
    (entry,) = write_entries(files, server.url, number=1, size_bytes=SHARD_BYTES)
    fetch_and_check(ShardCache(options(tmp_path)), entry, files)
    cache = ShardCache(options(tmp_path, recheck=True))
    path = cache.folder.path_of(entry, 1)
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + (b"?" if damage == "changed" else b""))
    fetch_and_check(cache, entry, files)
    assert cache.num_downloads == 1


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


def start_worker(
    tmp_path: Path, entries: list[CacheEntry], *, max_bytes: int, seed: int, rounds: int, limit_bytes: int | None = None
) -> subprocess.Popen[str]:
    told = tmp_path / "entries.json"
    told.write_text(json.dumps([[dataclasses.asdict(file) for file in entry.files] for entry in entries]))
    arguments = [tmp_path / "cache", max_bytes, told, seed, rounds]
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("cache_worker.py")), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=None
        if limit_bytes is None
        else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)),
    )


def finish_worker(worker: subprocess.Popen[str]) -> None:
    stdout, stderr = worker.communicate(timeout=120)
    assert worker.returncode == 0, stderr
    assert stdout.splitlines()[-1] == "ok"


@pytest.mark.slow
def test_of_several_processes_that_want_a_shard_one_downloads_it(
    server: ShardServer, files: Path, tmp_path: Path
) -> None:
    entries = write_entries(files, server.url, number=1, size_bytes=SHARD_BYTES)
    server.bytes_per_s = 50_000.0
    workers = [start_worker(tmp_path, entries, max_bytes=10**9, seed=seed, rounds=1) for seed in range(3)]
    for worker in workers:
        finish_worker(worker)
    assert server.requests == {"000.tar": 1, "000.idx.npy": 1}


def test_after_a_kill_in_a_download_the_next_one_goes_on(server: ShardServer, files: Path, tmp_path: Path) -> None:
    entries = write_entries(files, server.url, number=2, size_bytes=SHARD_BYTES)
    server.bytes_per_s = 20_000.0
    worker = start_worker(tmp_path, entries[:1], max_bytes=10**9, seed=0, rounds=1)
    wait_until(lambda: bool(parts(tmp_path)) and server.requests["000.tar"] > 0, what="a download")
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert len(parts(tmp_path)) == 2
    assert not cached(tmp_path)
    server.bytes_per_s = None
    # What it left is in the way of another shard, and makes way; its own shard is fetched anew.
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
