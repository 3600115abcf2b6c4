"""Training from a stream: shards without sidecars and manifest, read by the webdataset library from front to back.

    shards = expand_shards("https://host/shard-{0000..0146}.tar")
    facts = stream_facts(shards, split="train", num_samples=1_281_167, num_classes=1000, size=(224, 224))
    reader = StreamReader(shards, facts=facts, crop=RandomCrop(seed=0), seed=0, rank=0, world_size=2)
    order = StreamOrder(num_samples=reader.num_samples, batch_size=1024)
    for batch in BatchLoader(reader, order, rank=0, world_size=2):

For data that cannot be indexed: a command's output, a server one may only read through. Against an indexed data set it
lacks what WEAKER says. What it keeps: an epoch has a stated number of samples, so that all ranks take equal numbers of
steps however unequal their shards are; and a shard that is missing, cut short or damaged is an error that names it.

The shards' bytes are pipeline/data/stream_shard.py's matter, samples stream_source.py's, pixels stream_decode.py's.

Axes: B batch, H height, W width, C channels.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.data.crop import Crop
from pipeline.data.decode import CHANNELS, UInt8Array
from pipeline.data.order import Slots, positions_of
from pipeline.data.reader import Int64Array, Use
from pipeline.data.stream_decode import BlockDecoder, Decoded
from pipeline.data.stream_source import Sample, StreamSource
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet, Split
from pipeline.shards.record import PackedLayout
from pipeline.shards.task import Task

log = logging.getLogger(__name__)

WEAKER = (
    "against an indexed data set it lacks: an order that is the same for any number of ranks; resuming where it was"
    " killed (the rest of that epoch is drawn anew); checksums; and each sample once an epoch (some come twice, others"
    " later). `python -m data_prep.index` gives all four, where the shards can be read by offset"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOrder:
    """Running numbers: sample `n` of training stands in slot n; which one that is, the stream decides."""

    num_samples: int
    batch_size: int

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.num_samples:
            raise UserError(
                f"data.stream_samples_per_epoch={self.num_samples}: at least a batch of {self.batch_size} wanted"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.num_samples // self.batch_size

    @property
    def num_dropped(self) -> int:
        """None: what an epoch does not reach, it does not read."""
        return 0

    def global_batch(self, *, epoch: int, step: int) -> Slots:
        return self.slots_at(epoch=epoch, positions=positions_of(self, step))

    def global_weight(self, *, step: int) -> int:
        return self.batch_size

    def slots_at(self, *, epoch: int, positions: Int64Array) -> Slots:
        first = epoch * self.steps_per_epoch * self.batch_size
        weights = np.ones(len(positions), dtype=np.float32)
        return Slots(sample_ids=first + positions, positions=positions, weights=weights)


def stream_facts(
    shards: Sequence[str], *, split: str, num_samples: int, num_classes: int, size: tuple[int, int]
) -> DataSet:
    """Return a data set of one split that says of a stream what its user says of it."""
    spelling = json.dumps([*shards, num_samples, num_classes, *size])
    identity = hashlib.sha256(spelling.encode()).hexdigest()
    classes = tuple(str(number) for number in range(num_classes))
    return DataSet(
        root=Path(shards[0]),
        name="stream",
        task=Task.classification,
        classes=classes,
        class_ids=classes,
        packed=PackedLayout(height=size[0], width=size[1], channels=CHANNELS),
        is_foreign=True,
        splits={split: Split(name=split, shards=(), num_samples=num_samples, manifest_sha256=identity)},
        statistics=None,
        num_rejected=0,
        rejected_sha256="",
    )


class StreamReader:
    """A reader for the loader that takes what comes next; `fill` is called for each slot once, by any thread.

    Args:
        shards: paths, URLs and `pipe:` commands.
        facts: from `stream_facts`, with the split of this reader.
        crop: what is seen of each image; a random one is keyed by the sample's number in its rank's stream.
        shuffle_samples: how many samples the buffer holds from which the next one is drawn; bounded in bytes too.
            0: as they come.
        in_order: for evaluation: every shard in order, once, by every rank, which decodes only its own samples. The
            results are then the same on any number of ranks, at the price of each rank reading everything.
        resampled: each rank draws its shards with replacement from all of them, instead of getting a share; for fewer
            shards than ranks.
        max_rejected: bad samples that a rank may skip in an epoch before it is an error.
        label_field: field of `.json` members that holds the class number.
        threads: that decode; None for one to each processor that this process may use.
    """

    def __init__(
        self,
        shards: Sequence[str],
        *,
        facts: DataSet,
        crop: Crop,
        seed: int,
        rank: int,
        world_size: int,
        shuffle_samples: int = 1000,
        in_order: bool = False,
        resampled: bool = False,
        max_rejected: int = 0,
        label_field: str = "label",
        threads: int | None = None,
    ) -> None:
        """Open a stream; no shard is opened yet.

        Raises:
            UserError: fewer shards than ranks, or a file that is not there.
        """
        if not (in_order or resampled) and len(shards) < world_size:
            raise UserError(
                f"a stream of {len(shards):,} shards cannot be dealt to {world_size} ranks: start fewer (NPROC=...),"
                " or let each draw from all shards by data.stream_resampled=true"
            )
        self.data_set = facts
        (self.split,) = facts.splits.values()
        assert facts.packed is not None, "stream_facts gives a layout"
        self.layout = facts.packed
        self.num_rejected = 0
        self._rank, self._world_size = rank, world_size
        self._in_order, self._max_rejected = in_order, max_rejected
        self._source = StreamSource(
            shards,
            seed=seed,
            rank=rank,
            world_size=world_size,
            shuffle_samples=shuffle_samples,
            resampled=resampled,
        )
        self._decoder = BlockDecoder(
            size=self.image_shape[:2],
            num_classes=facts.num_classes,
            label_field=label_field,
            crop=crop,
            threads=threads,
        )
        # What follows is read and written under the lock of `_turn`, which passes from slots to slots.
        self._turn = threading.Condition()
        self._ids: Iterator[int] = iter(())
        self._next_id: int | None = None
        self._last: tuple[int, UInt8Array, int] | None = None
        self._decoded: Iterator[Decoded] = iter(())
        self._error: BaseException | None = None
        if rank == 0 and not in_order:
            log.warning("data.stream: %s shards, read as they come; %s", f"{len(shards):,}", WEAKER)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        return self.split.num_samples

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (self.layout.height, self.layout.width, self.layout.channels)

    def start(self, uses: Iterator[Use]) -> None:
        """Begin the stream of one epoch, or of its rest; it is a function of seed, first step and rank."""
        self._leave()
        first = next(uses, None)
        if first is None:
            return
        first_step = first[0]
        ids = itertools.chain.from_iterable(ids.tolist() for _, ids in itertools.chain([first], uses))
        self._ids, wanted = itertools.tee(ids)
        self._next_id = next(self._ids)
        self._last, self._error, self.num_rejected = None, None, 0
        if self._in_order:
            samples = self._picked(self._source.in_order(), wanted)
        else:
            samples = self._source.shuffled_passes(first_step=first_step)
        found = self._decoder.decoded(samples, epoch=first_step, first=self._rank, stride=self._world_size)
        self._decoded = self._accepted(found)

    def fill(self, slots: Slots, *, epoch: int, out: torch.Tensor) -> Int64Array:
        """Put the stream's next samples into `out` when it is these slots' turn, and return their labels (B,).

        Raises:
            UserError, DamageError: a shard cannot be had, or over `max_rejected` samples are bad.
            ValueError: these slots have been filled before.
        """
        images_BHWC = out.numpy()
        labels_B = np.empty(len(slots), dtype=np.int64)
        first_id = int(slots.sample_ids[0])
        with self._turn:
            self._turn.wait_for(lambda: self._error or self._next_id is None or self._next_id >= first_id)
            if self._error is not None:
                raise self._error
            if self._next_id != first_id:
                raise ValueError(f"slot of sample {first_id}: a stream fills each slot once")
            try:
                for place, sample_id in enumerate(slots.sample_ids.tolist()):
                    # Padding, of weight 0, repeats the sample before.
                    if self._last is None or self._last[0] != sample_id:
                        self._last = (sample_id, *next(self._decoded))
                    _, images_BHWC[place], labels_B[place] = self._last
                    self._next_id = next(self._ids, None)
            except BaseException as error:
                self._error = error
                raise
            finally:
                self._turn.notify_all()
        return labels_B

    def finish(self, step: int) -> None:
        pass

    def counting_parts(self) -> tuple[object, ...]:
        return self._decoder.counting_parts()

    def close(self) -> None:
        """Let go of everything; the reader must not be used afterwards."""
        self._leave()
        self._decoder.close()

    def _leave(self) -> None:
        """End the stream that is under way."""
        self._source.stop()
        with self._turn:
            self._decoder.leave()
            self._decoded = iter(())
            self._source.leave()
            if self.num_rejected:
                log.warning("data.stream: %d bad samples were skipped", self.num_rejected)
                self.num_rejected = 0
            self._next_id = None
            self._turn.notify_all()

    def _picked(self, samples: Iterator[Sample], wanted: Iterator[int]) -> Iterator[Sample]:
        """Yield the samples of these numbers, ascending; a number may stand there several times in a row."""
        numbered, number = enumerate(samples), -1
        for sample_id, _ in itertools.groupby(wanted):
            for number, sample in numbered:  # the error says how many there were
                if number == sample_id:
                    yield sample
                    break
            else:
                raise self._other_number(f"only {number + 1:,}")
        if number == self.num_samples - 1 and next(numbered, None) is not None:
            raise self._other_number(f"more than {self.num_samples:,}")

    def _other_number(self, found: str) -> UserError:
        return UserError(
            f"{self._source.shards[0]} and on: {found} samples to evaluate on,"
            f" data.val_stream_samples={self.num_samples} said"
        )

    def _accepted(self, found: Iterator[Decoded | UserError]) -> Iterator[Decoded]:
        """Yield what is decoded; bad samples are counted and left out."""
        for sample in found:
            if isinstance(sample, UserError):
                self._reject(sample)
            else:
                yield sample

    def _reject(self, error: UserError) -> None:
        """Count a bad sample; raise where there may be no more."""
        self.num_rejected += 1
        if self._in_order:
            raise error
        if self.num_rejected > self._max_rejected:
            raise UserError(f"{error}; over data.stream_max_rejected={self._max_rejected} bad samples in an epoch")
        if self.num_rejected == 1:
            log.warning("%s; skipped, and up to %d such in an epoch", error, self._max_rejected)
