"""JPEG bytes to pixels of exactly the wanted size, doing as little of the work as that takes.

    width, height = jpeg_size(image)                            # None: a matter for Pillow
    region = (0.0, 0.0, width, height)
    box = fitted_box(region, height=64, width=64, fit=Fit.crop)
    eighths = dct_eighths(box, height=64, width=64, min_scale=2.0)
    pixels = decode_jpeg(image, channels=3, eighths=eighths)    # None: a matter for Pillow
    region, box = scaled(region, eighths / 8), scaled(box, eighths / 8)
    pixels = resize(pixels, height=64, width=64, region=region, box=box)

libjpeg-turbo (through simplejpeg) makes an image of 1/2, 1/4 or 1/8 straight from the DCT coefficients, which spares
most of the resize that follows. It is asked to be strict: at the least doubt about the data Pillow, which decides what
is a bad image, decodes it whole. The resize is Lanczos, by cykooz-resizer where it is installed (it has no wheel
for Linux on ARM), else by Pillow, three times slower; they differ in rounding, so `library_versions` names
the one used. benchmarks/README.md has the speed and the fidelity of these and of the other libraries.
"""

from __future__ import annotations

import math
from importlib.metadata import version

import numpy as np
import simplejpeg
from PIL import Image

from data_prep.config import Fit
from data_prep.sources.base import ImageArray

try:
    import cykooz_resizer as simd
except ImportError:
    simd = None

# Other eighths have no vector code in libjpeg-turbo: they take longer than the next larger one of these.
EIGHTHS = (1, 2, 4, 8)
# The others are CMYK and YCCK, often inverted, which Pillow knows how to convert.
COLOURSPACES = ("YCbCr", "RGB", "Gray")

# Left, top, width, height, in pixels with fractions.
Region = tuple[float, float, float, float]


def library_versions() -> dict[str, str]:
    """Return the libraries, with their versions, that decide the pixels of a decoded and resized image."""
    resizer = "pillow" if simd is None else "cykooz-resizer"
    return {
        "pillow": version("pillow"),
        "simplejpeg": version("simplejpeg"),
        "resize": f"{resizer} {version(resizer)}",
    }


def jpeg_size(image: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a grey or colour JPEG from its header; None for any other bytes."""
    if not image.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colourspace, _ = simplejpeg.decode_jpeg_header(image)
    except ValueError:
        return None
    return (width, height) if colourspace in COLOURSPACES else None


def decode_jpeg(image: bytes, *, channels: int, eighths: int) -> ImageArray | None:
    """Return a JPEG's pixels (height, width, channels) at a DCT scale of `eighths` / 8, each side rounded up.

    Returns None where libjpeg-turbo has any complaint, be it only a warning.
    """
    colourspace = "RGB" if channels == 3 else "GRAY"
    try:
        if eighths == 8:
            return simplejpeg.decode_jpeg(image, colourspace)  # type: ignore[no-any-return]
        height, width, _, _ = simplejpeg.decode_jpeg_header(image)
        # simplejpeg takes the smallest of its scales that gives at least this.
        height, width = -(-height * eighths // 8), -(-width * eighths // 8)
        pixels: ImageArray = simplejpeg.decode_jpeg(image, colourspace, min_height=height, min_width=width)
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


def fitted_box(region: Region, *, height: int, width: int, fit: Fit) -> Region:
    """Return the part of a region that becomes height x width.

    With Fit.crop it is the largest centred box of the target's shape, so that nothing is distorted; else it is all.
    """
    if fit is Fit.stretch:
        return region
    left, top, region_width, region_height = region
    scale = min(region_width / width, region_height / height)
    box_width, box_height = min(scale * width, region_width), min(scale * height, region_height)
    return left + (region_width - box_width) / 2, top + (region_height - box_height) / 2, box_width, box_height


def dct_eighths(box: Region, *, height: int, width: int, min_scale: float | None) -> int:
    """Return the smallest DCT scale, in eighths, that leaves a box `min_scale` times the target; 8 for None."""
    if min_scale is None:
        return 8
    scale = min(box[2] / width, box[3] / height)
    return next((eighths for eighths in EIGHTHS if scale * eighths / 8 >= min_scale), 8)


def scaled(box: Region, factor: float) -> Region:
    """Return a box in the coordinates of the image at another scale."""
    left, top, width, height = box
    return left * factor, top * factor, width * factor, height * factor


def resize(pixels_HWC: ImageArray, *, height: int, width: int, region: Region, box: Region) -> ImageArray:
    """Resize a box of an image to height x width with an antialiased Lanczos filter.

    Nothing outside `region`, in which the box lies, has a part in the result, but for what shares a pixel with its
    edge. A box of just that size at whole pixels is cut out as it is.
    """
    first_column, first_row = math.floor(region[0]), math.floor(region[1])
    last_column, last_row = math.ceil(region[0] + region[2]), math.ceil(region[1] + region[3])
    pixels_HWC = pixels_HWC[first_row:last_row, first_column:last_column]
    rows, columns, channels = pixels_HWC.shape
    left, top = max(box[0] - first_column, 0.0), max(box[1] - first_row, 0.0)
    right, bottom = min(left + box[2], float(columns)), min(top + box[3], float(rows))
    if (right - left, bottom - top) == (width, height) and left.is_integer() and top.is_integer():
        return pixels_HWC[int(top) : int(bottom), int(left) : int(right)]
    if simd is None:
        return _resize_with_pillow(pixels_HWC, height=height, width=width, corners=(left, top, right, bottom))
    kind = simd.PixelType.U8x3 if channels == 3 else simd.PixelType.U8
    found = simd.ImageData(width, height, kind)
    simd.Resizer().resize(
        simd.ImageData(columns, rows, kind, pixels_HWC.tobytes()),
        found,
        simd.ResizeOptions(
            resize_alg=simd.ResizeAlg.convolution(simd.FilterType.lanczos3),
            crop_box=simd.CropBox(left, top, right - left, bottom - top),
        ),
    )
    return np.frombuffer(found.get_buffer(), dtype=np.uint8).reshape(height, width, channels)


def _resize_with_pillow(
    pixels_HWC: ImageArray, *, height: int, width: int, corners: tuple[float, float, float, float]
) -> ImageArray:
    channels = pixels_HWC.shape[2]
    picture = Image.fromarray(pixels_HWC if channels == 3 else pixels_HWC[:, :, 0])
    picture = picture.resize((width, height), Image.Resampling.LANCZOS, box=corners)
    return np.asarray(picture).reshape(height, width, channels)


def turn(pixels_HWC: ImageArray, *, orientation: int) -> ImageArray:
    """Turn pixels as the EXIF orientation 1 to 8 says; from 5 on height and width change places."""
    if orientation >= 5:
        pixels_HWC = pixels_HWC.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels_HWC = pixels_HWC[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels_HWC = pixels_HWC[::-1]
    return pixels_HWC
