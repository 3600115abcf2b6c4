"""The cache against a server that misbehaves: what passes costs time alone, and the limit always holds."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from cache_cases import PIECE_BYTES, SHARD_BYTES, cached, fetch, fetch_and_check, options, parts, total_bytes
from pipeline.data import download
from pipeline.data.download import StoppedError
from pipeline.data.shard_cache import ShardCache
from pipeline.shards.errors import DamageError, UserError
from shard_server import ShardServer, write_entries
from waiting import wait_until


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


def test_a_server_that_goes_away_for_longer_than_all_pauses_is_waited_for(
    server: ShardServer, files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Longer than the store asks again by itself, and than the longest pause between our own tries."""
    entries = write_entries(files, server.url, number=3, size_bytes=SHARD_BYTES)
    cache = ShardCache(options(tmp_path))
    fetch_and_check(cache, entries[0], files)
    server.is_away.set()
    away_s = 2.5 * download.ATTEMPT_S + download.MAX_PAUSE_S
    threading.Timer(away_s, server.is_away.clear).start()
    started_s = time.monotonic()
    fetch_and_check(cache, entries[1], files)
    assert time.monotonic() - started_s >= away_s
    assert "asked again" in caplog.text
    fetch_and_check(cache, entries[2], files)


def test_a_download_that_was_stopped_goes_on_where_it_was(server: ShardServer, files: Path, tmp_path: Path) -> None:
    (entry,) = write_entries(files, server.url, number=1, size_bytes=40 * PIECE_BYTES)
    server.bytes_per_s = 40_000.0
    first = ShardCache(options(tmp_path))
    with pytest.raises(StoppedError):
        first.fetch(
            entry,
            next_use=lambda key: 0.0,
            is_urgent=lambda: True,
            is_stopped=lambda: first.bytes_downloaded >= 10 * PIECE_BYTES,
        )
    server.bytes_per_s = None
    second = ShardCache(options(tmp_path))
    fetch_and_check(second, entry, files)
    assert first.bytes_downloaded + second.bytes_downloaded == entry.size_bytes
    assert first.bytes_downloaded < entry.size_bytes


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
