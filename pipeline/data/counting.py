"""What readers and feeds count while they work, for whoever watches a run.

    counters_of(reader)         # {"cache_hits": 52.0, "cache_misses": 3.0, "downloaded_bytes": 3e8}, or {}

Whoever counts gives sums since it was opened, of its own rank, under the same names every time. A reader names its
parts that may count: its feed, its decoder; a cache that several feeds share is counted once. Known names
(pipeline/track/starvation.py makes metrics of them):

- read_bytes: bytes of records that were read, where that is not what the batches hold
- decode_s: seconds that threads spent decoding, summed over them
- cache_hits, cache_misses: shards that were there when they were wanted, and that had to be fetched
- disk_bytes, downloaded_bytes: bytes that came from the disk ahead of their use, and over the network
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Counting(Protocol):
    """Something that counts."""

    def counters(self) -> dict[str, float]:
        """Return the sums so far; may be called at any time, from any thread."""


@runtime_checkable
class Composed(Protocol):
    """Something whose parts may count."""

    def counting_parts(self) -> tuple[Any, ...]:
        """Return the parts, themselves counting, composed, or neither."""


def counters_of(reader: Any) -> dict[str, float]:
    """Return the sums over all that counts in a reader, sorted by name; empty where nothing does."""
    sums: dict[str, float] = {}
    for part in {id(part): part for part in _counting(reader)}.values():
        for name, value in part.counters().items():
            sums[name] = sums.get(name, 0.0) + value
    return dict(sorted(sums.items()))


def _counting(part: Any) -> Iterator[Counting]:
    if isinstance(part, Counting):
        yield part
    if isinstance(part, Composed):
        for inner in part.counting_parts():
            yield from _counting(inner)
