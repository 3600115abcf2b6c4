"""From the samples of a stream to pixels and labels, several blocks of samples ahead of the consumer.

    decoder = BlockDecoder(layout=layout, num_classes=1000, label_field="label", crop=RandomCrop(seed=0), threads=2)
    for found in decoder.decoded(samples, epoch=0, stride=world_size, first=rank):
        found       # (pixels_HWC, label), or the error that says what is wrong with a sample

Decoded is as of indexed shards (pipeline/data/decode.py). What is seen of an image follows from its number in the
rank's stream, so neither threads nor bad samples change it.

Axes: B batch, H height, W width, C channels.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from pipeline.data.crop import Crop
from pipeline.data.decode import CHANNELS, Decoder, UInt8Array, make_jobs
from pipeline.data.reader import Int64Array
from pipeline.data.stream_sample import BadSample, ParsedSample, parse_sample
from pipeline.data.stream_source import Sample, sample_bytes
from pipeline.shards.errors import UserError

# Pixels (height, width, channels) and the class number.
Decoded = tuple[UInt8Array, int]

# Samples to decode together, and how many blocks of them ahead of the consumer.
BLOCK_SAMPLES = 32
BLOCK_BYTES = 64 << 20
BLOCKS_AHEAD = 2


class BlockDecoder:
    """Owns the threads that decode.

    Args:
        size: height and width of the pixels it gives.
        threads: None for one to each processor that this process may use.
    """

    def __init__(
        self, *, size: tuple[int, int], num_classes: int, label_field: str, crop: Crop, threads: int | None
    ) -> None:
        self._size, self._num_classes, self._label_field, self._crop = size, num_classes, label_field, crop
        self._decoder = Decoder(threads=threads)
        self._pool = ThreadPoolExecutor(BLOCKS_AHEAD, thread_name_prefix="stream")
        self._waiting: deque[Future[list[Decoded | UserError]]] = deque()

    def decoded(
        self, samples: Iterator[Sample], *, epoch: int, first: int, stride: int
    ) -> Iterator[Decoded | UserError]:
        """Yield each sample decoded, or as an error, in their order; sample k is seen as at `first + k * stride`."""
        numbers = itertools.count(first, stride)
        for block in _blocks(samples):
            numbers_B = np.array(list(itertools.islice(numbers, len(block))), dtype=np.int64)
            self._waiting.append(self._pool.submit(self._decode, block, numbers_B, epoch))
            if len(self._waiting) > BLOCKS_AHEAD:
                yield from self._waiting.popleft().result()
        while self._waiting:
            yield from self._waiting.popleft().result()

    def counting_parts(self) -> tuple[object, ...]:
        return (self._decoder,)

    def leave(self) -> None:
        """Drop what is under way."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.cancel():
                future.exception()

    def close(self) -> None:
        """End the threads."""
        self.leave()
        self._pool.shutdown()
        self._decoder.close()

    def _decode(self, block: list[Sample], numbers_B: Int64Array, epoch: int) -> list[Decoded | UserError]:
        results: list[Decoded | UserError] = []
        parsed: dict[int, ParsedSample] = {}
        for place, sample in enumerate(block):
            results.append(_bad(sample, "was not decoded"))
            try:
                parsed[place] = parse_sample(sample, num_classes=self._num_classes, label_field=self._label_field)
            except BadSample as reason:
                results[place] = _bad(sample, str(reason))
        if parsed:
            pixels_BHWC, failures = self._pixels(list(parsed.values()), numbers_B[list(parsed)], epoch)
            for index, (place, found) in enumerate(parsed.items()):
                if index in failures:
                    results[place] = _bad(block[place], f"its image cannot be decoded: {failures[index]}")
                else:
                    results[place] = pixels_BHWC[index], found.label
        return results

    def _pixels(
        self, samples: list[ParsedSample], numbers_B: Int64Array, epoch: int
    ) -> tuple[UInt8Array, dict[int, str]]:
        """Return pixels (B, H, W, C), and by its index why an image cannot be decoded."""
        sizes_bytes = np.array([len(sample.image) for sample in samples], dtype=np.int64)
        sizes = {
            "heights_B": np.array([sample.height for sample in samples], dtype=np.int64),
            "widths_B": np.array([sample.width for sample in samples], dtype=np.int64),
        }
        views = self._crop.views(numbers_B, epoch=epoch, size=self._size, **sizes)
        offsets = np.cumsum(sizes_bytes) - sizes_bytes
        jobs = make_jobs(views, offsets=offsets, sizes_bytes=sizes_bytes, **sizes)
        pixels_BHWC = np.empty((len(samples), *self._size, CHANNELS), dtype=np.uint8)
        content = np.frombuffer(b"".join(sample.image for sample in samples), dtype=np.uint8)
        return pixels_BHWC, self._decoder.decode(content, jobs, out=pixels_BHWC)


def _blocks(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    """Yield runs of samples, none of many bytes."""
    block: list[Sample] = []
    block_bytes = 0
    for sample in samples:
        block.append(sample)
        block_bytes += sample_bytes(sample)
        if len(block) == BLOCK_SAMPLES or block_bytes >= BLOCK_BYTES:
            yield block
            block, block_bytes = [], 0
    if block:
        yield block


def _bad(sample: Sample, reason: str) -> UserError:
    return UserError(f"{sample['__url__']}: sample {sample['__key__']!a}: {reason}")
