"""Several splits read as one: sample i of split k has the id base[k] + i.

    reader = ConcatReader([PackedReader(photos, "train"), PackedReader(sketches, "train")])
    reader.num_samples                      # the sum
    labels_B = reader.fill(slots, epoch=0, out=images_BHWC)     # of ids from both

What a mixture (pipeline/data/mixture.py) draws from. Images must be of one shape and classes the same, in one sequence.

Axes: B batch, H height, W width, C channels, K labels.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipeline.data.order import Slots
from pipeline.data.reader import Int64Array, LabelArray, Reader, Use
from pipeline.shards.errors import UserError
from pipeline.shards.index import NO_LABEL
from pipeline.shards.manifest import DataSet, Split


class ConcatReader:
    """A reader over several readers, which it owns: closing it closes them.

    `data_set` is the first one's; `split` has the shards of all, and a checksum over the checksums of all.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        """Put readers behind each other.

        Raises:
            UserError: they differ in image shape, task or classes.
        """
        self.readers = tuple(readers)
        for reader in readers[1:]:
            _check_alike(readers[0], reader)
        self._bounds = np.cumsum([0, *(reader.num_samples for reader in readers)]).astype(np.int64)
        self._uses = _SharedUses(iter(()), self._bounds)

    @property
    def data_set(self) -> DataSet:
        return self.readers[0].data_set

    @property
    def split(self) -> Split:
        splits = [reader.split for reader in self.readers]
        return Split(
            name="+".join(split.name for split in splits),
            shards=tuple(shard for split in splits for shard in split.shards),
            num_samples=self.num_samples,
            manifest_sha256=hashlib.sha256("".join(split.manifest_sha256 for split in splits).encode()).hexdigest(),
        )

    @property
    def num_samples(self) -> int:
        return int(self._bounds[-1])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.readers[0].image_shape

    def start(self, uses: Iterator[Use]) -> None:
        self._uses = shared = _SharedUses(uses, self._bounds)
        for number, reader in enumerate(self.readers):
            reader.start(shared.of_member(number))

    def fill(self, slots: Slots, *, epoch: int, out: torch.Tensor) -> LabelArray:
        """Fill `out` by member; a batch of several members costs one more copy of its pixels."""
        members = np.searchsorted(self._bounds, slots.sample_ids, side="right") - 1
        present = np.unique(members).tolist()
        if len(present) == 1:
            only: int = present[0]
            return self.readers[only].fill(self._cut(slots, only, slice(None)), epoch=epoch, out=out)
        labels = []
        for number in present:
            rows = np.flatnonzero(members == number)
            part = torch.empty((len(rows), *out.shape[1:]), dtype=out.dtype)
            labels.append((rows, self.readers[number].fill(self._cut(slots, number, rows), epoch=epoch, out=part)))
            out[torch.from_numpy(rows)] = part
        return _put_together(len(slots), labels)

    def finish(self, step: int) -> None:
        self._uses.finish(step)
        for reader in self.readers:
            reader.finish(step)

    def counting_parts(self) -> tuple[object, ...]:
        return self.readers

    def close(self) -> None:
        """Close the members; the reader must not be used afterwards."""
        for reader in self.readers:
            reader.close()

    def _cut(self, slots: Slots, number: int, rows: slice | Int64Array) -> Slots:
        """Return some slots, with a member's own sample ids."""
        return Slots(
            sample_ids=slots.sample_ids[rows] - self._bounds[number],
            positions=slots.positions[rows],
            weights=slots.weights[rows],
        )


class _SharedUses:
    """The coming uses, dealt to the members, each of which may look ahead as far as it likes, from any thread.

    What one member has looked at and another has not is kept, 8 bytes a sample, until its step is finished.
    """

    def __init__(self, uses: Iterator[Use], bounds: Int64Array) -> None:
        self._uses, self._bounds = uses, bounds
        self._waiting: list[deque[Use]] = [deque() for _ in bounds[1:]]
        self._lock = threading.Lock()

    def of_member(self, number: int) -> Iterator[Use]:
        """Yield the steps in which a member is used, with its own sample ids."""
        while (use := self._next(number)) is not None:
            yield use

    def finish(self, step: int) -> None:
        """Forget the uses of finished steps, for members that never look ahead."""
        with self._lock:
            for waiting in self._waiting:
                while waiting and waiting[0][0] <= step:
                    waiting.popleft()

    def _next(self, number: int) -> Use | None:
        with self._lock:
            while not self._waiting[number]:
                use = next(self._uses, None)
                if use is None:
                    return None
                step, sample_ids = use
                members = np.searchsorted(self._bounds, sample_ids, side="right") - 1
                for member in np.unique(members).tolist():
                    self._waiting[member].append((step, sample_ids[members == member] - self._bounds[member]))
            return self._waiting[number].popleft()


def _put_together(num_slots: int, labels: list[tuple[Int64Array, LabelArray]]) -> LabelArray:
    """Return labels (B,), or (B, K) where members have several a sample, K the most of any; targets likewise."""
    widths = [part.shape[1] for _, part in labels if part.ndim == 2]
    dtype = labels[0][1].dtype
    whole: LabelArray = np.full((num_slots, max(widths)) if widths else num_slots, NO_LABEL, dtype=dtype)
    for rows, part in labels:
        if widths:
            whole[rows, : part.shape[1]] = part
        else:
            whole[rows] = part
    return whole


def _check_alike(first: Reader, other: Reader) -> None:
    ours, theirs = first.data_set, other.data_set
    where = f"{theirs.root} does not mix with {ours.root}"
    if other.image_shape != first.image_shape:
        raise UserError(
            f"{where}: images of {other.image_shape}, {first.image_shape} wanted; prepare it again at that size"
        )
    if theirs.task is not ours.task:
        raise UserError(f"{where}: task {theirs.task}, {ours.task} wanted")
    if theirs.num_classes != ours.num_classes:
        raise UserError(f"{where}: {theirs.num_classes} classes, {ours.num_classes} wanted")
    for label, (our_class, their_class) in enumerate(zip(ours.class_ids, theirs.class_ids, strict=True)):
        if our_class != their_class:
            raise UserError(f"{where}: its class {label} is {their_class!r}, {our_class!r} wanted")
