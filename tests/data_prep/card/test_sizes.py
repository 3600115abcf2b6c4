"""Histograms of sizes against plain counting."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.card.sizes import EDGES, SizeHistogram

SIZES = st.lists(st.tuples(st.integers(1, 70_000), st.integers(1, 70_000)), max_size=60)


def histogram_of(sizes: list[tuple[int, int]]) -> SizeHistogram:
    histogram = SizeHistogram()
    for width, height in sizes:
        histogram.add(width, height)
    return histogram


def bin_of(size: int) -> int:
    (found,) = [k for k, (low, high) in enumerate(pairwise([*EDGES, 10**12])) if low <= size < high]
    return found


def test_bins_are_a_quarter_of_an_octave_and_whole_octaves_are_edges() -> None:
    assert {2**octave for octave in range(17)} <= set(EDGES)
    assert all(abs(high / low - 2**0.25) < 0.03 for low, high in pairwise(EDGES) if low >= 16)


@given(SIZES)
def test_cells_hold_what_lies_between_their_edges(sizes: list[tuple[int, int]]) -> None:
    histogram = histogram_of(sizes)
    assert histogram.cells == Counter((bin_of(width), bin_of(height)) for width, height in sizes)
    assert histogram.num_images == len(sizes)
    if sizes:
        widths, heights = zip(*sizes, strict=True)
        assert histogram.widths == (min(widths), max(widths))
        assert histogram.heights == (min(heights), max(heights))


@given(SIZES, SIZES)
def test_merging_is_counting_all_in_any_order(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    merged = histogram_of(second)
    merged.merge(histogram_of(first))
    assert merged == histogram_of(first + second)
    assert merged.to_plain() == histogram_of([*reversed(first + second)]).to_plain()


@given(SIZES)
def test_columns_count_like_single_images(sizes: list[tuple[int, int]]) -> None:
    columns = np.array(sizes, dtype=np.uint32).reshape(-1, 2)
    histogram = SizeHistogram()
    histogram.add_many(columns[:, 0], columns[:, 1])
    assert histogram == histogram_of(sizes)


@given(SIZES)
def test_json_there_and_back(sizes: list[tuple[int, int]]) -> None:
    histogram = histogram_of(sizes)
    assert SizeHistogram.from_plain(json.loads(json.dumps(histogram.to_plain()))) == histogram


@pytest.mark.parametrize(
    "plain",
    [
        None,
        {},
        {"widths": [], "heights": [], "cells": [[0, 0, 1]]},
        {"widths": [1, 2], "heights": [1, 2], "cells": []},
        {"widths": [1, 2], "heights": [1, 2], "cells": [[0, 999, 1]]},
        {"widths": [1, 2], "heights": [1, 2], "cells": [[0, -1, 1]]},
        {"widths": [1, 2], "heights": [1, 2], "cells": [[0, 1, 1.5]]},
        {"widths": [1], "heights": [1, 2], "cells": [[0, 1, 1]]},
        {"widths": "ab", "heights": [1, 2], "cells": [[0, 1, 1]]},
        {"widths": [1, 2], "heights": [1, 2], "cells": [[0, 1, True]]},
    ],
)
def test_what_is_no_histogram_is_refused(plain: Any) -> None:
    with pytest.raises(ValueError, match="not a histogram of sizes"):
        SizeHistogram.from_plain(plain)


def test_images_without_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="0x3 pixels"):
        SizeHistogram().add(0, 3)
    with pytest.raises(ValueError, match="at least 1 wanted"):
        SizeHistogram().add_many(np.array([3, 0]), np.array([3, 3]))
