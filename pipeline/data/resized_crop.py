"""Random resized crop of images of one size, the whole batch at once on its device, exact to the last bit.

    boxes = random_boxes(RandomCrop(seed=7), positions_B, epoch=3, height=64, width=64)
    images_BHWC = resized_crop(images_BHWC, boxes)                      # uint8, of the same shape
    pixels_BD = crop_normalise(images_BHWC, boxes, mean_C=mean_C, std_C=std_C)      # and normalised, by native code

For packed images, which a decoder does not crop (pipeline/data/crop.py is the same for those; the boxes are equal). A
box is at most as large as the image, so it is only ever enlarged: by linear interpolation between pixel centres, with
no antialiasing to do, clamped to the box, rounded to whole numbers, halves up. Places are multiples of 1/(2*size), so
all of it is done in whole numbers: pixels are equal on a CPU and a GPU, and in C and torch.

Axes: B batch, H height, W width, C channels, D = H*W*C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.data.augment import hashed, normalise
from pipeline.data.crop import DRAWS, TRIES, RandomCrop
from pipeline.data.pixels import gather_cropped, native_pixels
from pipeline.native import Absent
from pipeline.shards.keyed import make_key

# A blend of four pixels is a sum of up to 255*4*H*W, which must be an int32.
MAX_PIXELS = (2**31 - 1) // (4 * 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes:
    """What is seen of each image, in pixels.

    Attributes:
        corners: int64 (B, 4), left, top, width, height.
        flips: bool (B,), whether what is seen is mirrored.
    """

    corners: torch.Tensor
    flips: torch.Tensor


def random_boxes(crop: RandomCrop, positions_B: torch.Tensor, *, epoch: int, height: int, width: int) -> Boxes:
    """Return `crop.views` of images of one size, on the device of `positions_B`."""
    device = positions_B.device
    counters = positions_B[:, None] * DRAWS + torch.arange(DRAWS, device=device)
    bits = hashed(counters, key=make_key("crop", crop.seed, epoch))
    firsts, seconds = _uniform(bits >> 32), _uniform(bits)
    areas = height * width * (crop.scale[0] + firsts[:, :TRIES] * (crop.scale[1] - crop.scale[0]))
    least, greatest = math.log(crop.ratio[0]), math.log(crop.ratio[1])
    ratios = torch.exp(least + seconds[:, :TRIES] * (greatest - least))
    widths, heights = torch.sqrt(areas * ratios).round_(), torch.sqrt(areas / ratios).round_()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    chosen = fits.int().argmax(dim=1, keepdim=True)  # the first that fits
    found = fits.gather(1, chosen)[:, 0]
    # A box that no try gave is centred; it fills at least one side.
    fallback_height = max(1, min(height, round(width / crop.ratio[0])))
    fallback_width = max(1, min(width, round(height * crop.ratio[1])))
    box_heights = torch.where(found, heights.gather(1, chosen)[:, 0].long(), fallback_height)
    box_widths = torch.where(found, widths.gather(1, chosen)[:, 0].long(), fallback_width)
    tops = torch.floor(firsts[:, TRIES] * (height - box_heights + 1)).long()
    lefts = torch.floor(seconds[:, TRIES] * (width - box_widths + 1)).long()
    tops = torch.where(found, tops, (height - fallback_height) // 2)
    lefts = torch.where(found, lefts, (width - fallback_width) // 2)
    flips = (firsts[:, TRIES + 1] < 0.5) & crop.flip
    return Boxes(corners=torch.stack([lefts, tops, box_widths, box_heights], dim=1), flips=flips)


def resized_crop(images_BHWC: torch.Tensor, boxes: Boxes) -> torch.Tensor:
    """Return what is seen of each image, enlarged to its size; uint8, on the images' device."""
    batch, height, width, channels = images_BHWC.shape
    _check_size(height, width)
    lefts, tops, box_widths, box_heights = boxes.corners.unbind(1)
    above_BH, below_BH, part_BH = _places(tops, box_heights, count=height)
    left_BW, right_BW, across_BW = _places(lefts, box_widths, count=width)
    flips_B1 = boxes.flips[:, None]
    left_BW, right_BW, across_BW = (torch.where(flips_B1, v.flip(1), v) for v in (left_BW, right_BW, across_BW))
    row_of_image = torch.arange(batch, device=images_BHWC.device)[:, None] * height
    rows = images_BHWC.reshape(batch * height, width * channels)
    above, below = (rows.index_select(0, (row_of_image + at).flatten()).int() for at in (above_BH, below_BH))
    part = part_BH.reshape(-1, 1)
    pixels = above.mul_(2 * height - part).addcmul_(below, part).view(batch * height * width, channels)
    row_of_pixel = torch.arange(batch * height, device=images_BHWC.device).view(batch, height, 1) * width
    left, right = (
        pixels.index_select(0, (row_of_pixel + at[:, None, :]).flatten()).view(batch, height, width, channels)
        for at in (left_BW, right_BW)
    )
    across = across_BW[:, None, :, None]
    total = left.mul_(2 * width - across).addcmul_(right, across).add_(2 * height * width)
    return total.div_(4 * height * width, rounding_mode="floor").to(torch.uint8)


def crop_normalise(
    images_BHWC: torch.Tensor,
    boxes: Boxes,
    *,
    mean_C: torch.Tensor,
    std_C: torch.Tensor,
    num_threads: int | None = None,
) -> torch.Tensor:
    """Return `normalise(resized_crop(images, boxes))`, the same bits, by native code where images lie on the CPU."""
    native = native_pixels()
    if isinstance(native, Absent) or images_BHWC.device.type != "cpu":
        return normalise(resized_crop(images_BHWC, boxes), mean_C, std_C)
    batch, height, width, channels = images_BHWC.shape
    _check_size(height, width)
    image_bytes = height * width * channels
    out = torch.empty((batch, image_bytes))
    gather_cropped(
        native,
        images_BHWC.reshape(-1).numpy(),
        np.arange(batch, dtype=np.int64) * image_bytes,
        torch.cat([boxes.corners, boxes.flips[:, None]], dim=1).to(torch.int32),
        image_shape=(height, width, channels),
        mean_C=mean_C,
        std_C=std_C,
        num_threads=num_threads or torch.get_num_threads(),
        out=out,
    )
    return out


def _places(starts_B: torch.Tensor, extents_B: torch.Tensor, *, count: int) -> tuple[torch.Tensor, ...]:
    """Return, for each of `count` places of the output, the two pixels that it lies between and its part of the second.

    Place i lies at start + (i + 1/2) * extent/count - 1/2 in units of pixels, not before the first and not behind the
    last of the box; parts are int32, in units of 1 / (2 * count).
    """
    extents_B1 = extents_B[:, None]
    numerators = (2 * torch.arange(count, device=starts_B.device) + 1) * extents_B1 - count
    numerators = numerators.clamp_(min=0).minimum(2 * count * (extents_B1 - 1))
    first = numerators.div(2 * count, rounding_mode="floor")
    second = torch.minimum(first + 1, extents_B1 - 1)
    return starts_B[:, None] + first, starts_B[:, None] + second, (numerators - first * (2 * count)).int()


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(f"images of {height}x{width}: at most {MAX_PIXELS:,} pixels wanted")


def _uniform(bits: torch.Tensor) -> torch.Tensor:
    """Return the middles of 2^32 equal parts of [0, 1) for the lower 32 bits."""
    return ((bits & 0xFFFFFFFF).double() + 0.5) / 2.0**32
