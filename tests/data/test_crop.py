"""Crops against torchvision's algorithm, told again here sample by sample, and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.crop import CentreCrop, RandomCrop, Views

SIZES = st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=30)
OUTPUT = (224, 224)


def views_of(crop: RandomCrop | CentreCrop, sizes: list[tuple[int, int]], *, epoch: int = 0, size=OUTPUT) -> Views:
    heights, widths = np.array(sizes, dtype=np.int64).T
    return crop.views(np.arange(len(sizes)), epoch=epoch, heights_B=heights, widths_B=widths, size=size)


def torchvision_box(rng: np.random.Generator, height: int, width: int, scale, ratio) -> tuple[int, int, int, int]:
    """RandomResizedCrop.get_params of torchvision, with numpy's generator: left, top, width, height."""
    for _ in range(10):
        target = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    shape = width / height
    w, h = width, height
    if shape < min(ratio):
        h = round(w / min(ratio))
    elif shape > max(ratio):
        w = round(h * max(ratio))
    return (width - w) // 2, (height - h) // 2, w, h


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """The greatest difference of two samples' distribution functions (Kolmogorov and Smirnov)."""
    places = np.concatenate([first, second])
    shares = [np.searchsorted(np.sort(values), places, side="right") / len(values) for values in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (375, 500, (0.08, 1.0), (3 / 4, 4 / 3)),
        (500, 333, (0.08, 1.0), (3 / 4, 4 / 3)),
        (100, 1000, (0.3, 1.0), (3 / 4, 4 / 3)),  # often no try fits
        (400, 100, (0.5, 1.0), (3 / 4, 4 / 3)),  # mostly
        (64, 64, (0.25, 0.5), (0.5, 1.0)),
    ],
)
def test_boxes_are_distributed_as_torchvisions(height: int, width: int, scale, ratio) -> None:
    num = 20_000
    found = views_of(RandomCrop(seed=3, scale=scale, ratio=ratio), [(height, width)] * num).boxes
    rng = np.random.default_rng(5)
    wanted = np.array([torchvision_box(rng, height, width, scale, ratio) for _ in range(num)])
    measures = {
        "left": lambda box: box[:, 0],
        "top": lambda box: box[:, 1],
        "width": lambda box: box[:, 2],
        "height": lambda box: box[:, 3],
        "area": lambda box: box[:, 2] * box[:, 3],
        "shape": lambda box: box[:, 2] / box[:, 3],
        "free place, across": lambda box: box[:, 0] / np.maximum(width - box[:, 2], 1),
        "width and left": lambda box: box[:, 2] + 7 * box[:, 0],
    }
    # Two samples of one distribution are farther apart than this once in 5 million times.
    limit = 2.85 * math.sqrt(2 / num)
    assert {name: distance(of(found), of(wanted)) for name, of in measures.items()} == pytest.approx(
        dict.fromkeys(measures, 0.0), abs=limit
    )


def test_where_no_shape_fits_the_box_is_centred_as_torchvisions() -> None:
    rng = np.random.default_rng(0)
    sizes = [(10, 1000), (1000, 10), (1, 7), (7, 1), (3, 500), (1, 1)]
    found = views_of(RandomCrop(seed=1, scale=(1.0, 1.0)), sizes).boxes
    assert found.tolist() == [list(torchvision_box(rng, *size, (1.0, 1.0), (3 / 4, 4 / 3))) for size in sizes]


@given(SIZES, st.integers(0, 2**40), st.sampled_from([(224, 224), (1, 1), (96, 333)]))
def test_views_lie_inside_their_images(sizes: list[tuple[int, int]], seed: int, size: tuple[int, int]) -> None:
    for crop in (RandomCrop(seed=seed), CentreCrop(), CentreCrop(frac=1.0)):
        views = views_of(crop, sizes, size=size)
        for (height, width), box, region in zip(sizes, views.boxes, views.regions, strict=True):
            left, top, region_width, region_height = region
            assert 0 <= left < left + region_width <= width
            assert 0 <= top < top + region_height <= height
            assert left <= box[0] < box[0] + box[2] <= left + region_width + 1e-9
            assert top <= box[1] < box[1] + box[3] <= top + region_height + 1e-9


def test_a_view_depends_on_seed_epoch_position_and_size_alone() -> None:
    sizes = [(300 + i, 400 - i) for i in range(50)]
    heights, widths = np.array(sizes).T
    crop = RandomCrop(seed=9)
    whole = views_of(crop, sizes, epoch=2)
    some = np.array([40, 3, 3, 17])
    part = RandomCrop(seed=9).views(some, epoch=2, heights_B=heights[some], widths_B=widths[some], size=(7, 9))
    assert np.array_equal(part.boxes, whole.boxes[some])
    assert np.array_equal(part.flips, whole.flips[some])
    for other in (views_of(crop, sizes, epoch=3), views_of(RandomCrop(seed=10), sizes, epoch=2)):
        assert (other.boxes != whole.boxes).any(axis=1).sum() > 45


def test_boxes_and_flips_stay_those_that_they_were() -> None:
    """A run that goes on with a newer version relies on it."""
    views = views_of(RandomCrop(seed=0), [(375, 500), (500, 375), (224, 224)])
    assert views.regions.tolist() == GOLDEN_BOXES
    assert views.flips.tolist() == GOLDEN_FLIPS


GOLDEN_BOXES = [[82, 57, 315, 270], [3, 119, 302, 302], [30, 23, 146, 127]]
GOLDEN_FLIPS = [True, True, False]


def test_half_is_mirrored_whatever_the_box_and_none_if_so_wanted() -> None:
    sizes = [(375, 500)] * 20_000
    views = views_of(RandomCrop(seed=2), sizes)
    large = views.boxes[:, 2] * views.boxes[:, 3] > 375 * 500 / 2
    for part in (views.flips, views.flips[large], views.flips[1:][views.flips[:-1]]):
        assert abs(part.mean() - 0.5) < 5 * 0.5 / math.sqrt(len(part))
    unflipped = views_of(RandomCrop(seed=2, flip=False), sizes)
    assert not unflipped.flips.any()
    assert np.array_equal(unflipped.boxes, views.boxes)


@pytest.mark.parametrize(
    ("height", "width", "size", "frac", "box"),
    [
        (256, 256, (224, 224), 0.875, (16, 16, 224, 224)),
        (512, 1024, (224, 224), 0.875, (288, 32, 448, 448)),
        (300, 200, (100, 100), 1.0, (0, 50, 200, 200)),
        (100, 100, (50, 100), 1.0, (0, 25, 100, 50)),
        (100, 100, (50, 100), 0.5, (25, 37.5, 50, 25)),
        (10, 30, (224, 224), 1.0, (10, 0, 10, 10)),
    ],
)
def test_the_centre_crop_is_the_largest_of_its_shape(height, width, size, frac, box) -> None:
    views = views_of(CentreCrop(frac=frac), [(height, width)], size=size)
    assert views.boxes[0] == pytest.approx(box)
    assert not views.flips.any()


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (0.5, 0.4), (0.5, 1.1), (math.nan, 1.0)])
def test_impossible_choices_are_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="scale="):
        RandomCrop(seed=0, scale=wrong)


@pytest.mark.parametrize("wrong", [0.0, 1.1, math.nan])
def test_an_impossible_share_of_the_centre_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="frac="):
        CentreCrop(frac=wrong)


@pytest.mark.parametrize("wrong", [(2.0, 1.0), (0.0, 1.0), (1.0, math.inf)])
def test_an_impossible_range_of_shapes_is_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="ratio="):
        RandomCrop(seed=0, ratio=wrong)


def test_neighbouring_positions_have_unrelated_boxes() -> None:
    boxes = views_of(RandomCrop(seed=4), [(375, 500)] * 20_000).boxes
    for column in range(4):
        values = boxes[:, column] - boxes[:, column].mean()
        correlation = (values[:-1] * values[1:]).mean() / values.var()
        assert abs(correlation) < 5 / math.sqrt(len(values))
