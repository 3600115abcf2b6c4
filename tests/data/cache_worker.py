"""A process that fetches entries through a cache in random order and holds every byte against what it must be.

python cache_worker.py CACHE_DIR MAX_BYTES ENTRIES_JSON SEED ROUNDS PIECE_BYTES

It says "fetched" as soon as one was, and "ok" last.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from pipeline.data import download
from pipeline.data.cache_entry import CacheEntry, RemoteFile
from pipeline.data.shard_cache import CacheOptions, ShardCache
from pipeline.shards.check import file_sha256


def main(folder: str, max_bytes: str, entries_file: str, seed: str, rounds: str, piece_bytes: str) -> None:
    download.PIECE_BYTES = int(piece_bytes)
    rows = json.loads(Path(entries_file).read_text())
    entries = [CacheEntry(tuple(RemoteFile(**file) for file in files)) for files in rows]
    cache = ShardCache(CacheOptions(dir=folder, max_bytes=int(max_bytes), patience_s=60))
    numbers = random.Random(int(seed))
    for _ in range(int(rounds)):
        entry = numbers.choice(entries)
        uses = {other.key: numbers.randrange(100) for other in entries}
        pin = cache.fetch(
            entry,
            next_use=lambda key, uses=uses, key_0=entry.key: 0 if key == key_0 else uses.get(key, float("inf")),
            is_urgent=lambda: True,
            is_stopped=lambda: False,
        )
        assert pin is not None
        with pin:
            for number, file in enumerate(entry.files):
                assert file_sha256(cache.folder.path_of(entry, number)) == file.sha256
        sys.stdout.write("fetched\n")
        sys.stdout.flush()
    sys.stdout.write("ok\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
