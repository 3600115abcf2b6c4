"""What the tests of the cache share: fetching and checking, what is left in the folder, and processes that fetch."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

from pipeline.data.cache_entry import CacheEntry
from pipeline.data.file_locks import Pin
from pipeline.data.shard_cache import CacheOptions, ShardCache
from tiny_data import ROOT

PIECE_BYTES = 10_000
SHARD_BYTES = 45_678


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


def start_worker(
    tmp_path: Path, entries: list[CacheEntry], *, max_bytes: int, seed: int, rounds: int, limit_bytes: int | None = None
) -> subprocess.Popen[str]:
    told = tmp_path / "entries.json"
    told.write_text(json.dumps([[dataclasses.asdict(file) for file in entry.files] for entry in entries]))
    arguments = [tmp_path / "cache", max_bytes, told, seed, rounds, PIECE_BYTES]
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
