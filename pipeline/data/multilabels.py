"""Several labels a sample, kept by shard as wide as its sidecar has them, looked up for a batch.

    labels = ShardLabels(first_ids)                 # of each shard, the id of its first sample
    labels.put(3, rows["labels"])
    labels.of(shards_B, sample_ids_B)               # int64 (B, L), padded with -1

Axes: B batch, L labels of a sample.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.data.reader import Int64Array
from pipeline.shards.index import NO_LABEL


class ShardLabels:
    """The labels of the shards that were used so far; `put` comes before `of`, for each shard."""

    def __init__(self, first_ids: Int64Array) -> None:
        self._first_ids = first_ids
        self._rows: dict[int, npt.NDArray[np.int32]] = {}

    def put(self, number: int, labels: npt.NDArray[np.int32]) -> None:
        """Keep a copy of a shard's labels, (samples, L)."""
        self._rows[number] = np.array(labels)

    def of(self, shards_B: Int64Array, sample_ids_B: Int64Array) -> Int64Array:
        """Return labels (B, L), as many columns as the widest of the batch's sidecars has."""
        used = {number: self._rows[number] for number in np.unique(shards_B).tolist()}
        labels = np.full((len(shards_B), max(rows.shape[1] for rows in used.values())), NO_LABEL, dtype=np.int64)
        for number, rows in used.items():
            here = np.flatnonzero(shards_B == number)
            labels[here, : rows.shape[1]] = rows[sample_ids_B[here] - self._first_ids[number]]
        return labels
