from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards.keyed import make_key, mix64, random_bits

MASK = (1 << 64) - 1


def splitmix64_finaliser(value: int) -> int:
    """SplitMix64's published finaliser, on Python's own integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


@given(st.integers(0, MASK), st.integers(0, 2**62))
def test_bits_are_those_of_integers_without_overflow(key: int, counter: int) -> None:
    weyl = (counter * 0x9E3779B97F4A7C15 + key) & MASK
    expected = splitmix64_finaliser((splitmix64_finaliser(weyl) + key) & MASK)
    assert random_bits(key, np.array([counter])).tolist() == [expected]
    assert mix64(np.array([key], dtype=np.uint64)).tolist() == [splitmix64_finaliser(key)]


def test_keys_of_different_tuples_never_meet() -> None:
    parts: list[tuple[int | str, ...]] = [
        (1, 2),
        (2, 1),
        (12,),
        ("12",),
        ("1", "2"),
        ("1", 2),
        (1, "2"),
        (-1, 2),
        ("",),
        (),
    ]
    assert len({make_key(*each) for each in parts}) == len(parts)
