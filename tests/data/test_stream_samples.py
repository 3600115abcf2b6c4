"""A streamed sample's members: what is read of them, and what is said of bad ones."""

from __future__ import annotations

import pytest

from pipeline.data.stream_sample import BadSample, parse_sample
from stream_shards import NUM_CLASSES, pixels_of, png
from tiny_data import random_pixels


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"cls": b"7"}, "its label 7 is outside the 7 classes"),
        ({"cls": b"-1"}, "holds '-1', no class number"),
        ({"cls": "٣".encode()}, "no class number"),
        ({"cls": b"cat"}, "holds 'cat', no class number"),
        ({"cls": b"\xff"}, "its .cls cannot be read"),
        ({"cls": b"1" * 5000}, "its .cls of 5,000 bytes"),
        ({"json": b"[" * 100_000}, "its .json cannot be read"),
        ({"json": b'{"label": true}'}, "no class number"),
        ({"json": b'{"label": [1, 2]}'}, "no class number"),
        ({"json": b'{"other": 1}'}, "it has no label"),
        ({}, "it has no label"),
        ({"cls": b"1"}, "it has no image"),
        ({"cls": b"1", "png": b"x"}, "its image is not a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"),
        ({"cls": b"1", "ppm": b"P6 9000 9000 255\n"}, "9000x9000 pixels: 1 to 67,108,864 wanted"),
        ({"cls": b"1", "png": png(pixels_of(0))[:20]}, "its image cannot be read"),
    ],
)
def test_bad_samples_say_what_is_wrong(members: dict[str, bytes], reason: str) -> None:
    with pytest.raises(BadSample, match=reason):
        parse_sample(members, num_classes=NUM_CLASSES, label_field="label")


@pytest.mark.parametrize("members", [{"cls": b"3\n"}, {"json": b'{"label": 3}'}, {"json": b'{"label": "3"}'}])
def test_labels_are_read_as_text_and_sizes_from_the_header(members: dict[str, bytes]) -> None:
    image = png(random_pixels(0, height=11, width=4))
    found = parse_sample({**members, "png": image}, num_classes=NUM_CLASSES, label_field="label")
    assert found == (image, 11, 4, 3)
