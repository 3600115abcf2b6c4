"""Augmentation on the whole batch, on the batch's device: a pure function of (seed, epoch, position).

    images_BHWC = random_flip_crop(images_BHWC, bits_B, flip=True, crop_padding=4)
    pixels_BD = normalise(images_BHWC, mean_C, std_C)

    pixels_BD = augment_normalise(images_BHWC, bits_B, flip=True, crop_padding=4, mean_C=mean_C, std_C=std_C)

Both forms give the same bits; on a CPU the second is one pass of native code, fifteen times as fast.
`augmentation_bits` is the counter-based hash of pipeline.shards.keyed, in torch, so a sample's augmentation is the
same on any number of GPUs, on a GPU or not, and after any resume.

Axes: B batch, H height, W width, C channels, D = H*W*C.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.data.pixels import gather_augmented, native_pixels
from pipeline.native import Absent
from pipeline.shards.keyed import MASK_64, MIX_1, MIX_2, WEYL_INCREMENT, make_key


def augmentation_bits(positions_B: torch.Tensor, *, seed: int, epoch: int) -> torch.Tensor:
    """Return 64 random bits, as int64, for each position in the epoch's order (int64, any shape)."""
    return hashed(positions_B, key=make_key("augment", seed, epoch))


def hashed(counters: torch.Tensor, *, key: int) -> torch.Tensor:
    """Return `random_bits(key, counters)` of pipeline.shards.keyed, as int64, on the counters' device."""
    return _mix64(_mix64(counters * _signed(WEYL_INCREMENT) + _signed(key)) + _signed(key))


def random_flip_crop(images_BHWC: torch.Tensor, bits_B: torch.Tensor, *, flip: bool, crop_padding: int) -> torch.Tensor:
    """Shift each image by -crop_padding..crop_padding pixels in each direction (zeros come in), then mirror half.

    Args:
        images_BHWC: uint8, contiguous; not changed.
        bits_B: int64, from `augmentation_bits`; bit 0 decides the mirror, bits 8..27 and 28..47 the shifts.

    The crop is one gather of image rows: a row of a crop is W*C consecutive bytes of the padded batch, so a view
    whose rows start at every pixel holds each of them as one row.
    """
    batch, height, width, channels = images_BHWC.shape
    if crop_padding > 0:
        num_shifts = 2 * crop_padding + 1
        top_B = (bits_B >> 8 & 0xFFFFF) % num_shifts
        left_B = (bits_B >> 28 & 0xFFFFF) % num_shifts
        padded = torch.nn.functional.pad(images_BHWC, (0, 0) + (crop_padding,) * 4)
        padded_height, padded_width = padded.shape[1:3]
        first_B = torch.arange(batch, device=bits_B.device) * padded_height + top_B
        rows_BH = first_B[:, None] + torch.arange(height, device=bits_B.device)
        starts_BH = rows_BH * padded_width + left_B[:, None]
        num_starts = batch * padded_height * padded_width - width + 1
        row_at_pixel = padded.as_strided((num_starts, width * channels), (channels, 1))
        images_BHWC = row_at_pixel.index_select(0, starts_BH.flatten()).view(batch, height, width, channels)
    if flip:
        mirrored_B = (bits_B & 1).bool()[:, None, None, None]
        images_BHWC = torch.where(mirrored_B, images_BHWC.flip(2), images_BHWC)
    return images_BHWC


def normalise(images_BHWC: torch.Tensor, mean_C: torch.Tensor, std_C: torch.Tensor) -> torch.Tensor:
    """Return (images - mean) / std, float32 (B, D), for uint8 images and mean and std in 0..255."""
    return ((images_BHWC - mean_C) / std_C).flatten(1)


def augment_normalise(
    images_BHWC: torch.Tensor,
    bits_B: torch.Tensor | None,
    *,
    flip: bool,
    crop_padding: int,
    mean_C: torch.Tensor,
    std_C: torch.Tensor,
    out: torch.Tensor | None = None,
    num_threads: int | None = None,
) -> torch.Tensor:
    """Return `normalise(random_flip_crop(images))`, the same bits, by native code where images lie on the CPU.

    Args:
        bits_B: None where neither is wanted: `normalise(images)`.
        out: filled and returned; float32, or float16 or bfloat16 to round the result to, contiguous (B, D). None: a new
            one of float32.
        num_threads: threads at most; None: as many as torch uses.
    """
    if bits_B is None and (flip or crop_padding):
        raise ValueError(f"flip={flip}, crop_padding={crop_padding}: bits_B wanted")
    native = native_pixels()
    if isinstance(native, Absent) or images_BHWC.device.type != "cpu":
        if bits_B is not None:
            images_BHWC = random_flip_crop(images_BHWC, bits_B, flip=flip, crop_padding=crop_padding)
        pixels_BD = normalise(images_BHWC, mean_C, std_C)
        return pixels_BD if out is None else out.copy_(pixels_BD)
    batch, height, width, channels = images_BHWC.shape
    if out is None:
        out = torch.empty((batch, height * width * channels))
    gather_augmented(
        native,
        images_BHWC.reshape(-1).numpy(),
        np.arange(batch, dtype=np.int64) * (height * width * channels),
        torch.zeros(batch, dtype=torch.int64) if bits_B is None else bits_B,
        image_shape=(height, width, channels),
        flip=flip,
        crop_padding=crop_padding,
        mean_C=mean_C,
        std_C=std_C,
        num_threads=num_threads or torch.get_num_threads(),
        out=out,
    )
    return out


def _mix64(values: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser on int64, where a right shift must be made logical."""
    values = (values ^ _shift(values, 30)) * _signed(MIX_1)
    values = (values ^ _shift(values, 27)) * _signed(MIX_2)
    return values ^ _shift(values, 31)


def _shift(values: torch.Tensor, bits: int) -> torch.Tensor:
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """Return the int64 with the same 64 bits."""
    value &= MASK_64
    return value - (1 << 64) if value >> 63 else value
