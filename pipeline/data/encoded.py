"""Reading encoded samples: sample ids in, the parts of JPEG, PNG and WebP images that are seen out, and labels.

    reader = EncodedReader(data_set, "train", size=(224, 224), crop=RandomCrop(seed=7))
    labels_B = reader.fill(slots, epoch=0, out=images_BHWC)       # torch uint8 (B, 224, 224, 3), filled in place

The files' bytes are slices of the mapped shards: nothing is copied or read before it is decoded. Where each image is,
and how large, its shard's sidecar says, so that what will be seen of it is known beforehand. Own shards of the encoded
layout and foreign ones are read alike.

Memory: 32 bytes a sample, and a thread's own while it decodes. Of an image of 12 million pixels that is 0.8 MB for a
sequential JPEG (the rows that the filter covers at once), 35 MB for a progressive one (its coefficients: 3 bytes a
pixel where colours are halved both ways, at most 6), 88 MB for any JPEG without native code, and 141 MB for PNG, WebP
and what else is left to Pillow (12 bytes a pixel).

Axes: B batch, H height, W width, C channels, K labels.
"""

from __future__ import annotations

import logging
import shlex
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from pipeline.data.crop import Crop
from pipeline.data.decode import BROKEN, CHANNELS, MAX_PIXELS, Decoder, make_jobs
from pipeline.data.multilabels import ShardLabels
from pipeline.data.order import Slots
from pipeline.data.reader import AllAtHand, Feed, Int64Array, LabelArray, MakeFeed, Use
from pipeline.shards.check import check_sizes
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.index import IndexRows, check_index, read_index
from pipeline.shards.manifest import DataSet, ShardEntry
from pipeline.shards.mapping import MappedFiles
from pipeline.shards.task import Task

# Of a sample, what is kept of its sidecar's row; `offset` counts from the start of the mapped range.
SAMPLE = np.dtype([("offset", "<i8"), ("size_bytes", "<i8"), ("height", "<i4"), ("width", "<i4"), ("label", "<i8")])

# What is kept besides where records are verified.
RECORD = np.dtype([("offset", "<i8"), ("size_bytes", "<i8"), ("crc32", "<u4"), ("is_verified", "?")])

log = logging.getLogger(__name__)


class EncodedReader:
    """Random access to one encoded or foreign split.

    Attributes:
        decoder: whose `absence` says why decoding is slow, where it is.
    """

    def __init__(
        self,
        data_set: DataSet,
        split_name: str,
        *,
        size: tuple[int, int],
        crop: Crop,
        threads: int | None = None,
        verify: bool = False,
        make_feed: MakeFeed | None = None,
    ) -> None:
        """Open a split.

        Args:
            size: height and width of the images that `fill` gives.
            crop: what is seen of each image.
            threads: that decode; None for one to each processor that this process may use.
            verify: check each record's CRC-32 when it is read for the first time, which takes 37 us for 110 kB, 4 % of
                its decoding. Else damage is found where a decoder complains of it; what lies in parts of a JPEG that
                are not seen, or makes another valid image, it does not.
            make_feed: keeps the shards at hand; None for local ones, which are checked for their lengths and mapped
                here. A shard's sidecar is read at its first use.

        Raises:
            UserError: the data set is packed, has no such split, or its shards are not local.
            DamageError: a file is missing or of another length.
        """
        if data_set.packed is not None:
            raise UserError(f"{data_set.root}: holds the packed layout, encoded images were asked for")
        if min(size) < 1 or max(size) > 65_535:
            raise UserError(f"size {size[0]}x{size[1]}: 1 to 65535 each wanted")
        self.data_set = data_set
        self.split = data_set.split(split_name)
        self.crop, self._size = crop, size
        shards = self.split.shards
        if make_feed is None:
            if "://" in (self.split.shards_at or ""):
                raise UserError(f"{data_set.root}: the shards lie at {self.split.shards_at}, which is not local")
            check_sizes(self.split)
        self._mapped = MappedFiles([shard.size_bytes for shard in shards])
        self._feed: Feed = AllAtHand() if make_feed is None else make_feed(self._mapped)
        if make_feed is None:
            for number, shard in enumerate(shards):
                self._mapped.map_file(number, shard.path)
        counts = [shard.num_samples for shard in shards]
        self._first_ids = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        # Pages of it that no sidecar has filled yet take no memory.
        self._samples = np.empty(self.split.num_samples, dtype=SAMPLE)
        self._records = np.zeros(self.split.num_samples if verify else 0, dtype=RECORD)
        self._verify = verify
        self._multilabels = ShardLabels(self._first_ids)
        num_targets = data_set.num_classes if data_set.task is Task.regression else 0
        self._targets = np.empty((self.split.num_samples, num_targets), dtype=np.float32)
        self._known = np.zeros(len(shards), dtype=np.bool_)
        self._reading = threading.Lock()
        self.decoder = Decoder(threads=threads)
        if self.decoder.absence:
            log.info("data: JPEGs of %s are decoded at about 3/5 of the speed: %s", split_name, self.decoder.absence)

    @property
    def num_samples(self) -> int:
        return self.split.num_samples

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (*self._size, CHANNELS)

    @property
    def is_at_hand(self) -> bool:
        """Whether any sample can be read at any time, and not those alone that `start` was told of."""
        return isinstance(self._feed, AllAtHand)

    def start(self, uses: Iterator[Use]) -> None:
        self._feed.start(uses)

    def fill(self, slots: Slots, *, epoch: int, out: torch.Tensor, crop: Crop | None = None) -> LabelArray:
        """Decode what is seen of the slots' samples into `out` and return their labels or targets.

        Args:
            crop: what is seen; None: what the reader was opened for.

        Raises:
            DamageError: an image cannot be decoded, or its decoder complains and its bytes are not those that were
                stored, or a sidecar does not describe its shard.
        """
        sample_ids = slots.sample_ids
        shards = np.searchsorted(self._first_ids, sample_ids, side="right") - 1
        self._feed.wait_for(shards)
        if not self._known[shards].all():
            self._read_sidecars(shards)
        if self._verify:
            self._verify_records(shards, sample_ids)
        samples = self._samples[sample_ids]
        sizes = {"heights_B": samples["height"].astype(np.int64), "widths_B": samples["width"].astype(np.int64)}
        views = (crop or self.crop).views(slots.positions, epoch=epoch, size=self._size, **sizes)
        jobs = make_jobs(views, offsets=samples["offset"], sizes_bytes=samples["size_bytes"], **sizes)
        failures = self.decoder.decode(self._mapped.array, jobs, out=out.numpy())
        for index in np.flatnonzero(jobs["result"] == BROKEN).tolist():
            failures.setdefault(index, "")
        for index in sorted(failures):
            self._check(int(shards[index]), int(sample_ids[index]), failures[index])
        if self.data_set.task is Task.multilabel:
            return self._multilabels.of(shards, sample_ids)
        if self.data_set.task is Task.regression:
            return self._targets[sample_ids]
        return np.ascontiguousarray(samples["label"])

    def finish(self, step: int) -> None:
        self._feed.finish(step)

    def counting_parts(self) -> tuple[object, ...]:
        return (self._feed, self.decoder)

    def close(self) -> None:
        """Unmap the shards; the reader must not be used afterwards."""
        self.decoder.close()
        self._feed.close()
        self._mapped.close()

    def _read_sidecars(self, shards: Int64Array) -> None:
        """Read and check those of these shards' sidecars that were not read yet."""
        with self._reading:
            for number in np.unique(shards[~self._known[shards]]).tolist():
                shard = self.split.shards[number]
                rows = self._rows(shard)
                _check_images(shard, rows)
                first = int(self._first_ids[number])
                samples = self._samples[first : first + len(rows)]
                samples["offset"] = rows["image_offset"] + np.uint64(self._mapped.starts[number])
                for name in ("height", "width"):
                    samples[name] = rows[name]
                samples["size_bytes"] = rows["image_bytes"]
                if self._verify:
                    records = self._records[first : first + len(rows)]
                    records["offset"] = rows["record_offset"] + np.uint64(self._mapped.starts[number])
                    records["size_bytes"], records["crc32"] = rows["record_bytes"], rows["crc32"]
                if self.data_set.task is Task.multilabel:
                    self._multilabels.put(number, rows["labels"])
                elif self.data_set.task is Task.regression:
                    self._targets[first : first + len(rows)] = rows["targets"]
                else:
                    samples["label"] = rows["label"]
                self._known[number] = True

    def _verify_records(self, shards: Int64Array, sample_ids: Int64Array) -> None:
        """Check the CRC-32 of those of these records that were not read before."""
        new = np.flatnonzero(~self._records["is_verified"][sample_ids]).tolist()
        for index, is_whole in zip(new, self.decoder.pool.map(self._is_whole, sample_ids[new].tolist()), strict=True):
            if not is_whole:
                self._check(int(shards[index]), int(sample_ids[index]), "")
        self._records["is_verified"][sample_ids[new]] = True

    def _is_whole(self, sample_id: int) -> bool:
        record: Any = self._records[sample_id]
        start = int(record["offset"])
        content = self._mapped.array[start : start + int(record["size_bytes"])]
        return zlib.crc32(content.data) == int(record["crc32"])

    def _rows(self, shard: ShardEntry) -> IndexRows:
        rows = read_index(shard.index_path, num_samples=shard.num_samples)
        check_index(
            shard.index_path,
            rows,
            shard_bytes=shard.size_bytes,
            num_classes=self.data_set.num_classes,
            packed=None,
            task=self.data_set.task,
        )
        return rows

    def _check(self, number: int, sample_id: int, reason: str) -> None:
        """Raise the error of an image that cannot be decoded, or, where no reason is given, only if it has changed.

        Pillow decodes many a damaged JPEG, of which libjpeg warns; its record's CRC-32 tells whether it was ever right.
        """
        shard = self.split.shards[number]
        record = sample_id - int(self._first_ids[number])
        row: Any = self._rows(shard)[record]
        start = int(self._mapped.starts[number]) + int(row["record_offset"])
        content = self._mapped.array[start : start + int(row["record_bytes"])]
        is_changed = zlib.crc32(content.data) != int(row["crc32"])
        if not is_changed and not reason:
            return
        state = "its bytes have changed, CRC-32 differs" if is_changed else "its bytes are those that were stored"
        told = f"cannot be decoded ({reason}): {state}" if reason else f"is damaged: {state}"
        if self.data_set.is_foreign:
            mend = "get this tar again, or leave the sample out of it and adopt it anew (python -m data_prep.index)"
        elif is_changed:
            mend = f"to mend: python -m data_prep.repair {shlex.quote(f'path={self.data_set.root}')}"
        else:
            mend = "prepare the data again with layout.decode_check=true, which leaves such images out and lists them"
        source = bytes(row["source_key"]).decode("utf-8", "replace")
        raise DamageError(f"{shard.path}: record {record} (sample {source}) {told}; {mend}")


def _check_images(shard: ShardEntry, rows: IndexRows) -> None:
    """Check that every image has a size, and one that decoders take."""
    bad = (rows["height"] < 1) | (rows["width"] < 1) | (rows["image_bytes"] < 1)
    bad |= rows["height"].astype(np.uint64) * rows["width"].astype(np.uint64) > np.uint64(MAX_PIXELS)
    if bad.any():
        record = int(np.argmax(bad))
        size = f"{rows['width'][record]}x{rows['height'][record]}"
        raise DamageError(
            f"{shard.index_path}: record {record} has an image of {size} pixels, 1 to {MAX_PIXELS:,} wanted"
        )
