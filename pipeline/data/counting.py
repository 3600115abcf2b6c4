"""What readers and feeds count while they work, for whoever watches a run.

    counters_of(reader)         # {"cache_hits": 52.0, "cache_misses": 3.0, "downloaded_bytes": 3e8}, or {}

A reader need not count. One that does gives sums since it was opened, of its own rank, under the same names every
time, its feed's among them. Known names (pipeline/track/starvation.py makes metrics of them):

- read_bytes: bytes of records that were read, where that is not what the batches hold
- decode_s: seconds that threads spent decoding, summed over them
- cache_hits, cache_misses: shards that were there when they were wanted, and that had to be fetched
- downloaded_bytes: bytes that came over the network
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Counting(Protocol):
    """A reader or feed that counts."""

    def counters(self) -> dict[str, float]:
        """Return the sums so far; may be called at any time, from any thread."""


def counters_of(*parts: Any) -> dict[str, float]:
    """Return the sums over these readers or feeds, sorted by name; nothing of those that do not count."""
    sums: dict[str, float] = {}
    for part in parts:
        if isinstance(part, Counting):
            for name, value in part.counters().items():
                sums[name] = sums.get(name, 0.0) + value
    return dict(sorted(sums.items()))
