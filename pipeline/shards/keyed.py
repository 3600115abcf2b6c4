"""Keyed random numbers: a pure function of (key, counter), the only randomness that data ever sees.

    bits = random_bits(make_key("plan", 7, "train"), np.arange(4))      # the same four numbers for ever

The function is SplitMix64's finaliser (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators") over a keyed Weyl sequence: 64 bits in, 64 bits out, no state. numpy's own generators are not
used because their streams may change between numpy's releases, and stored shards must not.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]

WEYL_INCREMENT = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
MASK_64 = (1 << 64) - 1


def make_key(*parts: int | str) -> int:
    """Return a 64-bit key from a tuple of integers and strings.

    Distinct tuples give unrelated keys (BLAKE2b of an unambiguous spelling), so (seed 1, epoch 2) and
    (seed 2, epoch 1) never meet, as they do in `seed + epoch`.
    """
    spelling = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(spelling.encode(), digest_size=8).digest(), "little")


def mix64(values: UInt64Array) -> UInt64Array:
    """Mix each 64-bit value (SplitMix64's finaliser, a bijection); any shape, dtype uint64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(MIX_1)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(MIX_2)
    return values ^ (values >> np.uint64(31))


def random_bits(key: int, counters: npt.NDArray[Any]) -> UInt64Array:
    """Return 64 random bits for each counter (any shape of non-negative integers)."""
    weyl = counters.astype(np.uint64) * np.uint64(WEYL_INCREMENT)
    return mix64(mix64(weyl + np.uint64(key & MASK_64)) + np.uint64(key & MASK_64))
