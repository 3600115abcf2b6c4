"""Reading packed samples: sample ids in, pixels and labels out, one gather a batch.

    reader = PackedReader(data_set, "train")
    labels_B = reader.fill(slots, epoch=0, out=images_BHWC)       # torch uint8, filled in place

Opening costs a few microseconds a shard, for a billion samples too: a shard's sidecar is read and checked when the
first of its samples is. Of it the labels or targets are kept, 4 bytes each of the shards used so far.

Axes: B batch, H height, W width, C channels, L labels or targets of a sample.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.augment import augment_normalise
from pipeline.data.multilabels import ShardLabels
from pipeline.data.order import Slots
from pipeline.data.pixels import gather, gather_augmented, native_pixels
from pipeline.data.reader import AllAtHand, Feed, Int64Array, LabelArray, MakeFeed, Use
from pipeline.native import Absent
from pipeline.shards.check import check_sizes
from pipeline.shards.errors import UserError
from pipeline.shards.index import LABEL_COLUMNS, check_index, read_index
from pipeline.shards.manifest import DataSet
from pipeline.shards.mapping import MappedFiles
from pipeline.shards.record import PIXEL_ALIGNMENT_BYTES
from pipeline.shards.task import Task

# Without native code an image is gathered as elements of the widest type that divides it: 1,460 us against 1,577 us of
# uint8 for 256 images of 128x128 on one core, and 736 against 1,136 on two, where torch shares long rows of few
# elements out badly.
ELEMENTS = (torch.int64, torch.int32, torch.int16, torch.uint8)


class PackedReader:
    """Random access to one packed split."""

    def __init__(self, data_set: DataSet, split_name: str, *, make_feed: MakeFeed | None = None) -> None:
        """Open a split.

        Args:
            make_feed: keeps the shards and sidecars at hand; None for local ones, which are checked for their lengths
                and mapped here.

        Raises:
            UserError: the data set is not packed or has no such split.
            DamageError: a file is missing or of another size.
        """
        if data_set.packed is None:
            raise UserError(
                f"{data_set.root}: holds the encoded layout, training reads the packed one:"
                " prepare it again with layout=packed"
            )
        self.data_set = data_set
        self.layout = data_set.packed
        self._element = next(dtype for dtype in ELEMENTS if self.layout.pixel_bytes % dtype.itemsize == 0)
        self.split = data_set.split(split_name)
        # Pages of it that no sidecar has filled yet take no memory.
        is_multilabel = data_set.task is Task.multilabel
        self._labels: npt.NDArray[np.int32] | npt.NDArray[np.float32] = (
            np.empty((self.split.num_samples, data_set.num_classes), dtype=np.float32)
            if data_set.task is Task.regression
            else np.empty(0 if is_multilabel else self.split.num_samples, dtype=np.int32)
        )
        self._known = np.zeros(len(self.split.shards), dtype=np.bool_)
        self._reading = threading.Lock()
        counts = [shard.num_samples for shard in self.split.shards]
        self._first_ids = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        self._multilabels = ShardLabels(self._first_ids) if is_multilabel else None
        if make_feed is None:
            check_sizes(self.split)
        self._mapped = MappedFiles([shard.size_bytes for shard in self.split.shards])
        self._feed: Feed = AllAtHand() if make_feed is None else make_feed(self._mapped)
        if make_feed is None:
            for number, shard in enumerate(self.split.shards):
                self._mapped.map_file(number, shard.path)
        # A view whose row k starts at byte 64*k: rows overlap, so any record's pixels of any shard are one row of it.
        range_bytes = torch.from_numpy(self._mapped.array)
        num_rows = (len(range_bytes) - self.layout.pixel_bytes) // PIXEL_ALIGNMENT_BYTES + 1
        self._images = torch.as_strided(
            range_bytes.view(self._element),
            (num_rows, self.layout.pixel_bytes // self._element.itemsize),
            (PIXEL_ALIGNMENT_BYTES // self._element.itemsize, 1),
        )
        first_pixels = self._mapped.starts + self.layout.pixel_offset
        self._offset_of_id_0 = first_pixels - self._first_ids * self.layout.record_bytes
        self._native = native_pixels()

    @property
    def num_samples(self) -> int:
        return self.split.num_samples

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (self.layout.height, self.layout.width, self.layout.channels)

    @property
    def is_at_hand(self) -> bool:
        """Whether all shards are local files, so that `fill` waits for nothing but the page cache."""
        return isinstance(self._feed, AllAtHand)

    def start(self, uses: Iterator[Use]) -> None:
        self._feed.start(uses)

    def fill(self, slots: Slots, *, epoch: int, out: torch.Tensor) -> LabelArray:
        """Copy the pixels of the slots' samples into `out` and return their labels, int64 (B,) or (B, L), or targets.

        Raises:
            DamageError: a sidecar does not describe its shard.
        """
        offsets, labels = self._find(slots.sample_ids)
        if isinstance(self._native, Absent):
            rows = torch.from_numpy(offsets // PIXEL_ALIGNMENT_BYTES)
            torch.index_select(self._images, 0, rows, out=out.view(len(rows), -1).view(self._element))
        else:
            gather(self._native, self._mapped.array, offsets, out=out)
        return labels

    def fill_augmented(
        self,
        slots: Slots,
        bits_B: torch.Tensor,
        *,
        flip: bool,
        crop_padding: int,
        mean_C: torch.Tensor,
        std_C: torch.Tensor,
        out: torch.Tensor,
        num_threads: int = 1,
    ) -> LabelArray:
        """As `fill` and `augment_normalise`, with no uint8 batch in between: from the shards into floats (B, D)."""
        if isinstance(self._native, Absent):
            images_BHWC = torch.empty((len(slots), *self.image_shape), dtype=torch.uint8)
            labels = self.fill(slots, epoch=0, out=images_BHWC)
            augment_normalise(
                images_BHWC, bits_B, flip=flip, crop_padding=crop_padding, mean_C=mean_C, std_C=std_C, out=out
            )
            return labels
        offsets, labels = self._find(slots.sample_ids)
        gather_augmented(
            self._native,
            self._mapped.array,
            offsets,
            bits_B,
            image_shape=self.image_shape,
            flip=flip,
            crop_padding=crop_padding,
            mean_C=mean_C,
            std_C=std_C,
            num_threads=num_threads,
            out=out,
        )
        return labels

    def _find(self, sample_ids: Int64Array) -> tuple[Int64Array, LabelArray]:
        """Return where samples' pixels begin in the mapping, and their labels, once their shards are at hand."""
        shards = np.searchsorted(self._first_ids, sample_ids, side="right") - 1
        self._feed.wait_for(shards)
        if not self._known[shards].all():
            self._read_labels(shards)
        offsets = self._offset_of_id_0[shards] + sample_ids * self.layout.record_bytes
        if self._multilabels is not None:
            return offsets, self._multilabels.of(shards, sample_ids)
        if self.data_set.task is Task.regression:
            return offsets, self._labels[sample_ids].astype(np.float32, copy=False)
        return offsets, self._labels[sample_ids].astype(np.int64)

    def finish(self, step: int) -> None:
        self._feed.finish(step)

    def counting_parts(self) -> tuple[object, ...]:
        return (self._feed,)

    def close(self) -> None:
        """Unmap the shards; the reader must not be used afterwards."""
        self._feed.close()
        self._images = torch.empty(0)
        self._mapped.close()

    def _read_labels(self, shards: Int64Array) -> None:
        """Read and check those of these shards' sidecars that were not read yet."""
        with self._reading:
            for number in np.unique(shards[~self._known[shards]]).tolist():
                shard = self.split.shards[number]
                rows = read_index(shard.index_path, num_samples=shard.num_samples)
                check_index(
                    shard.index_path,
                    rows,
                    shard_bytes=shard.size_bytes,
                    num_classes=self.data_set.num_classes,
                    packed=self.layout,
                    task=self.data_set.task,
                )
                if self._multilabels is not None:
                    self._multilabels.put(number, rows["labels"])
                else:
                    first = int(self._first_ids[number])
                    self._labels[first : first + len(rows)] = rows[LABEL_COLUMNS[self.data_set.task]]
                self._known[number] = True
