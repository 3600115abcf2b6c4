"""The search finds the largest size that fits, against the answer by going through all of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sweeping.batch_search import search


@given(
    limit=st.integers(0, 3000),
    first=st.integers(1, 4000),
    most=st.integers(1, 2000),
    multiple=st.integers(1, 12),
)
def test_the_answer_is_the_largest_multiple_that_fits(limit: int, first: int, most: int, multiple: int) -> None:
    if most < multiple:
        return
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= limit

    found = search(first=first, most=most, multiple=multiple, tolerance_frac=0.0, fits=fits)
    possible = range(multiple, most + 1, multiple)
    assert found.largest == max((size for size in possible if size <= limit), default=None)
    assert found.too_large == min((size for size in possible if size > limit), default=None)
    assert len(asked) == len(set(asked)), "asked twice"
    assert all(size in possible for size in asked)
    assert len(asked) <= 2 * math.log2(max(2, most // multiple)) + 3


@given(limit=st.integers(1, 100_000), first=st.integers(1, 1000), tolerance=st.floats(0.001, 0.5))
def test_with_a_tolerance_the_answer_is_that_close_below_and_costs_less(
    limit: int, first: int, tolerance: float
) -> None:
    counts = []
    for frac in (tolerance, 0.0):
        asked: list[int] = []

        def fits(size: int, asked: list[int] = asked) -> bool:
            asked.append(size)
            return size <= limit

        found = search(first=first, most=1_000_000, multiple=1, tolerance_frac=frac, fits=fits)
        assert found.largest is not None
        assert found.largest <= limit <= found.largest * (1 + frac)
        assert found.too_large is not None
        assert found.too_large > limit
        counts.append(len(asked))
    assert counts[0] <= counts[1]


def test_all_that_is_allowed_fits() -> None:
    found = search(first=64, most=1000, multiple=3, tolerance_frac=0.1, fits=lambda size: True)
    assert (found.largest, found.too_large) == (999, None)


def test_a_limit_below_the_multiple_is_refused() -> None:
    with pytest.raises(ValueError, match="at least multiple"):
        search(first=1, most=3, multiple=4, tolerance_frac=0.0, fits=lambda size: True)
