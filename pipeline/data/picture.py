"""A picture file as the model wants it: decoded and brought to size as data_prep, or the reader, would have done it.

    preparation = Preparation(height=64, width=64, channels=3, is_packed=True)
    pixels_HWC = prepare_picture(Path("cat.jpg").read_bytes(), preparation=preparation)

Packed images were resized with Lanczos once, when the data set was made (data_prep/decode.py). Here Pillow decodes, and
the same library as there resizes: pixels are equal to the last bit, or, where one of the two machines has no
cykooz-resizer, to a few roundings. Encoded images are resized by the reader, with a linear filter, so its own decoder
does it here too.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.data.crop import CentreCrop
from pipeline.data.decode import FORMATS, MAX_PIXELS, Decoder, make_jobs
from pipeline.shards.errors import UserError
from pipeline.shards.pixel_shuffle import shuffle_pixels

try:
    import cykooz_resizer as simd
except ImportError:  # it has no wheel for Linux on ARM
    simd = None

UInt8Array = npt.NDArray[np.uint8]
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# Scales that libjpeg makes straight from the DCT coefficients, in eighths.
EIGHTHS = (1, 2, 4, 8)
# What sets a picture upright, by its EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How images became what a model was trained on.

    Attributes:
        is_packed: resized when the data set was made; else when they are read.
        is_cropped: the centre was cut out; else the whole image was stretched.
        min_scale: a JPEG was decoded at 1/8, 1/4 or 1/2 where that is this many times the target; None: whole.
        exif_orientation: turned as their EXIF tag says.
        pixel_shuffle_seed: of the permutation that their pixels were put into when the data set was made; None: none.
    """

    height: int
    width: int
    channels: int
    is_packed: bool
    is_cropped: bool = True
    min_scale: float | None = 2.0
    exif_orientation: bool = False
    pixel_shuffle_seed: int | None = None


def prepare_picture(content: bytes, *, preparation: Preparation) -> UInt8Array:
    """Return the pixels, uint8 (H, W, C), of a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.

    Raises:
        UserError: it is none, or it cannot be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width}x{picture.height} pixels are too many")
            return _packed(picture, preparation) if preparation.is_packed else _encoded(content, picture, preparation)
    except Exception as error:  # Pillow's decoders raise almost anything on broken input
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError("is no image" if isinstance(error, UnidentifiedImageError) else text) from None


def _packed(picture: Image.Image, preparation: Preparation) -> UInt8Array:
    """As data_prep/encode.py's PackedEncoder."""
    size = picture.size
    orientation = _orientation(picture) if preparation.exif_orientation else 1
    height, width = preparation.height, preparation.width
    if orientation >= 5:  # it lies on its side, and is turned at the end
        height, width = width, height
    box = _box(size, height=height, width=width, is_cropped=preparation.is_cropped)
    if picture.format in ("JPEG", "MPO") and picture.mode != "CMYK":
        eighths = _eighths(box, height=height, width=width, min_scale=preparation.min_scale)
        # Asked for more than a scale gives, Pillow takes the next larger one.
        picture.draft("L" if preparation.channels == 1 else None, (size[0] * eighths // 8, size[1] * eighths // 8))
        factors = picture.width / size[0], picture.height / size[1]
        factor = eighths / 8 if factors != (1.0, 1.0) else 1.0
        left, top, right, bottom = (edge * factor for edge in box)
        box = left, top, min(right, picture.width), min(bottom, picture.height)
    picture = _to_mode(picture, channels=preparation.channels)
    if (box[2] - box[0], box[3] - box[1]) == (width, height) and box[0].is_integer() and box[1].is_integer():
        picture = picture.crop(tuple(int(edge) for edge in box))  # type: ignore[arg-type]
    else:
        picture = _resized(picture, height=height, width=width, box=box)
    if orientation != 1:
        picture = picture.transpose(TURNS[orientation])
    pixels_HWC = np.asarray(picture).reshape(preparation.height, preparation.width, preparation.channels)
    seed = preparation.pixel_shuffle_seed
    return pixels_HWC if seed is None else shuffle_pixels(pixels_HWC, seed=seed)


def _resized(picture: Image.Image, *, height: int, width: int, box: tuple[float, float, float, float]) -> Image.Image:
    """Return a box of a picture, resized with an antialiased Lanczos filter."""
    if simd is None:
        return picture.resize((width, height), Image.Resampling.LANCZOS, box=box)
    left, top, right, bottom = box
    kind = simd.PixelType.U8x3 if picture.mode == "RGB" else simd.PixelType.U8
    found = simd.ImageData(width, height, kind)
    simd.Resizer().resize(
        simd.ImageData(picture.width, picture.height, kind, picture.tobytes()),
        found,
        simd.ResizeOptions(
            resize_alg=simd.ResizeAlg.convolution(simd.FilterType.lanczos3),
            crop_box=simd.CropBox(left, top, right - left, bottom - top),
        ),
    )
    return Image.frombytes(picture.mode, (width, height), found.get_buffer())


def _encoded(content: bytes, picture: Image.Image, preparation: Preparation) -> UInt8Array:
    """As pipeline/data/encoded.py's EncodedReader at evaluation."""
    orientation = _orientation(picture) if preparation.exif_orientation else 1
    if orientation != 1:
        picture = picture.transpose(TURNS[orientation])
        stream = io.BytesIO()
        picture.convert("RGB").save(stream, format="PNG")
        content = stream.getvalue()
    out = np.empty((1, preparation.height, preparation.width, 3), dtype=np.uint8)
    heights, widths = np.array([picture.height]), np.array([picture.width])
    views = CentreCrop(frac=1.0).views(
        np.zeros(1, dtype=np.int64), epoch=0, heights_B=heights, widths_B=widths, size=out.shape[1:3]
    )
    jobs = make_jobs(
        views,
        offsets=np.zeros(1, dtype=np.int64),
        sizes_bytes=np.array([len(content)]),
        heights_B=heights,
        widths_B=widths,
    )
    decoder = Decoder(threads=1)
    try:
        failures = decoder.decode(np.frombuffer(content, dtype=np.uint8), jobs, out=out)
    finally:
        decoder.close()
    if failures:
        raise ValueError(failures[0])
    pixels_HWC: UInt8Array = out[0]
    return pixels_HWC


def _box(size: tuple[int, int], *, height: int, width: int, is_cropped: bool) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of what becomes height x width."""
    if not is_cropped:
        return 0.0, 0.0, float(size[0]), float(size[1])
    scale = min(size[0] / width, size[1] / height)
    box_width, box_height = min(scale * width, size[0]), min(scale * height, size[1])
    left, top = (size[0] - box_width) / 2, (size[1] - box_height) / 2
    return left, top, left + box_width, top + box_height


def _eighths(box: tuple[float, float, float, float], *, height: int, width: int, min_scale: float | None) -> int:
    """Return the smallest DCT scale that leaves the box `min_scale` times the target."""
    scale = min((box[2] - box[0]) / width, (box[3] - box[1]) / height)
    scales = (eighths for eighths in EIGHTHS if min_scale is not None and scale * eighths / 8 >= min_scale)
    return next(scales, 8)


def _orientation(picture: Image.Image) -> int:
    """Return a picture's EXIF orientation; 1, upright, where it has none of 2 to 8."""
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return int(orientation) if orientation in TURNS else 1


def _to_mode(picture: Image.Image, *, channels: int) -> Image.Image:
    """Convert to RGB or grey, 8 bits, as data_prep does: what is transparent shows its own colour."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        scaled: Any = np.asarray(picture).astype(np.uint32) / 257.0
        picture = Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
    mode = "RGB" if channels == 3 else "L"
    return picture if picture.mode == mode else picture.convert(mode)
