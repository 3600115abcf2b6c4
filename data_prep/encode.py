"""From an item's image to its stored record.

    encoder = PackedEncoder(layout=PackedLayout(height=64, width=64, channels=3), config=config)
    stored = encoder.encode(key="000000017", label=3, image=jpeg_bytes)

A bad image raises `Rejected` with a reason that names what is wrong with it; nothing else escapes for bad input.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from data_prep.channel_sums import ChannelSums
from data_prep.config import Channels, EncodedLayoutConfig, LayoutConfig, PackedLayoutConfig
from data_prep.decode import dct_eighths, decode_jpeg, fitted_box, jpeg_size, resize, scaled, turn
from data_prep.sources.base import ImageArray, Rejected
from pipeline.shards.pixel_shuffle import shuffle_pixels
from pipeline.shards.record import Label, PackedLayout, pack_encoded, padded_bytes

# MPO, a JPEG with more pictures behind it, is opened by the JPEG reader; Pillow has none under its own name.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
KEPT_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
DEFAULT_RESOLUTION = 64

# Left, top, width, height in pixels of the image as it is stored, before any EXIF orientation.
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A record ready to append, and what the sidecar and the statistics need to know of it.

    `source_height` and `source_width` are of the image as it came, whole.
    """

    record: bytes
    image_offset: int
    image_bytes: int
    height: int
    width: int
    source_height: int
    source_width: int


class Encoder(Protocol):
    """`sums` are of the pixels of all images that it decoded."""

    sums: ChannelSums

    def encode(
        self,
        *,
        key: str,
        label: Label,
        image: bytes | ImageArray,
        box: Box | None = None,
        details: dict[str, Any] | None = None,
    ) -> Stored:
        """Return the record of one image, or of the part of it in `box`, or raise Rejected."""


def make_encoder(
    config: LayoutConfig, *, native_shape: tuple[int, int, int] | None, label_bytes: int | None = None
) -> Encoder:
    """Return the encoder of a layout.

    Args:
        native_shape: (height, width, channels) of the source's images, None where they differ.
        label_bytes: of the packed layout's `.json` member, None where an image has one label.
    """
    if isinstance(config, PackedLayoutConfig):
        layout = packed_layout(config, native_shape=native_shape, label_bytes=label_bytes)
        return PackedEncoder(config=config, layout=layout)
    if isinstance(config, EncodedLayoutConfig):
        return EncodedEncoder(config=config)
    raise TypeError(f"no encoder for {type(config).__name__}")


def packed_layout(
    config: PackedLayoutConfig, *, native_shape: tuple[int, int, int] | None, label_bytes: int | None = None
) -> PackedLayout:
    """Return the packed geometry: `resolution` if given, else the source's own shape, else 64 x 64 RGB."""
    height, width, channels = native_shape or (DEFAULT_RESOLUTION, DEFAULT_RESOLUTION, 3)
    if config.resolution is not None:
        height = width = config.resolution
    if config.channels is not Channels.source:
        channels = 3 if config.channels is Channels.rgb else 1
    return PackedLayout(height=height, width=width, channels=channels, label_bytes=label_bytes)


class PackedEncoder:
    """Decodes, resizes and packs: every record of one length."""

    def __init__(self, *, config: PackedLayoutConfig, layout: PackedLayout) -> None:
        self.config = config
        self.layout = layout
        self.sums = ChannelSums()

    def encode(
        self,
        *,
        key: str,
        label: Label,
        image: bytes | ImageArray,
        box: Box | None = None,
        details: dict[str, Any] | None = None,
    ) -> Stored:
        layout = self.layout
        shape = (layout.height, layout.width, layout.channels)
        if isinstance(image, bytes) or image.shape != shape or box is not None:
            with _rejecting():
                pixels, (source_width, source_height) = self._pixels(image, box)
        else:
            pixels, (source_height, source_width) = image, image.shape[:2]
        if self.config.pixel_shuffle_seed is not None:
            pixels = shuffle_pixels(pixels, seed=self.config.pixel_shuffle_seed)
        self.sums.add(pixels)
        return Stored(
            record=layout.pack(key=key, label=label, image_HWC=pixels),
            image_offset=layout.image_offset,
            image_bytes=layout.image_bytes,
            height=layout.height,
            width=layout.width,
            source_height=source_height,
            source_width=source_width,
        )

    def _pixels(self, image: bytes | ImageArray, box: Box | None) -> tuple[ImageArray, tuple[int, int]]:
        """Return the pixels to store, and (width, height) of the image as it came."""
        config, layout = self.config, self.layout
        picture, orientation = None, 1
        size = jpeg_size(image) if isinstance(image, bytes) else None
        is_plain_jpeg = size is not None
        if size is None or config.exif_orientation:
            picture = open_picture(image, config=config)
            size = picture.size
            orientation = exif_orientation(picture) if config.exif_orientation else 1
        check_num_pixels(size, config=config)
        region = box_inside(box, size)
        height, width = (layout.height, layout.width) if orientation < 5 else (layout.width, layout.height)
        fitted = fitted_box(region, height=height, width=width, fit=config.fit)
        eighths, pixels = 8, None
        if is_plain_jpeg and isinstance(image, bytes):
            eighths = dct_eighths(fitted, height=height, width=width, min_scale=config.min_scale)
            pixels = decode_jpeg(image, channels=layout.channels, eighths=eighths)
        if pixels is None:
            picture = to_mode(picture or open_picture(image, config=config), channels=layout.channels)
            eighths, pixels = 8, np.asarray(picture).reshape(size[1], size[0], layout.channels)
        factor = eighths / 8
        pixels = resize(pixels, height=height, width=width, region=scaled(region, factor), box=scaled(fitted, factor))
        return turn(pixels, orientation=orientation), size


class EncodedEncoder:
    """Keeps JPEG, PNG and WebP bytes as they are, but for CMYK, turned images and those over `resolution`.

    These are encoded again in their own format, and so are parts of images; images of other formats, and arrays,
    become PNG.
    """

    def __init__(self, *, config: EncodedLayoutConfig) -> None:
        self.config = config
        self.sums = ChannelSums()

    def encode(
        self,
        *,
        key: str,
        label: Label,
        image: bytes | ImageArray,
        box: Box | None = None,
        details: dict[str, Any] | None = None,
    ) -> Stored:
        size = self._unread_size(image, box) if isinstance(image, bytes) else None
        if isinstance(image, bytes) and size is not None:
            extension, source_size = "jpg", size
        else:
            with _rejecting():
                limit = self.config.resolution
                opened = open_picture(image, config=self.config)
                source_size = opened.size
                extension = KEPT_EXTENSIONS.get(opened.format or "", "")
                picture = cut_out(opened, box)
                picture = upright(picture) if self.config.exif_orientation else picture
                fits = limit is None or min(picture.size) <= limit
                if not (
                    isinstance(image, bytes) and extension and fits and picture is opened and opened.mode != "CMYK"
                ):
                    extension = extension or "png"
                    image, picture = reencode(picture, extension=extension, limit=limit)
                size = picture.size
                if self.config.decode_check:
                    self.sums.add(np.asarray(to_mode(picture, channels=3)))
        record = pack_encoded(key=key, label=label, image=image, extension=extension, details=details)
        return Stored(
            record=record,
            image_offset=len(record) - padded_bytes(len(image)),
            image_bytes=len(image),
            height=size[1],
            width=size[0],
            source_height=source_size[1],
            source_width=source_size[0],
        )

    def _unread_size(self, image: bytes, box: Box | None) -> tuple[int, int] | None:
        """Return (width, height) of a JPEG that is kept with no look at it, None where Pillow has to look."""
        config = self.config
        if config.decode_check or config.exif_orientation or box is not None:
            return None
        size = jpeg_size(image)
        if size is None or (config.resolution is not None and min(size) > config.resolution):
            return None
        check_num_pixels(size, config=config)
        return size


def image_size(image: bytes, *, config: LayoutConfig) -> tuple[int, int]:
    """Return an image file's (width, height) in pixels from its header. Raises Rejected where it has none."""
    with _rejecting():
        return open_picture(image, config=config).size


def check_decodable(image: bytes, *, config: LayoutConfig) -> tuple[int, int]:
    """Decode an image file whole and return its (width, height) in pixels. Raises Rejected where that fails."""
    with _rejecting():
        picture = open_picture(image, config=config)
        picture.load()
        return picture.size


@contextmanager
def _rejecting() -> Iterator[None]:
    """Turn whatever Pillow raises into Rejected, and keep its warnings quiet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Rejected:
        raise
    except UnidentifiedImageError:
        raise Rejected("not a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM image") from None
    except Exception as error:  # its decoders raise almost anything on broken input
        raise Rejected(f"cannot be decoded: {' '.join(str(error).split())}") from None


def open_picture(image: bytes | ImageArray, *, config: LayoutConfig) -> Image.Image:
    """Open an image, reading its header alone; one over `max_pixels` is Rejected, any other fault is Pillow's own."""
    if not isinstance(image, bytes):
        return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    if not image:
        raise Rejected("empty file")
    picture: Image.Image = Image.open(io.BytesIO(image), formats=FORMATS)
    check_num_pixels(picture.size, config=config)
    return picture


def check_num_pixels(size: tuple[int, int], *, config: LayoutConfig) -> None:
    """Reject an image of more than `max_pixels`; size is its (width, height)."""
    width, height = size
    if width * height > config.max_pixels:
        raise Rejected(f"{width}x{height} pixels is over layout.max_pixels={config.max_pixels}")


def box_inside(box: Box | None, size: tuple[int, int]) -> Box:
    """Return a box, or for None the whole image of (width, height); a box that leaves the image is Rejected."""
    if box is None:
        return 0, 0, *size
    left, top, width, height = box
    if left < 0 or top < 0 or width < 1 or height < 1 or left + width > size[0] or top + height > size[1]:
        raise Rejected(f"box {left},{top} of {width}x{height} is not inside {size[0]}x{size[1]} pixels")
    return box


def cut_out(picture: Image.Image, box: Box | None) -> Image.Image:
    """Return the part of a picture in `box`, or the picture itself for None; a box that leaves it is Rejected."""
    left, top, width, height = box_inside(box, picture.size)
    if box is None:
        return picture
    exif = picture.getexif()
    part = picture.crop((left, top, left + width, top + height))
    part.getexif().update(exif)
    return part


def exif_orientation(picture: Image.Image) -> int:
    """Return a picture's EXIF orientation; 1, upright, where it has none of 2 to 8."""
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return int(orientation) if orientation in range(2, 9) else 1


def upright(picture: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF tag says; one that stands right already is returned itself."""
    if exif_orientation(picture) == 1:
        return picture
    turned: Image.Image = ImageOps.exif_transpose(picture)
    return turned


def to_mode(picture: Image.Image, *, channels: int) -> Image.Image:
    """Convert to RGB or grey, 8 bits: CMYK, palettes and 16 bits included; what is transparent shows its own colour."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        scaled: Any = np.asarray(picture).astype(np.uint32) / 257.0
        picture = Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
    mode = "RGB" if channels == 3 else "L"
    return picture if picture.mode == mode else picture.convert(mode)


def reencode(picture: Image.Image, *, extension: str, limit: int | None) -> tuple[bytes, Image.Image]:
    """Return the bytes of `picture` at a shortest side of at most `limit`, and the picture that they hold."""
    picture = picture if picture.mode in ("L", "RGB") else to_mode(picture, channels=3)
    if limit is not None and min(picture.size) > limit:
        scale = limit / min(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    # Pixels alone travel: a CMYK colour profile on RGB pixels would mislead.
    picture.info.clear()
    stream = io.BytesIO()
    picture.save(stream, format={"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[extension], quality=90)
    content = stream.getvalue()
    return content, Image.open(io.BytesIO(content))
