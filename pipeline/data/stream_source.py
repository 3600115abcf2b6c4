"""The samples of a stream as bytes: shards dealt to ranks, read by the webdataset library, shuffled in a buffer.

    source = StreamSource(expand_shards("web/train-{000..146}.tar"), seed=0, rank=0, world_size=2, shuffle_samples=1000)
    for sample in source.shuffled_passes(first_step=0):     # without end
        sample["__key__"], sample["jpg"], sample["cls"]

The library opens the shards, takes the tars apart and groups members into samples; its decoders, which unpickle
what a tar asks them to, are never called. The shards of a pass are shuffled and dealt to the ranks; a rank that is
through begins with its part of the next pass, so no rank waits for another. All of it follows from the seed, the step
at which it starts and the rank.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
import tarfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import webdataset
from braceexpand import braceexpand
from webdataset.tariterators import group_by_keys, tar_file_expander

from pipeline.data.stream_sample import is_wanted
from pipeline.data.stream_shard import StreamedShard
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.keyed import make_key

# As the library groups it: `__key__`, `__url__`, and each member's bytes by its extension.
Sample = dict[str, Any]

MAX_SHARDS = 1_000_000
MAX_BUFFER_BYTES = 1 << 30
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")


def expand_shards(shards: str | Sequence[str]) -> tuple[str, ...]:
    """Return the shards that braces, `::` between several, or a list of such stand for, as webdataset has it.

    Raises:
        UserError: braces that do not close, no shard at all, or over a million.
    """
    found: list[str] = []
    for text in [shards] if isinstance(shards, str) else shards:
        for part in filter(None, str(text).strip().split("::")):
            try:
                # A range is made as a whole before its first name comes.
                if any(abs(int(last) - int(first)) > MAX_SHARDS for first, last in _RANGE.findall(part)):
                    raise ValueError(f"more than {MAX_SHARDS:,} in one range")
                found += itertools.islice(braceexpand(part), MAX_SHARDS + 1 - len(found))
            except ValueError as error:
                raise UserError(f"{part}: {error}; {{000..123}} or {{a,b}} wanted") from None
            if len(found) > MAX_SHARDS:
                raise UserError(f"{part}: stands for more than {MAX_SHARDS:,} shards")
    if not found:
        raise UserError("a stream of no shards; name a file, a URL with {0000..0146}, or pipe: and a command")
    return tuple(found)


class StreamSource:
    """One rank's samples; one iteration at a time, which `leave` ends from any thread.

    Args:
        shards: paths, URLs and `pipe:` commands.
        shuffle_samples: how many samples the buffer holds from which the next one is drawn; 0: as they come.
        resampled: draw the shards with replacement from all of them, instead of getting a share.
    """

    def __init__(
        self,
        shards: Sequence[str],
        *,
        seed: int,
        rank: int,
        world_size: int,
        shuffle_samples: int,
        resampled: bool = False,
    ) -> None:
        """Open a source; no shard is opened yet.

        Raises:
            UserError: a file that is not there.
        """
        for shard in shards:
            if ":" not in shard and not Path(shard).is_file():
                raise UserError(f"{shard}: no such file; correct data.stream")
        self.shards = tuple(shards)
        self._key = ("stream", seed)
        self._rank, self._world_size = rank, world_size
        self._shuffle_samples, self._resampled = shuffle_samples, resampled
        self._stopped = threading.Event()
        self._shard: StreamedShard | None = None

    def in_order(self) -> Iterator[Sample]:
        """Yield the samples of all shards once, as they stand there.

        Raises:
            UserError, DamageError: a shard cannot be had, or is not a whole tar.
        """
        self._stopped.clear()
        return self._grouped(self.shards)

    def shuffled_passes(self, *, first_step: int) -> Iterator[Sample]:
        """Yield the samples of this rank's shards, pass after pass.

        Raises:
            UserError, DamageError: a shard cannot be had, or is not a whole tar, or a pass has no sample.
        """
        self._stopped.clear()
        for number in itertools.count():
            key = (*self._key, first_step, number)
            draw = random.Random(make_key(*key, "buffer", self._rank))
            samples = self._grouped(self._dealt(key, draw))
            first = next(samples, None)
            if first is None:
                raise UserError(f"data.stream: no image and no label in any of the shards, {self.shards[0]} and on")
            yield from shuffled(itertools.chain([first], samples), num_samples=self._shuffle_samples, draw=draw)

    def stop(self) -> None:
        """Let reads that wait for bytes end in an error."""
        self._stopped.set()

    def leave(self) -> None:
        """Close what is open; no other thread may be reading."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None

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
            yield sample

    def _opened(self, shards: Iterable[str]) -> Iterator[dict[str, Any]]:
        for url in shards:
            with StreamedShard(url, stopped=self._stopped) as shard:
                self._shard = shard
                yield {"url": url, "stream": shard}
                shard.check_ended()
                self._shard = None

    def _named(self, error: Exception) -> Exception:
        """Return the error that names the shard; the library adds its own to those that pass through it."""
        if self._shard is not None and self._shard.error is not None:
            return self._shard.error
        if self._shard is not None and isinstance(error, (tarfile.TarError, ValueError, OSError, EOFError)):
            reason = " ".join(str(error.args[0] if error.args else error).split())[:200]
            return DamageError(f"{self._shard.name}: {reason}")
        return error


def shuffled(samples: Iterable[Sample], *, num_samples: int, draw: random.Random) -> Iterator[Sample]:
    """Yield each sample once, from a random place of a buffer.

    The buffer begins with a tenth of `num_samples` and grows by one for each that is given, to all of them or 1 GiB.
    """
    held: list[Sample] = []
    held_bytes = 0
    for num_seen, sample in enumerate(samples, start=1):
        held.append(sample)
        held_bytes += sample_bytes(sample)
        wanted = min(num_samples, max(num_samples // 10, num_seen // 2))
        while len(held) > wanted or held_bytes > MAX_BUFFER_BYTES:
            chosen = _drawn(held, draw)
            held_bytes -= sample_bytes(chosen)
            yield chosen
    while held:
        yield _drawn(held, draw)


def _drawn(held: list[Sample], draw: random.Random) -> Sample:
    """Take a random one out; the last takes its place."""
    place = draw.randrange(len(held))
    held[place], held[-1] = held[-1], held[place]
    return held.pop()


def sample_bytes(sample: Sample) -> int:
    """Return how much memory a sample's members take."""
    return sum(len(content) for content in sample.values())
