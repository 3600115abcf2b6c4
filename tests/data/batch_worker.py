"""A run of one rank, in a process of its own: an epoch of windows through a cache; says the SHA-256 of each batch.

python batch_worker.py URL CACHE_DIR MAX_BYTES SEED RANK WORLD_SIZE
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator

from pipeline.data.loader import BatchLoader
from pipeline.data.packed import PackedReader
from pipeline.data.reader import Reader
from pipeline.data.remote_set import make_feeds, open_data_set
from pipeline.data.shard_cache import CacheOptions
from pipeline.data.window import WindowOrder


def digests(reader: Reader, *, seed: int, rank: int, world_size: int) -> Iterator[str]:
    """Yield the SHA-256 of the images and labels of each batch of an epoch."""
    counts = [shard.num_samples for shard in reader.split.shards]
    order = WindowOrder(shard_counts=counts, batch_size=4, seed=seed, lanes=2, window_chunks=1)
    for batch in BatchLoader(reader, order, rank=rank, world_size=world_size):
        content = batch.images_BHWC.numpy().tobytes() + batch.labels_B.numpy().tobytes()
        yield hashlib.sha256(content).hexdigest()


def main(url: str, folder: str, max_bytes: str, seed: str, rank: str, world_size: str) -> None:
    opened = open_data_set(url, cache=CacheOptions(dir=folder, max_bytes=int(max_bytes), patience_s=60))
    (feed,) = make_feeds([(opened, "train")], ranks=int(world_size))
    reader = PackedReader(opened.data_set, "train", make_feed=feed)
    for digest in digests(reader, seed=int(seed), rank=int(rank), world_size=int(world_size)):
        sys.stdout.write(f"{digest}\n")
        sys.stdout.flush()
    reader.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
