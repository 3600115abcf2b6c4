"""Points on rings: where they lie, and that no line separates them."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.sources.points import PointsSource


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_each_class_has_a_ring_of_its_own(classes: int) -> None:
    source = PointsSource(samples=600, val_samples=0, classes=classes, seed=3)
    (items,) = source.list_items("train")
    points = np.array([source.read(path="train", offset=i, size_bytes=2)[0, :, 0] for i in range(600)])
    radii = np.hypot(*((points - 127.5) / 127.5).T)
    for label in range(classes):
        inside = radii[items.labels == label]
        # The middle half of the ring's width, and half a level of rounding in each direction.
        assert inside.min() > 0.9 / classes * (label + 0.25) - 0.006
        assert inside.max() < 0.9 / classes * (label + 0.75) + 0.006
    assert source.splits == ("train",)


def test_no_straight_line_separates_two_rings() -> None:
    source = PointsSource(samples=1000, val_samples=0, classes=2, seed=0)
    points = np.array([source.read(path="train", offset=i, size_bytes=2)[0, :, 0] for i in range(1000)]) / 127.5 - 1
    labels = np.arange(1000) % 2
    for angle in np.linspace(0, np.pi, 60, endpoint=False):
        along = points @ [np.cos(angle), np.sin(angle)]
        right = [max(np.mean((along > at) == labels), np.mean((along < at) == labels)) for at in np.linspace(-1, 1, 60)]
        assert max(right) < 0.8


def test_a_point_is_a_function_of_seed_split_and_index() -> None:
    first, again = (PointsSource(samples=9, val_samples=9, classes=2, seed=1) for _ in range(2))
    other = PointsSource(samples=9, val_samples=9, classes=2, seed=2)
    read = {"path": "train", "offset": 5, "size_bytes": 2}
    assert np.array_equal(first.read(**read), again.read(**read))
    assert not np.array_equal(first.read(**read), other.read(**read))
    assert not np.array_equal(first.read(**read), first.read(**{**read, "path": "val"}))
