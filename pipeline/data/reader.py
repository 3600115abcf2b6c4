"""Reading packed samples: sample ids in, pixels and labels out, one gather a batch.

    reader = PackedReader(data_set, "train")
    reader.gather_images(sample_ids, out=images_BHWC)       # torch uint8, filled in place
    labels_B = reader.labels(sample_ids)

Axes: B batch, H height, W width, C channels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pipeline.shards.check import check_sizes
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.index import check_index, read_index
from pipeline.shards.manifest import DataSet
from pipeline.shards.mapping import MappedFiles
from pipeline.shards.record import PIXEL_ALIGNMENT_BYTES

Int64Array = npt.NDArray[np.int64]


class PackedReader:
    """Random access to one packed split. Opening it checks every file's size and every sidecar's rows."""

    def __init__(self, data_set: DataSet, split_name: str) -> None:
        """Open a split.

        Raises:
            UserError: the data set is not packed or has no such split.
            DamageError: a file is missing, of another size, or a sidecar does not describe its shard.
        """
        if data_set.packed is None:
            raise UserError(
                f"{data_set.root}: holds the encoded layout, training reads the packed one:"
                " prepare it again with layout=packed"
            )
        self.data_set = data_set
        self.layout = data_set.packed
        self.split = data_set.split(split_name)
        check_sizes(self.split)
        self._labels = self._read_labels()
        counts = [shard.num_samples for shard in self.split.shards]
        self._first_ids = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        self._mapped = MappedFiles([shard.path for shard in self.split.shards])
        # A view whose row k is the image at byte 64*k: rows overlap, so any record of any shard is one row of it.
        # int64 elements: 8 bytes a copy step where the rows' length allows it.
        range_bytes = torch.from_numpy(self._mapped.array)
        num_rows = (len(range_bytes) - self.layout.pixel_bytes) // PIXEL_ALIGNMENT_BYTES + 1
        self._row_of_id = self._mapped.starts + self.layout.pixel_offset - self._first_ids * self.layout.record_bytes
        self._images = torch.as_strided(range_bytes, (num_rows, self.layout.pixel_bytes), (PIXEL_ALIGNMENT_BYTES, 1))

    @property
    def num_samples(self) -> int:
        return self.split.num_samples

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (self.layout.height, self.layout.width, self.layout.channels)

    def gather_images(self, sample_ids: Int64Array, *, out: torch.Tensor) -> None:
        """Copy the pixels of `sample_ids`, int64 (B,), into `out`, contiguous uint8 (B, H, W, C)."""
        shards = np.searchsorted(self._first_ids, sample_ids, side="right") - 1
        byte_offsets = self._row_of_id[shards] + sample_ids * self.layout.record_bytes
        rows = torch.from_numpy(byte_offsets // PIXEL_ALIGNMENT_BYTES)
        torch.index_select(self._images, 0, rows, out=out.view(len(sample_ids), -1))

    def labels(self, sample_ids: Int64Array) -> Int64Array:
        """Return the class numbers of `sample_ids`, int64 (B,)."""
        return self._labels[sample_ids]

    def close(self) -> None:
        """Unmap the shards; the reader must not be used afterwards."""
        self._images = torch.empty(0)
        self._mapped.close()

    def _read_labels(self) -> Int64Array:
        """Check every sidecar and copy its labels: 8 bytes a sample."""
        labels = np.empty(self.split.num_samples, dtype=np.int64)
        start = 0
        for shard in self.split.shards:
            rows = read_index(shard.index_path, num_samples=shard.num_samples)
            check_index(shard.index_path, rows, shard_bytes=shard.size_bytes, num_classes=self.data_set.num_classes)
            expected_offsets = np.arange(len(rows), dtype=np.uint64) * np.uint64(self.layout.record_bytes)
            if not np.array_equal(rows["record_offset"], expected_offsets):
                raise DamageError(f"{shard.index_path}: its records are not packed at {self.layout.record_bytes} bytes")
            labels[start : start + len(rows)] = rows["label"]
            start += len(rows)
        return labels
