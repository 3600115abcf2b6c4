"""Series over seeds: their means, and their ends."""

from __future__ import annotations

import pytest

from pipeline.studies.panels.spread import spread_series


def test_a_series_has_means_and_the_lowest_and_highest_seed() -> None:
    found = spread_series([1, 2], [[4.0, 1.0], [2.0, 8.0, 5.0]], label="a", markers=False, colour=3)
    assert (found.y, found.low, found.high) == ([2.5, 5.0], [1.0, 2.0], [4.0, 8.0])
    assert (found.x, found.label, found.markers, found.colour) == ([1, 2], "a", False, 3)


def test_a_geometric_mean_lies_in_the_middle_of_an_axis_in_logarithms() -> None:
    assert spread_series([1], [[1.0, 100.0]], label="a", geometric=True).y == pytest.approx([10.0])
