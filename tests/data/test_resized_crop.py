"""Resized crops on the device against whole fractions, against torch's own interpolation, and C against torch."""

from __future__ import annotations

import ctypes
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from pipeline.data.augment import normalise
from pipeline.data.crop import RandomCrop
from pipeline.data.pixels import PIXEL_DTYPES, gather_cropped
from pipeline.data.resized_crop import Boxes, crop_normalise, random_boxes, resized_crop
from pipeline.native import SWITCH
from pixel_cases import MEAN, SHAPES, STD, random_images

# Batches of 8 MiB and more are written past the cache.
PAST_CACHE = (700, 64, 64, 3)


def boxes_of(batch: int, height: int, width: int, *, seed: int = 0, scale: tuple[float, float] = (0.08, 1)) -> Boxes:
    crop = RandomCrop(seed=seed, scale=scale)
    return random_boxes(crop, torch.arange(batch), epoch=1, height=height, width=width)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 48), (1, 1), (3, 100), (224, 160)])
@pytest.mark.parametrize("options", [{}, {"scale": (0.4, 1.0)}, {"ratio": (0.2, 0.3), "flip": False}])
def test_boxes_are_those_of_encoded_images_of_this_size(height: int, width: int, options: dict) -> None:
    crop, positions = RandomCrop(seed=11, **options), np.arange(5_000)[::-1].copy()
    sizes = {"heights_B": np.full(5_000, height), "widths_B": np.full(5_000, width)}
    expected = crop.views(positions, epoch=4, size=(height, width), **sizes)
    found = random_boxes(crop, torch.from_numpy(positions), epoch=4, height=height, width=width)
    assert np.array_equal(found.corners.numpy(), expected.regions)
    assert np.array_equal(found.flips.numpy(), expected.flips)


def exact_pixel(image_HWC: np.ndarray, box: list[int], y: int, x: int, c: int) -> int:
    """Linear interpolation at the pixel's centre, clamped to the box, in fractions, halves rounded up."""
    height, width, _ = image_HWC.shape
    left, top, box_width, box_height = box
    at_y = min(max((Fraction(2 * y + 1, 2)) * box_height / height - Fraction(1, 2), Fraction(0)), box_height - 1)
    at_x = min(max((Fraction(2 * x + 1, 2)) * box_width / width - Fraction(1, 2), Fraction(0)), box_width - 1)
    total = Fraction(0)
    for row in range(box_height):
        for column in range(box_width):
            weight = max(Fraction(0), 1 - abs(at_y - row)) * max(Fraction(0), 1 - abs(at_x - column))
            total += weight * int(image_HWC[top + row, left + column, c])
    return math.floor(total + Fraction(1, 2))


@pytest.mark.parametrize("shape", [(6, 6, 3), (5, 7, 1), (4, 3, 2)])
def test_pixels_are_the_exact_interpolation(shape: tuple[int, int, int]) -> None:
    height, width, channels = shape
    images, boxes = random_images(6, *shape), boxes_of(6, height, width)
    found = resized_crop(images, boxes)
    for image, box, flip, shown in zip(images, boxes.corners, boxes.flips, found, strict=True):
        expected = [
            [[exact_pixel(image.numpy(), box.tolist(), y, x, c) for c in range(channels)] for x in range(width)]
            for y in range(height)
        ]
        assert (shown.flip(1) if flip else shown).tolist() == expected


def test_it_is_torchs_own_interpolation_of_what_the_box_shows() -> None:
    images, boxes = random_images(40, 64, 48, 3), boxes_of(40, 64, 48)
    found = resized_crop(images, boxes)
    for image, (left, top, width, height), flip, shown in zip(
        images, boxes.corners.tolist(), boxes.flips, found, strict=True
    ):
        part = image[top : top + height, left : left + width].permute(2, 0, 1)[None].double()
        resized = torch.nn.functional.interpolate(part, size=(64, 48), mode="bilinear", align_corners=False)
        expected = resized[0].permute(1, 2, 0)
        off = (shown.flip(1) if flip else shown).double() - expected
        assert off.abs().max() <= 0.5 + 1e-6


def test_the_whole_image_stays_as_it_is() -> None:
    images = random_images(3, 9, 7, 3)
    whole = Boxes(corners=torch.tensor([[0, 0, 7, 9]] * 3), flips=torch.tensor([False, True, False]))
    found = resized_crop(images, whole)
    assert torch.equal(found[0], images[0])
    assert torch.equal(found[1], images[1].flip(1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("native")
def test_native_floats_are_torchs_to_the_last_bit(shape: tuple[int, int, int]) -> None:
    mean, std = MEAN[: shape[2]], STD[: shape[2]]
    for batch in (1, 7, 64):
        images, boxes = random_images(batch, *shape), boxes_of(batch, *shape[:2], seed=batch)
        expected = normalise(resized_crop(images, boxes), mean, std)
        assert torch.equal(crop_normalise(images, boxes, mean_C=mean, std_C=std), expected)


@pytest.mark.parametrize("dtype", PIXEL_DTYPES)
def test_batches_past_the_cache_and_by_several_threads_are_the_same(native: ctypes.CDLL, dtype: torch.dtype) -> None:
    images, boxes = random_images(*PAST_CACHE), boxes_of(*PAST_CACHE[:3])
    expected = normalise(resized_crop(images, boxes), MEAN[:3], STD[:3]).to(dtype)
    for num_threads in (1, 2, 7, 1_000):
        out = torch.full(expected.shape, float("nan"), dtype=dtype)
        cropped(native, images=images, boxes_B5=as_rows(boxes), out=out, num_threads=num_threads)
        assert torch.equal(out, expected)


def as_rows(boxes: Boxes) -> torch.Tensor:
    return torch.cat([boxes.corners, boxes.flips[:, None]], dim=1).to(torch.int32)


def cropped(native: ctypes.CDLL, *, images: torch.Tensor, **changed: object) -> None:
    batch, *shape = images.shape
    options: dict = {
        "mean_C": MEAN[:3],
        "std_C": STD[:3],
        "num_threads": 1,
        "out": torch.empty(images.flatten(1).shape),
    }
    options |= {"boxes_B5": as_rows(boxes_of(batch, *shape[:2])), "image_shape": tuple(shape)} | changed
    offsets = np.arange(batch, dtype=np.int64) * math.prod(shape)
    gather_cropped(native, images.reshape(-1).numpy(), offsets, options.pop("boxes_B5"), **options)


@pytest.mark.parametrize(
    "box", [[-1, 0, 3, 3], [0, 6, 3, 3], [0, 0, 0, 3], [0, 0, 3, 9], [5, 0, 4, 3], [2**31 - 1] * 4]
)
def test_a_box_outside_its_image_is_refused(native: ctypes.CDLL, box: list[int]) -> None:
    images = random_images(2, 8, 8, 3)
    boxes = torch.tensor([[0, 0, 8, 8, 0], [*box, 0]], dtype=torch.int32)
    with pytest.raises(IndexError, match="a box outside its image of 8x8"):
        cropped(native, images=images, boxes_B5=boxes)


@pytest.mark.parametrize("wrong", [torch.zeros((2, 4), dtype=torch.int32), torch.zeros((2, 5), dtype=torch.int64)])
def test_boxes_that_c_would_misread_are_refused(native: ctypes.CDLL, wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="boxes_B5 is"):
        cropped(native, images=random_images(2, 8, 8, 3), boxes_B5=wrong)


@pytest.mark.usefixtures("native")
def test_without_native_code_the_same_pixels_come(monkeypatch: pytest.MonkeyPatch) -> None:
    images, boxes = random_images(20, 16, 16, 3), boxes_of(20, 16, 16)
    found = crop_normalise(images, boxes, mean_C=MEAN[:3], std_C=STD[:3])
    monkeypatch.setenv(SWITCH, "0")
    assert torch.equal(found, crop_normalise(images, boxes, mean_C=MEAN[:3], std_C=STD[:3]))


def test_images_too_large_for_whole_numbers_of_32_bits_are_refused() -> None:
    images = torch.zeros((1, 2000, 2000, 1), dtype=torch.uint8)
    with pytest.raises(ValueError, match="images of 2000x2000"):
        resized_crop(images, Boxes(corners=torch.tensor([[0, 0, 2000, 2000]]), flips=torch.tensor([False])))
