"""What readers and feeds count, against the files and the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.concat import ConcatReader
from pipeline.data.counting import counters_of
from pipeline.data.crop import CentreCrop
from pipeline.data.encoded import EncodedReader
from pipeline.data.order import slots_of
from pipeline.data.packed import PackedReader
from pipeline.data.remote_set import make_feeds, open_data_set
from pipeline.data.shard_cache import CacheOptions
from pipeline.shards.manifest import DataSet
from shard_server import shard_server
from tiny_data import prepare_pictures, rows_of, write_pictures


def read_all(reader: Any) -> None:
    slots = slots_of(np.arange(reader.num_samples))
    reader.start(iter([(0, slots.sample_ids)]))
    reader.fill(slots, epoch=0, out=torch.empty((len(slots), *reader.image_shape), dtype=torch.uint8))
    reader.finish(0)


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_an_encoded_reader_counts_the_bytes_of_its_images(tmp_path: Path, extension: str) -> None:
    write_pictures(tmp_path / "pictures", num_each=5, size=64, extension=extension)
    data = prepare_pictures(tmp_path / "pictures", tmp_path / "data", "layout=encoded", "source.val_frac=0.2")
    stored_bytes = sum(int(row["image_bytes"]) for _, row in rows_of(data, "train"))
    first, second = (EncodedReader(data, "train", size=(8, 8), crop=CentreCrop(frac=1.0)) for _ in range(2))
    both = ConcatReader([first, second])
    assert counters_of(both) == {"decode_s": 0.0, "read_bytes": 0.0}
    read_all(both)
    assert counters_of(first)["read_bytes"] == stored_bytes
    assert counters_of(both)["read_bytes"] == 2 * stored_bytes
    assert counters_of(both)["decode_s"] == pytest.approx(sum(counters_of(r)["decode_s"] for r in (first, second)))
    assert counters_of(first)["decode_s"] > 0
    both.close()


def test_local_packed_shards_have_nothing_to_count(synthetic: DataSet) -> None:
    reader = PackedReader(synthetic, "train")
    read_all(reader)
    assert counters_of(reader) == {}
    reader.close()


def test_a_cache_counts_what_came_over_the_network_and_what_did_not(synthetic: DataSet, tmp_path: Path) -> None:
    """Two readers with one cache fetch each shard once, whoever is first. Later there is nothing to fetch."""
    cache = CacheOptions(dir=str(tmp_path / "cache"))
    shards = synthetic.split("train").shards
    sent_bytes = sum(shard.size_bytes + shard.index_bytes for shard in shards)
    with shard_server(synthetic.root) as server:
        counts = []
        for _ in range(2):
            opened = open_data_set(server.url, cache=cache)
            feeds = make_feeds([(opened, "train"), (opened, "train")], ranks=1)
            readers = [PackedReader(opened.data_set, "train", make_feed=feed) for feed in feeds]
            reader = ConcatReader(readers)
            assert set(counters_of(reader).values()) == {0.0}
            read_all(reader)
            counts.append(counters_of(reader))
            reader.close()
    found = len(shards)
    assert counts[0] == {**counts[0], "cache_misses": found, "downloaded_bytes": sent_bytes}
    assert counts[1] == {"cache_hits": 2 * found, "cache_misses": 0, "downloaded_bytes": 0}
