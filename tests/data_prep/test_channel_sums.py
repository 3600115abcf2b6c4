from __future__ import annotations

import numpy as np
import pytest

from data_prep.channel_sums import ChannelSums
from tiny_data import random_pixels

Shape = tuple[int, int, int]


@pytest.mark.parametrize(
    "shapes",
    [
        [(4, 4, 3)],
        [(1, 1, 1)],
        [(1025, 1025, 3)],
        [(64, 64, 3)] * 9,
        [(100, 7, 1)] * 5,
        [(3, 5, 3), (300, 5, 3), (5, 3, 3), (1, 5, 3), (1, 2_000_000, 3), (2, 2, 3)],
    ],
)
def test_sums_are_exact_over_images_of_any_size(shapes: list[Shape]) -> None:
    images = [
        random_pixels(number, height=height, width=width, channels=channels)
        for number, (height, width, channels) in enumerate(shapes)
    ]
    sums = ChannelSums()
    for image in images:
        sums.add(image)
    whole = np.concatenate([image.reshape(-1, image.shape[2]) for image in images]).astype(np.int64)
    for _ in range(2):  # asked twice, told the same
        totals = sums.totals()
        assert totals is not None
        assert totals.tolist() == [whole.sum(axis=0).tolist(), (whole**2).sum(axis=0).tolist()]
    assert sums.num_pixels == len(whole)


def test_the_brightest_image_is_exact_too() -> None:
    sums = ChannelSums()
    sums.add(np.full((257, 300, 3), 255, dtype=np.uint8))
    totals = sums.totals()
    assert totals is not None
    assert totals.tolist() == [[257 * 300 * 255] * 3, [257 * 300 * 255**2] * 3]


def test_no_image_has_no_sums_and_channels_do_not_mix() -> None:
    sums = ChannelSums()
    assert sums.totals() is None
    sums.add(np.zeros((2, 2, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="an image of 1 channels among images of 3"):
        sums.add(np.zeros((2, 2, 1), dtype=np.uint8))
