"""The native kernels for raw pixels (pipeline/native/pixels.c), behind functions that check what they are given.

    native = native_pixels()
    if not isinstance(native, Absent):
        gather(native, mapped.array, offsets, out=images_BHWC)      # image k begins at byte offsets[k] of the source

An offset outside the source is a segmentation fault in C, so each call looks at the smallest and the largest of them.

Axes: B batch, H height, W width, C channels, D = H*W*C.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pipeline.native import Absent, load

UInt8Array: TypeAlias = npt.NDArray[np.uint8]
Int64Array: TypeAlias = npt.NDArray[np.int64]

# Pixels can be written as these; the 16-bit ones come from a table.
PIXEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# A second thread costs about 30 us to start, in which one writes this much.
THREAD_BYTES = 1 << 20
# In the same time this much of a resized crop is written.
CROP_THREAD_BYTES = 1 << 18


def native_pixels() -> ctypes.CDLL | Absent:
    """Return the native library, its functions for pixels declared, or why there is none."""
    library = load()
    return library if isinstance(library, Absent) else _declared(library)


@cache
def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.tarmac_gather.argtypes = (pointer, pointer, number, number, pointer)
    library.tarmac_gather.restype = None
    library.tarmac_augment.argtypes = (*(pointer,) * 3, *(number,) * 6, *(pointer,) * 4, number)
    library.tarmac_augment.restype = ctypes.c_int
    library.tarmac_resized_crop.argtypes = (*(pointer,) * 3, *(number,) * 4, *(pointer,) * 4, number)
    library.tarmac_resized_crop.restype = ctypes.c_int
    return library


def gather(native: ctypes.CDLL, source: UInt8Array, offsets: Int64Array, *, out: torch.Tensor) -> None:
    """Copy the bytes at each offset of `source` into each row of `out`, contiguous uint8 (B, ...), on one thread."""
    image_bytes = out[0].nbytes if len(out) else 0
    _check_source(source, offsets, image_bytes=image_bytes)
    if out.dtype is not torch.uint8 or not out.is_contiguous() or len(out) != len(offsets):
        raise ValueError(f"out is {_describe(out)}: contiguous uint8, {len(offsets)} images wanted")
    native.tarmac_gather(source.ctypes.data, offsets.ctypes.data, len(offsets), image_bytes, out.data_ptr())


def gather_augmented(
    native: ctypes.CDLL,
    source: UInt8Array,
    offsets: Int64Array,
    bits_B: torch.Tensor,
    *,
    image_shape: tuple[int, int, int],
    flip: bool,
    crop_padding: int,
    mean_C: torch.Tensor,
    std_C: torch.Tensor,
    num_threads: int,
    out: torch.Tensor,
) -> None:
    """Write the images at the offsets into `out` (B, D), mirrored, shifted and normalised in one pass.

    The result is, bit for bit, that of `random_flip_crop` and `normalise` of pipeline.data.augment, rounded to
    `out.dtype`, one of PIXEL_DTYPES.
    """
    _check_source(source, offsets, image_bytes=math.prod(image_shape))
    bits_B = bits_B.contiguous()
    if bits_B.dtype is not torch.int64 or bits_B.shape != (len(offsets),):
        raise ValueError(f"bits_B is {_describe(bits_B)}: int64 ({len(offsets)},) wanted")
    if crop_padding < 0:
        raise ValueError(f"crop_padding={crop_padding}: at least 0 wanted")
    rows = _Rows(len(offsets), image_shape, mean_C=mean_C, std_C=std_C, out=out)
    failed = native.tarmac_augment(
        source.ctypes.data,
        offsets.ctypes.data,
        bits_B.data_ptr(),
        len(offsets),
        *image_shape,
        flip,
        crop_padding,
        *rows.pointers(),
        max(1, min(num_threads, len(offsets), out.nbytes // THREAD_BYTES)),
    )
    if failed:
        raise MemoryError("no memory for a row of pixels")


def gather_cropped(
    native: ctypes.CDLL,
    source: UInt8Array,
    offsets: Int64Array,
    boxes_B5: torch.Tensor,
    *,
    image_shape: tuple[int, int, int],
    mean_C: torch.Tensor,
    std_C: torch.Tensor,
    num_threads: int,
    out: torch.Tensor,
) -> None:
    """Write boxes of the images at the offsets into `out` (B, D), enlarged, mirrored and normalised in one pass.

    The result is, bit for bit, that of `resized_crop` of pipeline.data.resized_crop and `normalise`, rounded to
    `out.dtype`.

    Args:
        boxes_B5: int32, left, top, width, height in pixels, and 1 where it is to be mirrored, else 0.
    """
    height, width, _ = image_shape
    _check_source(source, offsets, image_bytes=math.prod(image_shape))
    boxes_B5 = boxes_B5.contiguous()
    if boxes_B5.dtype is not torch.int32 or boxes_B5.shape != (len(offsets), 5) or boxes_B5.device.type != "cpu":
        raise ValueError(f"boxes_B5 is {_describe(boxes_B5)}: int32 ({len(offsets)}, 5) wanted")
    starts, extents, whole = boxes_B5[:, :2], boxes_B5[:, 2:4], torch.tensor([width, height], dtype=torch.int32)
    if ((starts < 0) | (extents < 1) | (starts > whole - extents)).any():
        raise IndexError(f"a box outside its image of {height}x{width}")
    rows = _Rows(len(offsets), image_shape, mean_C=mean_C, std_C=std_C, out=out)
    failed = native.tarmac_resized_crop(
        source.ctypes.data,
        offsets.ctypes.data,
        boxes_B5.data_ptr(),
        len(offsets),
        *image_shape,
        *rows.pointers(),
        max(1, min(num_threads, len(offsets), out.nbytes // CROP_THREAD_BYTES)),
    )
    if failed:
        raise MemoryError("no memory for a row of pixels")


class _Rows:
    """What rows are normalised by and written to, checked: mean and std of each place, or a table, and `out`."""

    def __init__(
        self,
        num_images: int,
        image_shape: tuple[int, int, int],
        *,
        mean_C: torch.Tensor,
        std_C: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        _, width, channels = image_shape
        wanted = (num_images, math.prod(image_shape))
        if out.dtype not in PIXEL_DTYPES or not out.is_contiguous() or out.shape != wanted or out.device.type != "cpu":
            raise ValueError(f"out is {_describe(out)}: contiguous floats {wanted} wanted")
        if mean_C.shape != (channels,) or std_C.shape != (channels,):
            raise ValueError(f"mean_C, std_C: {mean_C}, {std_C} for {channels} channels")
        self._mean, self._std = (values.to(torch.float32).repeat(width) for values in (mean_C, std_C))
        self._out, self._table = out, None
        if out.dtype is not torch.float32:
            every_value = torch.arange(256, dtype=torch.uint8)[:, None]
            self._table = ((every_value - mean_C) / std_C).T.to(out.dtype).contiguous()

    def pointers(self) -> tuple[int | None, ...]:
        """Return mean, std, table and out, as C takes them; valid as long as this object."""
        table = None if self._table is None else self._table.data_ptr()
        return self._mean.data_ptr(), self._std.data_ptr(), table, self._out.data_ptr()


def _check_source(source: UInt8Array, offsets: Int64Array, *, image_bytes: int) -> None:
    for values, dtype in ((source, np.uint8), (offsets, np.int64)):
        if values.dtype != dtype or values.ndim != 1 or not values.flags.c_contiguous:
            raise ValueError(f"{values.dtype} {values.shape}: a contiguous row of {dtype.__name__} wanted")
    if len(offsets) and (offsets.min() < 0 or offsets.max() > len(source) - image_bytes):
        raise IndexError(
            f"images of {image_bytes} bytes at {offsets.min()}..{offsets.max()} of a source of {len(source)} bytes"
        )


def _describe(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
