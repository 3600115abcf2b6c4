"""Where samples lie: sample ids in, shard numbers and byte ranges out.

ranges_of = packed_ranges(data_set.packed, split)
shards, begins, ends = ranges_of(np.array([17, 3]))     # [0 0], [241144 43368], [253432 55656]
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from pipeline.data.reader import Int64Array
from pipeline.shards.index import read_index
from pipeline.shards.manifest import Split
from pipeline.shards.record import PackedLayout

# Sample ids to (shards, begins, ends): the number of each one's shard in the split, and its bytes [begin, end) there.
RangesOf = Callable[[Int64Array], tuple[Int64Array, Int64Array, Int64Array]]


def packed_ranges(layout: PackedLayout, split: Split) -> RangesOf:
    """Return the ranges of the pixels, by arithmetic."""
    first_ids = _first_ids(split)

    def ranges_of(sample_ids: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        shards = np.searchsorted(first_ids, sample_ids, side="right") - 1
        begins = (sample_ids - first_ids[shards]) * layout.record_bytes + layout.pixel_offset
        return shards, begins, begins + layout.pixel_bytes

    return ranges_of


def encoded_ranges(split: Split) -> RangesOf:
    """Return the ranges of the images, from the sidecars, each read at its first use: 16 bytes a sample are kept."""
    first_ids = _first_ids(split)
    bounds = np.empty((split.num_samples, 2), dtype=np.int64)
    known = np.zeros(len(split.shards), dtype=np.bool_)
    reading = threading.Lock()

    def ranges_of(sample_ids: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        shards = np.searchsorted(first_ids, sample_ids, side="right") - 1
        with reading:
            for number in np.unique(shards[~known[shards]]).tolist():
                shard = split.shards[number]
                rows = read_index(shard.index_path, num_samples=shard.num_samples)
                first = int(first_ids[number])
                # Clipped, as nobody has checked the rows yet; who reads the images will, and says what is wrong.
                begins = np.minimum(rows["image_offset"], shard.size_bytes - 1)
                bounds[first : first + len(rows), 0] = begins
                sizes = np.clip(rows["image_bytes"], 1, shard.size_bytes - begins)
                bounds[first : first + len(rows), 1] = begins + sizes
                known[number] = True
        return shards, bounds[sample_ids, 0], bounds[sample_ids, 1]

    return ranges_of


def _first_ids(split: Split) -> Int64Array:
    counts = [shard.num_samples for shard in split.shards]
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
