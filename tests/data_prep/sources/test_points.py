"""Points on rings, and on both sides of a line: where they lie, and which of them a line separates."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.config import PREPARE_SCHEMAS
from data_prep.source_config import PointsShape
from data_prep.sources.points import PointsSource
from pipeline.compose import compose
from pipeline.shards.errors import UserError


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


@pytest.mark.parametrize(
    ("shape", "gap", "train", "val"),
    [
        (PointsShape.rings, 0.0, [[120, 106], [110, 200], [125, 150]], [[128, 164], [79, 201], [158, 102]]),
        (PointsShape.halves, 0.1, [[92, 127], [172, 140], [150, 94]], [[136, 65], [179, 169], [47, 108]]),
    ],
)
def test_points_are_the_same_for_ever(
    shape: PointsShape, gap: float, train: list[list[int]], val: list[list[int]]
) -> None:
    """Studies whose results are kept have trained on them."""
    source = PointsSource(samples=3, val_samples=3, classes=2, seed=0, shape=shape, gap=gap)
    for split, wanted in (("train", train), ("val", val)):
        assert [source.read(path=split, offset=i, size_bytes=2).ravel().tolist() for i in range(3)] == wanted


@pytest.mark.parametrize(("gap", "is_separable"), [(0.1, True), (0.0, True), (-0.1, False)])
def test_a_straight_line_separates_halves_unless_they_overlap(gap: float, is_separable: bool) -> None:
    source = PointsSource(samples=2000, val_samples=0, classes=2, shape=PointsShape.halves, gap=gap, seed=0)
    assert source.classes == ("below", "above")
    points = np.array([source.read(path="train", offset=i, size_bytes=2)[0, :, 0] for i in range(2000)])
    # The line's equation in half widths: its normal points 60 degrees up, and it passes the middle at 0.1.
    heights = ((points - 127.5) / 127.5) @ [0.5, np.sqrt(3) / 2] - 0.1
    signed = np.where(np.arange(2000) % 2 == 1, heights, -heights)
    # Rounding to levels moves a point by up to 0.0055 half widths.
    assert gap - 0.006 < signed.min() < gap + 0.02
    assert 0.58 < signed.max() < 0.606
    assert (signed.min() > -0.006) == is_separable
    assert np.mean(signed < 0) == pytest.approx(max(0.0, -gap) / (0.6 - gap), abs=0.03)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["source.shape=halves", "source.classes=3"], "source.shape=halves has 2 classes"),
        (["source.gap=0.1"], "source.gap=0.1: of source.shape=halves"),
        (["source.shape=halves", "source.gap=0.6"], "below 0.6 wanted"),
    ],
)
def test_halves_that_cannot_be_are_refused(options: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        compose("prepare", PREPARE_SCHEMAS, ["source=points", "out=x", *options])
