"""The native kernels for raw pixels (pipeline/native/pixels.c), behind functions that check what they are given.

    native = native_pixels()
    if not isinstance(native, Absent):
        gather(native, mapped.array, offsets, out=images_BHWC)      # image k begins at byte offsets[k] of the source

An offset outside the source is a segmentation fault in C, so each call looks at the smallest and the largest of them.

Axes: B batch, H height, W width, C channels, D = H*W*C.
"""

from __future__ import annotations

import ctypes
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
    height, width, channels = image_shape
    _check_source(source, offsets, image_bytes=height * width * channels)
    wanted = (len(offsets), height * width * channels)
    if out.dtype not in PIXEL_DTYPES or not out.is_contiguous() or out.shape != wanted or out.device.type != "cpu":
        raise ValueError(f"out is {_describe(out)}: contiguous floats {wanted} wanted")
    bits_B = bits_B.contiguous()
    if bits_B.dtype is not torch.int64 or bits_B.shape != (len(offsets),):
        raise ValueError(f"bits_B is {_describe(bits_B)}: int64 ({len(offsets)},) wanted")
    if mean_C.shape != (channels,) or std_C.shape != (channels,) or crop_padding < 0:
        raise ValueError(f"mean_C, std_C, crop_padding: {mean_C}, {std_C}, {crop_padding} for {channels} channels")
    mean_row, std_row = (values.to(torch.float32).repeat(width) for values in (mean_C, std_C))
    table = None
    if out.dtype is not torch.float32:
        every_value = torch.arange(256, dtype=torch.uint8)[:, None]
        table = ((every_value - mean_C) / std_C).T.to(out.dtype).contiguous()
    failed = native.tarmac_augment(
        source.ctypes.data,
        offsets.ctypes.data,
        bits_B.data_ptr(),
        len(offsets),
        *image_shape,
        flip,
        crop_padding,
        mean_row.data_ptr(),
        std_row.data_ptr(),
        None if table is None else table.data_ptr(),
        out.data_ptr(),
        max(1, min(num_threads, len(offsets), out.nbytes // THREAD_BYTES)),
    )
    if failed:
        raise MemoryError("no memory for a row of pixels")


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
