"""Images of every kind into records; Pillow's own conversions and numpy are the oracles."""

from __future__ import annotations

import io
import tarfile
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_prep.config import Channels, EncodedLayoutConfig, Fit, LayoutConfig, PackedLayoutConfig
from data_prep.encode import EncodedEncoder, PackedEncoder, Rejected, make_encoder, packed_layout
from pipeline.shards.record import END_OF_ARCHIVE, PackedLayout
from tiny_data import Pixels, random_pixels

ORIENTATION = 0x0112


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format=kind, **options)
    return stream.getvalue()


def noise(*, height: int = 6, width: int = 8, mode: str = "RGB", seed: int = 0) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = random_pixels(seed, height=height, width=width, channels=bands)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def packed_pixels(
    image: bytes | Pixels, *, channels: int = 3, size: tuple[int, int] = (6, 8), **options: Any
) -> Pixels:
    layout = PackedLayout(height=size[0], width=size[1], channels=channels)
    stored = PackedEncoder(config=PackedLayoutConfig(**options), layout=layout).encode(key="a", label=0, image=image)
    pixels = np.frombuffer(stored.record, dtype=np.uint8, offset=layout.pixel_offset, count=layout.pixel_bytes)
    return pixels.reshape(*size, channels)


def encoded_member(image: bytes | Pixels, **options: Any) -> tuple[str, bytes]:
    """Return the extension and the bytes of the image as Python's tar reader finds them."""
    stored = EncodedEncoder(config=EncodedLayoutConfig(**options)).encode(key="a", label=0, image=image)
    with tarfile.open(fileobj=io.BytesIO(stored.record + END_OF_ARCHIVE)) as archive:
        member = archive.getmembers()[1]
        content = stored.record[stored.image_offset : stored.image_offset + stored.image_bytes]
        found = archive.extractfile(member)
        assert found is not None
        assert found.read() == content
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (stored.width, stored.height)
    return member.name.split(".")[1], content


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_converted_as_pillow_does(mode: str, channels: int) -> None:
    picture = noise(mode=mode) if mode not in ("1", "P") else noise().convert(mode)
    kind = "TIFF" if mode in ("CMYK", "YCbCr", "HSV") else "PNG"
    if mode == "HSV":
        picture, kind = picture.convert("RGB"), "BMP"
    expected = np.asarray(picture.convert("RGB" if channels == 3 else "L")).reshape(6, 8, channels)
    assert np.array_equal(packed_pixels(saved(picture, kind), channels=channels), expected)


def test_a_palette_with_transparency_is_quietly_converted() -> None:
    picture = noise().convert("P")
    image = saved(picture, "PNG", transparency=bytes(range(256)))
    assert np.array_equal(packed_pixels(image), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("value", [0, 128, 257, 32_896, 65_535])
def test_sixteen_bits_are_scaled_to_eight(value: int) -> None:
    image = saved(Image.fromarray(np.full((6, 8), value, dtype=np.uint16)), "PNG")
    assert packed_pixels(image, channels=1).tolist() == np.full((6, 8, 1), round(value / 257)).tolist()
    assert packed_pixels(image, channels=3).tolist() == np.full((6, 8, 3), round(value / 257)).tolist()


@pytest.mark.parametrize("fit", list(Fit))
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (6, 8), (3, 4), (60, 80)])
def test_any_shape_fits(fit: Fit, size: tuple[int, int]) -> None:
    pixels = packed_pixels(saved(Image.new("RGB", size[::-1], (10, 200, 30)), "PNG"), fit=fit)
    assert np.array_equal(pixels, np.full((6, 8, 3), (10, 200, 30)))


def test_crop_keeps_the_centre_and_stretch_keeps_all() -> None:
    wide = np.zeros((4, 12, 3), dtype=np.uint8)
    wide[:, :4], wide[:, 8:] = 255, 255
    image = saved(Image.fromarray(wide), "PNG")
    assert packed_pixels(image, size=(4, 4)).max() == 0
    assert packed_pixels(image, size=(4, 4), fit=Fit.stretch).max() == 255


def test_pixels_of_the_right_shape_are_stored_as_they_are() -> None:
    pixels = random_pixels(3, height=6, width=8)
    assert np.array_equal(packed_pixels(pixels), pixels)
    assert np.array_equal(packed_pixels(saved(Image.fromarray(pixels), "PNG")), pixels)


def turned(orientation: int) -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return noise(height=8, width=8), exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_an_option(orientation: int) -> None:
    picture, exif = turned(orientation)
    image = saved(picture, "PNG", exif=exif)
    ways = [None, None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE"]
    way = [*ways, "ROTATE_90"][orientation]
    upright = picture if way is None else picture.transpose(Image.Transpose[way])
    assert np.array_equal(packed_pixels(image, size=(8, 8)), np.asarray(picture))
    assert np.array_equal(packed_pixels(image, size=(8, 8), exif_orientation=True), np.asarray(upright))


@pytest.mark.parametrize("decode_check", [True, False])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_turned_image_is_encoded_again_in_its_own_format_and_others_are_kept(
    orientation: int, decode_check: bool
) -> None:
    picture, exif = turned(orientation)
    image = saved(picture.resize((8, 4)), "JPEG", exif=exif)
    assert encoded_member(image) == ("jpg", image)
    extension, content = encoded_member(image, exif_orientation=True, decode_check=decode_check)
    assert extension == "jpg"
    assert (content == image) is (orientation == 1)
    with Image.open(io.BytesIO(content)) as found:
        assert found.size == ((8, 4) if orientation == 1 else (4, 8))
        assert found.getexif().get(ORIENTATION, 1) == 1


@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_encoded_images_pass_through(kind: str, extension: str, mode: str) -> None:
    image = saved(noise(mode=mode), kind)
    assert encoded_member(image) == (extension, image)
    assert encoded_member(image, decode_check=False) == (extension, image)
    assert encoded_member(image, resolution=6) == (extension, image)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "PPM"])
def test_other_formats_become_png_without_loss(kind: str) -> None:
    picture = noise().convert("P").convert("RGB") if kind == "GIF" else noise()
    image = saved(picture, kind)
    extension, content = encoded_member(image)
    assert extension == "png"
    with Image.open(io.BytesIO(content)) as found, Image.open(io.BytesIO(image)) as opened:
        assert np.array_equal(np.asarray(found.convert("RGB")), np.asarray(opened.convert("RGB")))


def test_arrays_become_png_without_loss() -> None:
    for channels in (1, 3):
        pixels = random_pixels(1, height=5, width=7, channels=channels)
        extension, content = encoded_member(pixels)
        assert extension == "png"
        with Image.open(io.BytesIO(content)) as found:
            assert np.array_equal(np.asarray(found).reshape(pixels.shape), pixels)


def test_cmyk_is_repaired_and_leaves_its_colour_profile_behind() -> None:
    image = saved(Image.new("CMYK", (9, 7), (0, 255, 255, 0)), "JPEG", icc_profile=b"a profile for ink")
    extension, content = encoded_member(image)
    with Image.open(io.BytesIO(content)) as found:
        assert (extension, found.mode, found.info.get("icc_profile")) == ("jpg", "RGB", None)
        assert np.abs(np.asarray(found).astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("BMP", "png")])
def test_images_over_the_resolution_are_made_smaller(kind: str, extension: str) -> None:
    found = encoded_member(saved(noise(height=40, width=60), kind), resolution=10)
    assert found[0] == extension
    with Image.open(io.BytesIO(found[1])) as picture:
        assert picture.size == (15, 10)


GOOD_JPEG = saved(noise(height=64, width=64), "JPEG")
GOOD_PNG = saved(noise(height=64, width=64), "PNG")
BAD = {
    "empty": (b"", "empty file"),
    "text": (b"no image at all", "not a JPEG"),
    "a JPEG cut short": (GOOD_JPEG[: len(GOOD_JPEG) // 2], "cannot be decoded: image file is truncated"),
    "a PNG cut short": (GOOD_PNG[: len(GOOD_PNG) // 2], "cannot be decoded"),
    "a PNG with a damaged chunk": (GOOD_PNG[:60] + b"\0\0" + GOOD_PNG[62:], "cannot be decoded"),
    "a header alone": (GOOD_JPEG[:30], ""),
    "a vector drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a JPEG"),
    "too many pixels": (
        saved(Image.new("1", (2000, 2000)), "PNG"),
        "2000x2000 pixels is over layout.max_pixels=1000000",
    ),
    "a bomb by its header": (
        saved(Image.new("1", (8, 8)), "PNG").replace(b"\0\0\0\x08\0\0\0\x08", b"\0\1\0\0\0\1\0\0"),
        "",
    ),
}


@pytest.mark.parametrize(("image", "reason"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("config", [PackedLayoutConfig(max_pixels=10**6), EncodedLayoutConfig(max_pixels=10**6)])
def test_bad_images_are_rejected_with_the_reason_in_one_line(image: bytes, reason: str, config: LayoutConfig) -> None:
    with pytest.raises(Rejected) as told:
        make_encoder(config, native_shape=None).encode(key="a", label=0, image=image)
    assert reason in str(told.value)
    assert "\n" not in str(told.value)


@given(st.integers(0, len(GOOD_JPEG) - 1), st.binary(min_size=1, max_size=20), st.sampled_from([GOOD_JPEG, GOOD_PNG]))
def test_changed_images_are_encoded_or_rejected(place: int, piece: bytes, image: bytes) -> None:
    changed = image[:place] + piece + image[place + len(piece) :]
    for config in (PackedLayoutConfig(exif_orientation=True), EncodedLayoutConfig(exif_orientation=True)):
        with suppress(Rejected):
            make_encoder(config, native_shape=None).encode(key="a", label=0, image=changed)


@pytest.mark.parametrize(
    ("options", "native_shape", "expected"),
    [
        ({}, None, (64, 64, 3)),
        ({}, (28, 30, 1), (28, 30, 1)),
        ({"resolution": 5}, (28, 30, 1), (5, 5, 1)),
        ({"channels": Channels.rgb}, (28, 30, 1), (28, 30, 3)),
        ({"channels": Channels.grey}, None, (64, 64, 1)),
    ],
)
def test_the_packed_shape_follows_from_option_and_source(
    options: dict[str, Any], native_shape: tuple[int, int, int] | None, expected: tuple[int, int, int]
) -> None:
    layout = packed_layout(PackedLayoutConfig(**options), native_shape=native_shape)
    assert (layout.height, layout.width, layout.channels) == expected
