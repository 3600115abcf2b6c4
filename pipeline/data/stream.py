"""Training from a stream: shards without sidecars and manifest, read by the webdataset library from front to back.

    shards = expand_shards("https://host/shard-{0000..0146}.tar")
    facts = stream_facts(shards, split="train", num_samples=1_281_167, num_classes=1000, size=(224, 224))
    reader = StreamReader(shards, facts=facts, crop=RandomCrop(seed=0), seed=0, rank=0, world_size=2)
    order = StreamOrder(num_samples=reader.num_samples, batch_size=1024)
    for batch in BatchLoader(reader, order, rank=0, world_size=2):

For data that cannot be indexed: a command's output, a server one may only read through. Against an indexed data set it
lacks what WEAKER says. What it keeps: an epoch has a stated number of samples, so that all ranks take equal numbers of
steps however unequal their shards are; and a shard that is missing, cut short or damaged is an error that names it.

The library opens the shards, takes the tars apart and groups members into samples; its decoders, which unpickle
what a tar asks them to, are never called. The shards of a pass are shuffled and dealt to the ranks; a rank that is
through begins with its part of the next pass. Samples go through a buffer that shuffles, and are decoded by threads.

Axes: B batch, H height, W width, C channels.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import logging
import random
import re
import tarfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from braceexpand import braceexpand
from webdataset.tariterators import group_by_keys, tar_file_expander

from pipeline.data.crop import Crop
from pipeline.data.decode import CHANNELS, Decoder, UInt8Array, make_jobs
from pipeline.data.order import Slots
from pipeline.data.reader import Int64Array, Use
from pipeline.data.stream_sample import BadSample, ParsedSample, is_wanted, parse_sample
from pipeline.data.stream_shard import StreamedShard
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.keyed import make_key
from pipeline.shards.manifest import DataSet, Split
from pipeline.shards.record import PackedLayout
from pipeline.shards.task import Task

log = logging.getLogger(__name__)

# Pixels (height, width, channels) and the class number.
Decoded = tuple[UInt8Array, int]
# As the library groups it: `__key__`, `__url__`, and each member's bytes by its extension.
Sample = dict[str, Any]

MAX_SHARDS = 1_000_000
RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
MAX_BUFFER_BYTES = 1 << 30
# Samples to decode together, and how many blocks of them ahead of the consumer.
BLOCK_SAMPLES = 32
BLOCKS_AHEAD = 2
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
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"step {step} is outside an epoch of {self.steps_per_epoch}")
        first = step * self.batch_size
        return self.slots_at(epoch=epoch, positions=np.arange(first, first + self.batch_size, dtype=np.int64))

    def global_weight(self, *, step: int) -> int:
        return self.batch_size

    def slots_at(self, *, epoch: int, positions: Int64Array) -> Slots:
        first = epoch * self.steps_per_epoch * self.batch_size
        weights = np.ones(len(positions), dtype=np.float32)
        return Slots(sample_ids=first + positions, positions=positions, weights=weights)


def expand_shards(shards: str | Sequence[str]) -> tuple[str, ...]:
    """Return the shards that braces, `::` between several, or a list of such stand for, as webdataset has it.

    Raises:
        UserError: braces that do not close, no shard at all, or over a million.
    """
    found: list[str] = []
    for text in [shards] if isinstance(shards, str) else shards:
        for part in filter(None, text.strip().split("::")):
            try:
                # A range is made as a whole before its first name comes.
                if any(abs(int(last) - int(first)) > MAX_SHARDS for first, last in RANGE.findall(part)):
                    raise ValueError(f"more than {MAX_SHARDS:,} in one range")
                found += itertools.islice(braceexpand(part), MAX_SHARDS + 1 - len(found))
            except ValueError as error:
                raise UserError(f"{part}: {error}; {{000..123}} or {{a,b}} wanted") from None
            if len(found) > MAX_SHARDS:
                raise UserError(f"{part}: stands for more than {MAX_SHARDS:,} shards")
    if not found:
        raise UserError("a stream of no shards; name a file, a URL with {0000..0146}, or pipe: and a command")
    return tuple(found)


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
        for shard in shards:
            if ":" not in shard and not Path(shard).is_file():
                raise UserError(f"{shard}: no such file; correct data.stream")
        self.shards = tuple(shards)
        self.data_set = facts
        (self.split,) = facts.splits.values()
        assert facts.packed is not None, "stream_facts gives a layout"
        self.layout = facts.packed
        self.num_rejected = 0
        self._key = ("stream", seed)
        self._rank, self._world_size = rank, world_size
        self._shuffle_samples, self._resampled, self._in_order = shuffle_samples, resampled, in_order
        self._max_rejected, self._label_field = max_rejected, label_field
        self._crop, self._decoder = crop, Decoder(threads=threads)
        self._turn = threading.Condition()
        self._stopped = threading.Event()
        self._ids: Iterator[int] = iter(())
        self._next_id: int | None = None
        self._last: tuple[int, UInt8Array, int] | None = None
        self._decoded: Iterator[Decoded] = iter(())
        self._shard: StreamedShard | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._error: BaseException | None = None
        self._num_grouped = 0
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
        self._stopped.clear()
        ids = itertools.chain.from_iterable(ids.tolist() for _, ids in itertools.chain([first], uses))
        self._ids, wanted = itertools.tee(ids)
        self._next_id = next(self._ids)
        self._last, self._error, self.num_rejected = None, None, 0
        self._pool = ThreadPoolExecutor(BLOCKS_AHEAD, thread_name_prefix="stream")
        samples = self._samples(first_step=first[0])
        if self._in_order:
            samples = self._picked(samples, wanted)
        self._decoded = self._decode_ahead(samples, first_step=first[0])

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

    def close(self) -> None:
        """Let go of everything; the reader must not be used afterwards."""
        self._leave()
        self._decoder.close()

    def _leave(self) -> None:
        """End the stream that is under way."""
        self._stopped.set()
        with self._turn:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
                self._pool = None
            self._decoded = iter(())
            if self._shard is not None:
                self._shard.close()
                self._shard = None
            if self.num_rejected:
                log.warning("data.stream: %d bad samples were skipped", self.num_rejected)
                self.num_rejected = 0
            self._next_id = None
            self._turn.notify_all()

    def _samples(self, *, first_step: int) -> Iterator[Sample]:
        """Yield samples, their members' bytes by extension: pass after pass, or, in order, once."""
        if self._in_order:
            yield from self._grouped(self.shards)
            return
        for number in itertools.count():
            num_before = self._num_grouped
            key = (*self._key, first_step, number)
            draw = random.Random(make_key(*key, "buffer", self._rank))
            samples = self._grouped(self._dealt(key, draw))
            yield from shuffled(samples, num_samples=self._shuffle_samples, draw=draw)
            if self._num_grouped == num_before:
                raise UserError(f"data.stream: no image and no label in any of the shards, {self.shards[0]} and on")

    def _dealt(self, key: tuple[int | str, ...], draw: random.Random) -> list[str]:
        """Return the shards of one pass that this rank reads."""
        if self._resampled:
            return [draw.choice(self.shards) for _ in self.shards]
        dealt = list(self.shards)
        random.Random(make_key(*key, "shards")).shuffle(dealt)
        return dealt[self._rank :: self._world_size]

    def _grouped(self, shards: Iterable[str]) -> Iterator[Sample]:
        """Yield the samples of these shards as the library groups them; each shard is whole, or an error."""
        samples = iter(
            webdataset.DataPipeline(
                functools.partial(self._opened, shards),
                functools.partial(tar_file_expander, handler=webdataset.reraise_exception, select_files=is_wanted),
                functools.partial(group_by_keys, handler=webdataset.reraise_exception),
            )
        )
        while True:
            try:
                sample = next(samples, None)
            except Exception as error:
                named = self._named(error)
                raise named from (error if named is error else None)
            if sample is None:
                return
            self._num_grouped += 1
            yield sample

    def _named(self, error: Exception) -> Exception:
        """Return the error that names the shard; the library adds its own to those that pass through it."""
        if self._shard is not None and self._shard.error is not None:
            return self._shard.error
        if self._shard is not None and isinstance(error, (tarfile.TarError, ValueError, OSError, EOFError)):
            reason = " ".join(str(error.args[0] if error.args else error).split())[:200]
            return DamageError(f"{self._shard.url}: {reason}")
        return error

    def _opened(self, shards: Iterable[str]) -> Iterator[dict[str, Any]]:
        for url in shards:
            with StreamedShard(url, stopped=self._stopped) as shard:
                self._shard = shard
                yield {"url": url, "stream": shard}
                shard.check_ended()
                self._shard = None

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
            f"{self.shards[0]} and on: {found} samples to evaluate on, data.val_stream_samples={self.num_samples} said"
        )

    def _decode_ahead(self, samples: Iterator[Sample], *, first_step: int) -> Iterator[Decoded]:
        """Yield decoded samples in their order, some blocks of them under way; bad ones are counted and left out."""
        assert self._pool is not None
        waiting: deque[Future[list[Decoded | UserError]]] = deque()
        for first in itertools.count(0, BLOCK_SAMPLES):
            block = list(itertools.islice(samples, BLOCK_SAMPLES))
            if block:
                numbers = np.arange(first, first + len(block)) * self._world_size + self._rank
                waiting.append(self._pool.submit(self._decode_block, block, numbers, first_step))
            while waiting and (len(waiting) > BLOCKS_AHEAD or not block):
                for found in waiting.popleft().result():
                    if isinstance(found, UserError):
                        self._reject(found)
                    else:
                        yield found
            if not block:
                return

    def _decode_block(self, block: list[Sample], numbers: Int64Array, first_step: int) -> list[Decoded | UserError]:
        """Decode samples together; what is seen of each follows from its number in this rank's stream."""
        results: list[Decoded | UserError] = [self._bad(sample, "cannot be decoded") for sample in block]
        parsed: dict[int, ParsedSample] = {}
        for place, sample in enumerate(block):
            try:
                parsed[place] = parse_sample(
                    sample, num_classes=self.data_set.num_classes, label_field=self._label_field
                )
            except BadSample as reason:
                results[place] = self._bad(sample, str(reason))
        if not parsed:
            return results
        places, images = list(parsed), [sample.image for sample in parsed.values()]
        sizes_bytes = np.array([len(image) for image in images], dtype=np.int64)
        heights_B = np.array([sample.height for sample in parsed.values()], dtype=np.int64)
        widths_B = np.array([sample.width for sample in parsed.values()], dtype=np.int64)
        views = self._crop.views(
            numbers[places], epoch=first_step, heights_B=heights_B, widths_B=widths_B, size=self.image_shape[:2]
        )
        offsets = np.cumsum(sizes_bytes) - sizes_bytes
        jobs = make_jobs(views, offsets=offsets, sizes_bytes=sizes_bytes, heights_B=heights_B, widths_B=widths_B)
        pixels_BHWC = np.empty((len(places), *self.image_shape), dtype=np.uint8)
        failures = self._decoder.decode(np.frombuffer(b"".join(images), dtype=np.uint8), jobs, out=pixels_BHWC)
        for index, place in enumerate(places):
            if index in failures:
                results[place] = self._bad(block[place], f"its image cannot be decoded: {failures[index]}")
            else:
                results[place] = pixels_BHWC[index], parsed[place].label
        return results

    def _bad(self, sample: Sample, reason: str) -> UserError:
        return UserError(f"{sample['__url__']}: sample {sample['__key__']!a}: {reason}")

    def _reject(self, error: UserError) -> None:
        """Count a bad sample; raise where there may be no more."""
        self.num_rejected += 1
        if self._in_order:
            raise error
        if self.num_rejected > self._max_rejected:
            raise UserError(f"{error}; over data.stream_max_rejected={self._max_rejected} bad samples in an epoch")
        if self.num_rejected == 1:
            log.warning("%s; skipped, and up to %d such in an epoch", error, self._max_rejected)


def shuffled(samples: Iterable[Sample], *, num_samples: int, draw: random.Random) -> Iterator[Sample]:
    """Yield each sample once, from a random place of a buffer.

    The buffer begins with a tenth of `num_samples` and grows by one for each that is given, to all of them or 1 GiB.
    """
    held: list[Sample] = []
    held_bytes = 0
    for num_seen, sample in enumerate(samples, start=1):
        held.append(sample)
        held_bytes += _sample_bytes(sample)
        wanted = min(num_samples, max(num_samples // 10, num_seen // 2))
        while len(held) > wanted or held_bytes > MAX_BUFFER_BYTES:
            chosen = _drawn(held, draw)
            held_bytes -= _sample_bytes(chosen)
            yield chosen
    while held:
        yield _drawn(held, draw)


def _drawn(held: list[Sample], draw: random.Random) -> Sample:
    """Take a random one out; the last takes its place."""
    place = draw.randrange(len(held))
    held[place], held[-1] = held[-1], held[place]
    return held.pop()


def _sample_bytes(sample: Sample) -> int:
    return sum(len(content) for content in sample.values())
