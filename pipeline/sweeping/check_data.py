"""What the data must give to runs, asked before the first of them starts.

check_data(config, ranks=2)         # raises the error that the run would end with
samples_of(config)                  # samples of an epoch
"""

from __future__ import annotations

import tempfile

from pipeline.build_data import plan_batch
from pipeline.build_order import num_trained_on
from pipeline.config import TrainConfig
from pipeline.data.remote_set import open_data_set
from pipeline.data.shard_cache import CacheOptions


def samples_of(config: TrainConfig) -> int:
    """Return the samples that are trained on, of all data sets together.

    Raises:
        UserError: there is no such data set or split, or it has fewer samples than are asked for.
    """
    if config.data.stream is not None:
        return config.data.stream_samples_per_epoch or 0
    with tempfile.TemporaryDirectory() as folder:  # what is read of remote sets here is small, and not to be kept
        options = CacheOptions(dir=folder)
        sets = [open_data_set(place, cache=options).data_set for place in config.data.places]
        num_samples = sum(data_set.split(config.data.train_split).num_samples for data_set in sets)
    return num_trained_on(config.data, num_samples)


def check_data(config: TrainConfig, *, ranks: int) -> None:
    """Check that the data is there and that its size and the ranks suit the batch.

    Raises:
        UserError: as training would have it.
    """
    plan_batch(config, num_samples=samples_of(config), world_size=ranks)
