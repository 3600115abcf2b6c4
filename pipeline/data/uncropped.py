"""A training split's images as an evaluation sees them: no random crop, read through training's own reader.

    plain = uncropped(train_reader)
    labels_B = plain.fill(slots, epoch=0, out=images_BHWC)      # the largest centred box of the wanted shape

Packed images are stored as they are read; of encoded ones training's reader decodes a part that is drawn anew in each
epoch. What is kept of the split (mappings, sidecars, the feed) is not kept twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from pipeline.data.concat import ConcatReader
from pipeline.data.crop import CentreCrop
from pipeline.data.encoded import EncodedReader
from pipeline.data.order import Slots, slots_of
from pipeline.data.packed import PackedReader
from pipeline.data.reader import Int64Array, LabelArray, Reader, Use
from pipeline.shards.manifest import DataSet, Split

WHOLE = CentreCrop(frac=1.0)


def uncropped(reader: Reader) -> Reader:
    """Return a reader of the same samples, whole; the one that is given still owns what both use."""
    if isinstance(reader, ConcatReader):
        return ConcatReader([uncropped(member) for member in reader.readers])
    return _Uncropped(reader) if isinstance(reader, EncodedReader) else reader


def whole_images(reader: Reader, sample_ids: Int64Array, *, read_BHWC: torch.Tensor) -> torch.Tensor | None:
    """Return samples' images, uint8 (B, H, W, C), as they are stored but for their size.

    To be called while training reads. Where its reader crops, that is possible for data that lies in memory.

    Args:
        read_BHWC: what training's reader gave of them.

    Returns:
        None where nothing but what training asks for can be read.
    """
    members = reader.readers if isinstance(reader, ConcatReader) else (reader,)
    if all(isinstance(member, PackedReader) for member in members):
        return read_BHWC
    if not all(isinstance(member, EncodedReader) and member.is_at_hand for member in members):
        return None
    images_BHWC = torch.empty((len(sample_ids), *reader.image_shape), dtype=torch.uint8)
    uncropped(reader).fill(slots_of(np.asarray(sample_ids)), epoch=0, out=images_BHWC)
    return images_BHWC


class _Uncropped:
    """An encoded reader, but for what is seen of an image."""

    def __init__(self, reader: EncodedReader) -> None:
        self._reader = reader

    @property
    def data_set(self) -> DataSet:
        return self._reader.data_set

    @property
    def split(self) -> Split:
        return self._reader.split

    @property
    def num_samples(self) -> int:
        return self._reader.num_samples

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._reader.image_shape

    def start(self, uses: Iterator[Use]) -> None:
        self._reader.start(uses)

    def fill(self, slots: Slots, *, epoch: int, out: torch.Tensor) -> LabelArray:
        return self._reader.fill(slots, epoch=epoch, out=out, crop=WHOLE)

    def finish(self, step: int) -> None:
        self._reader.finish(step)

    def close(self) -> None:
        """Nothing: whoever opened the other reader closes it."""
