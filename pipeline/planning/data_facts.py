"""What a plan knows of the data: of data sets that are there, or of one that is only described.

facts = read_facts(config.data)                                     # manifests alone, no image
facts = stated_facts(samples=10**9, image_shape=(64, 64, 3), num_classes=11_230, shard_bytes=128 << 20)
facts.shard_counts                  # samples of each shard, for each data set that is mixed
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.build_data import ENCODED_RESOLUTION
from pipeline.data.order import Int64Array
from pipeline.data.remote_set import open_data_set
from pipeline.data.shard_cache import CacheOptions
from pipeline.data_config import DataConfig
from pipeline.shards.errors import UserError
from pipeline.shards.index import read_index
from pipeline.shards.manifest import DataSet, Split
from pipeline.shards.record import END_OF_ARCHIVE, PackedLayout
from pipeline.shards.task import Task
from pipeline.storage import is_local, open_store

# Beyond so many samples their labels are not read: 8 bytes each.
MAX_LABELS = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """The split to train on.

    Attributes:
        title: where it lies and what it is called.
        shard_counts: int64 (shards,) for each data set: samples of its shards.
        shard_bytes: int64, of all shards of all data sets.
        image_shape: height, width and channels, as the model sees them.
        train_samples: of them, that are trained on; None: all.
        read_labels: returns int64 (samples,), the class of each sample, or None where that cannot be had at once.
    """

    title: str
    shard_counts: tuple[Int64Array, ...]
    shard_bytes: Int64Array
    image_shape: tuple[int, int, int]
    num_classes: int
    task: Task
    train_samples: int | None = None
    read_labels: Callable[[], Int64Array | None] = field(default=lambda: None)

    @property
    def num_samples(self) -> int:
        """That are trained on."""
        return self.train_samples or int(sum(counts.sum() for counts in self.shard_counts))

    @property
    def all_shard_counts(self) -> Int64Array:
        return np.concatenate(self.shard_counts)


def read_facts(config: DataConfig) -> DataFacts:
    """Return what the manifests say of data.path, or of all data.paths; nothing goes into the cache for that.

    Raises:
        UserError: there is no such data set or split, or several that do not mix.
    """
    if config.stream is not None:
        raise UserError(
            "data.stream: nothing is known of a stream before it is read; python -m data_prep.index makes of its shards"
            " a data set that can be planned for"
        )
    with tempfile.TemporaryDirectory() as folder:
        sets = [open_data_set(path, cache=CacheOptions(dir=folder)).data_set for path in config.places]
    splits = [data_set.split(config.train_split) for data_set in sets]
    shapes = [_image_shape(data_set, config) for data_set in sets]
    for place, data_set, shape in zip(config.places, sets, shapes, strict=True):
        ours, theirs = (shapes[0], sets[0].num_classes), (shape, data_set.num_classes)
        if ours != theirs:
            raise UserError(
                f"{place}: images of {shape}, {data_set.num_classes} classes do not mix with {config.places[0]}:"
                f" {shapes[0]}, {sets[0].num_classes} classes"
            )
    return DataFacts(
        title=f"{' + '.join(config.places)}, {config.train_split}",
        shard_counts=tuple(np.array([shard.num_samples for shard in split.shards], dtype=np.int64) for split in splits),
        shard_bytes=np.array([shard.size_bytes for split in splits for shard in split.shards], dtype=np.int64),
        image_shape=shapes[0],
        num_classes=sets[0].num_classes,
        task=sets[0].task,
        read_labels=lambda: _labels(config, sets, splits),
    )


def stated_facts(*, samples: int, image_shape: tuple[int, int, int], num_classes: int, shard_bytes: int) -> DataFacts:
    """Return the facts of packed data that is only described, cut into shards as preparation would."""
    height, width, channels = image_shape
    record_bytes = PackedLayout(height=height, width=width, channels=channels).record_bytes
    most = max(1, (shard_bytes - len(END_OF_ARCHIVE)) // record_bytes)
    counts = np.full(-(-samples // most), most, dtype=np.int64)
    counts[-1] = samples - most * (len(counts) - 1)
    return DataFacts(
        title=f"stated data of {height}x{width}x{channels}, {num_classes:,} classes",
        shard_counts=(counts,),
        shard_bytes=counts * record_bytes + len(END_OF_ARCHIVE),
        image_shape=image_shape,
        num_classes=num_classes,
        task=Task.classification,
    )


def _image_shape(data_set: DataSet, config: DataConfig) -> tuple[int, int, int]:
    if data_set.packed is not None:
        return data_set.packed.height, data_set.packed.width, data_set.packed.channels
    side = config.resolution or ENCODED_RESOLUTION
    return side, side, 3


def _labels(config: DataConfig, sets: Sequence[DataSet], splits: Sequence[Split]) -> Int64Array | None:
    """Return the labels of all sets, None where they are remote, too many, or several a sample."""
    are_here = all(is_local(open_store(place)) for place in config.places)
    are_few = sum(split.num_samples for split in splits) <= MAX_LABELS
    if not are_here or not are_few or any(data_set.task is not Task.classification for data_set in sets):
        return None
    return np.concatenate([labels for split in splits for labels in _shard_labels(split)])


def _shard_labels(split: Split) -> Iterator[Int64Array]:
    for shard in split.shards:
        yield read_index(shard.index_path, num_samples=shard.num_samples)["label"].astype(np.int64)
