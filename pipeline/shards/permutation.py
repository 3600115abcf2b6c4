"""A keyed permutation of range(n) in O(1) memory: element k is computed alone, also for a billion elements.

    permute(make_key("full", seed, epoch), np.array([0, 1]), length=1_000_000_000)      # where 0 and 1 go

Training's order and preparation's plan are both made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.shards.keyed import MIX_1, MIX_2, WEYL_INCREMENT, UInt64Array, mix64, random_bits

NUM_FEISTEL_ROUNDS = 6
MIN_FEISTEL_BITS = 8
MULTIPLIER_1, MULTIPLIER_2, FOLD_BITS = np.uint64(MIX_1), np.uint64(MIX_2), np.uint64(32)

Int64Array = npt.NDArray[np.int64]


def permute(key: int, positions: Int64Array, *, length: int) -> Int64Array:
    """Apply a keyed permutation of range(length) to `positions`, without making the rest of it.

    An alternating Feistel network (Luby, Rackoff 1988) permutes the smallest power of two that holds `length`;
    values that fall outside walk on along their cycle until they are inside (Black, Rogaway 2002, "Ciphers with
    arbitrary finite domains"): under two passes on average.

    Args:
        key: 64 bits.
        positions: int64, each in 0..length-1; any shape.
    """
    num_bits = np.uint64(_num_bits(length))
    round_keys = _round_keys(key)
    values = _feistel(round_keys, positions.astype(np.uint64).ravel(), num_bits)
    walking = np.flatnonzero(values >= length)
    while len(walking):
        walked = _feistel(round_keys, values[walking], num_bits)
        values[walking] = walked
        walking = walking[walked >= length]
    return values.astype(np.int64).reshape(positions.shape)


def permute_runs(
    keys: Sequence[int], positions: Int64Array, *, lengths: Sequence[int], counts: Sequence[int]
) -> Int64Array:
    """Apply `permute` to runs of positions, each with its own key and length, in one go.

    A call of `permute` costs some hundred microseconds however few its positions are.

    Args:
        keys: one a run.
        positions: int64, one run after the other; each in 0..length-1 of its run.
        lengths: one a run.
        counts: the positions of each run.
    """
    run_of = np.repeat(np.arange(len(counts)), counts)
    counters = np.arange(NUM_FEISTEL_ROUNDS, dtype=np.uint64) * np.uint64(WEYL_INCREMENT)
    run_keys = np.array(keys, dtype=np.uint64)
    # As random_bits has it, of several keys: (rounds, runs).
    round_keys = mix64(mix64(counters[:, None] + run_keys) + run_keys)
    num_bits = np.array([_num_bits(length) for length in lengths], dtype=np.uint64)
    limits = np.array(lengths, dtype=np.uint64)[run_of]
    values = _feistel(tuple(round_keys[:, run_of]), positions.astype(np.uint64), num_bits[run_of])
    walking = np.flatnonzero(values >= limits)
    while len(walking):
        runs = run_of[walking]
        walked = _feistel(tuple(round_keys[:, runs]), values[walking], num_bits[runs])
        values[walking] = walked
        walking = walking[walked >= limits[walking]]
    return values.astype(np.int64)


def _num_bits(length: int) -> int:
    return max(MIN_FEISTEL_BITS, (length - 1).bit_length())


@lru_cache(maxsize=64)
def _round_keys(key: int) -> tuple[np.uint64, ...]:
    return tuple(random_bits(key, np.arange(NUM_FEISTEL_ROUNDS)))


def _feistel(
    round_keys: Sequence[np.uint64] | Sequence[UInt64Array], values: UInt64Array, num_bits: np.uint64 | UInt64Array
) -> UInt64Array:
    """Permute `num_bits`-bit values: each round adds a hash of one half to the other half, by exclusive or.

    Keys and bits are the same for all values, or given for each.
    """
    high_bits: Any = num_bits // np.uint64(2)  # a number or an array, which numpy's types cannot tell
    low_bits: Any = num_bits - high_bits
    low: UInt64Array = values & ((np.uint64(1) << low_bits) - np.uint64(1))
    high: UInt64Array = values >> low_bits
    hashes, folded = np.empty_like(values), np.empty_like(values)
    keys: Sequence[Any] = round_keys
    for even_key, odd_key in zip(keys[0::2], keys[1::2], strict=True):
        high ^= _round_hash(low, even_key, num_bits=high_bits, out=hashes, scratch=folded)
        low ^= _round_hash(high, odd_key, num_bits=low_bits, out=hashes, scratch=folded)
    high <<= low_bits
    high |= low
    return high


def _round_hash(
    half: UInt64Array,
    round_key: np.uint64 | UInt64Array,
    *,
    num_bits: np.uint64 | UInt64Array,
    out: UInt64Array,
    scratch: UInt64Array,
) -> UInt64Array:
    """Hash each half to 64 bits by multiply, fold, multiply; put the high `num_bits`, the good ones, into `out`.

    In place, since new arrays beyond the cache were half of the cost.
    """
    np.bitwise_xor(half, round_key, out=out)
    np.multiply(out, MULTIPLIER_1, out=out)
    np.right_shift(out, FOLD_BITS, out=scratch)
    np.bitwise_xor(out, scratch, out=out)
    np.multiply(out, MULTIPLIER_2, out=out)
    return np.right_shift(out, np.uint64(64) - num_bits, out=out)
