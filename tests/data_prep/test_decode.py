"""JPEGs at a DCT scale, and the resize; Pillow's decoder, its draft mode and its Lanczos filter are the oracles."""

from __future__ import annotations

import io
import math
import tarfile
import warnings
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
import simplejpeg
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data_prep import decode
from data_prep.config import Channels, Fit, PackedLayoutConfig
from data_prep.decode import (
    Region,
    dct_eighths,
    decode_jpeg,
    fitted_box,
    jpeg_size,
    library_versions,
    resize,
    turn,
)
from data_prep.encode import Box, PackedEncoder, Rejected, make_encoder
from pipeline.shards.record import PackedLayout
from tiny_data import ROOT, Pixels, random_pixels

SAMPLES = ROOT.parent / "shared" / "data" / "imagenet-jpegs" / "imagenet_1k_samples.tar"
ORIENTATION = 0x0112


def photo(*, width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a picture with large and small detail, as a photograph has."""
    picture = Image.new("RGB", (width, height))
    for size, weight in ((4, 1.0), (16, 0.5), (61, 0.25), (230, 0.12)):
        detail = Image.fromarray(random_pixels(seed + size, height=size, width=size))
        detail = detail.resize((width, height), Image.Resampling.BICUBIC)
        picture = Image.blend(picture, detail, weight)
    return picture


def jpeg(picture: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **({"quality": 90} | options))
    return stream.getvalue()


def opened(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image))


def pixels_of(picture: Image.Image, channels: int = 3) -> Pixels:
    pixels = np.asarray(picture.convert("RGB" if channels == 3 else "L"))
    return pixels.reshape(picture.height, picture.width, channels)


def psnr(found: Pixels, expected: Pixels) -> float:
    error = float(np.mean((found.astype(float) - expected.astype(float)) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def packed(image: bytes, *, size: tuple[int, int], box: Box | None = None, **options: object) -> Pixels:
    """Return the stored pixels of an image at (height, width)."""
    layout = PackedLayout(height=size[0], width=size[1], channels=3)
    config = PackedLayoutConfig(channels=Channels.rgb, **options)  # type: ignore[arg-type]
    record = PackedEncoder(config=config, layout=layout).encode(key="a", label=0, image=image, box=box).record
    return np.frombuffer(record, np.uint8, layout.pixel_bytes, layout.pixel_offset).reshape(*size, 3)


def shrunk(picture: Image.Image, *, size: tuple[int, int]) -> Pixels:
    """Return the centre of a picture, decoded whole, at (height, width) by Pillow."""
    return np.asarray(ImageOps.fit(picture.convert("RGB"), size[::-1], Image.Resampling.LANCZOS))


PHOTO = photo(width=203, height=157)
KINDS = {
    "4:4:4": jpeg(PHOTO, subsampling="4:4:4"),
    "4:2:2": jpeg(PHOTO, subsampling="4:2:2"),
    "4:2:0": jpeg(PHOTO, subsampling="4:2:0"),
    "4:4:0": simplejpeg.encode_jpeg(np.asarray(PHOTO), colorsubsampling="440"),
    "4:1:1": simplejpeg.encode_jpeg(np.asarray(PHOTO), colorsubsampling="411"),
    "progressive": jpeg(PHOTO, progressive=True),
    "restart markers": jpeg(PHOTO, restart_marker_blocks=3),
    "RGB inside": jpeg(PHOTO, keep_rgb=True),
    "grey": jpeg(PHOTO.convert("L")),
    "grey, progressive": jpeg(PHOTO.convert("L"), progressive=True),
    "of low quality": jpeg(PHOTO, quality=5),
    "one pixel": jpeg(PHOTO.resize((1, 1))),
    "a line": jpeg(PHOTO.resize((203, 1))),
}


@pytest.mark.parametrize("image", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("channels", [1, 3])
def test_a_whole_jpeg_is_decoded_as_pillow_does(image: bytes, channels: int) -> None:
    picture = opened(image)
    assert jpeg_size(image) == picture.size
    found = decode_jpeg(image, channels=channels, eighths=8)
    assert found is not None
    if channels == 1 and picture.mode == "RGB":
        picture.draft("L", picture.size)  # luma as it is stored, not computed from red, green and blue
    assert np.abs(found.astype(int) - pixels_of(picture, channels)).max() <= (channels == 1)
    assert channels == 1 or np.array_equal(found, pixels_of(picture))


def test_sampling_factors_that_no_scheme_has_are_decoded_all_the_same() -> None:
    """Luma 2x2, blue 1x2, red 2x1. A block without content is 001010 (luma) or 0000 (chroma) in the standard tables."""
    content = bytearray(jpeg(Image.new("RGB", (8, 8), (128, 128, 128)), subsampling="4:4:4"))
    frame, scan = content.index(b"\xff\xc0"), content.index(b"\xff\xda")
    content[frame + 11], content[frame + 14], content[frame + 17] = 0x22, 0x12, 0x21
    start = scan + 2 + int.from_bytes(content[scan + 2 : scan + 4], "big")
    image = bytes(content[:start]) + int("001010" * 4 + "0000" * 4, 2).to_bytes(5, "big") + b"\xff\xd9"
    assert np.array_equal(pixels_of(opened(image)), np.full((8, 8, 3), 128))
    assert np.array_equal(packed(image, size=(4, 4)), np.full((4, 4, 3), 128))


@pytest.mark.parametrize("eighths", [1, 2, 4])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "pixel" not in kind and "line" not in kind])
def test_a_scaled_jpeg_is_decoded_as_pillows_draft_mode_does(kind: str, eighths: int) -> None:
    picture = opened(KINDS[kind])
    width, height = (-(-side * eighths // 8) for side in picture.size)
    picture.draft(None, (picture.width * eighths // 8, picture.height * eighths // 8))
    assert picture.size == (width, height)
    found = decode_jpeg(KINDS[kind], channels=3, eighths=eighths)
    assert found is not None
    assert np.array_equal(found, pixels_of(picture))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (9, 7), (64, 64), (224, 224)])
def test_every_kind_of_jpeg_is_stored_nearly_as_pillow_shrinks_it_whole(kind: str, size: tuple[int, int]) -> None:
    expected = shrunk(opened(KINDS[kind]), size=size)
    assert psnr(packed(KINDS[kind], size=size, min_scale=None), expected) > 40
    # At 1/8 the colours of 4:1:1, a quarter as many across, are no finer than those of four blocks at once.
    assert psnr(packed(KINDS[kind], size=size), expected) > (36 if kind != "4:1:1" else 28)


def inverted_cmyk() -> bytes:
    image = jpeg(PHOTO.convert("CMYK"))
    assert b"Adobe" in image[:40]
    return image


def ycck() -> bytes:
    """Return a CMYK JPEG whose Adobe marker says that it is YCCK."""
    image = bytearray(inverted_cmyk())
    image[image.index(b"Adobe") + 11] = 2
    return bytes(image)


LEFT_TO_PILLOW = {
    "CMYK": inverted_cmyk(),
    "YCCK": ycck(),
    "a PNG, whatever its name": (lambda stream: (PHOTO.save(stream, "PNG"), stream.getvalue())[1])(io.BytesIO()),
    "bytes between the segments": KINDS["4:2:0"].replace(b"\xff\xda", b"\0\0\xff\xda", 1),
}


@pytest.mark.parametrize("image", LEFT_TO_PILLOW.values(), ids=LEFT_TO_PILLOW.keys())
def test_what_is_no_plain_jpeg_is_left_to_pillow(image: bytes) -> None:
    assert jpeg_size(image) is None or decode_jpeg(image, channels=3, eighths=8) is None
    assert np.array_equal(packed(image, size=(157, 203)), pixels_of(opened(image)))
    assert psnr(packed(image, size=(20, 20)), shrunk(opened(image), size=(20, 20))) > 40


def test_a_broken_exif_block_does_not_matter() -> None:
    image = jpeg(PHOTO, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(range(200)))
    assert np.array_equal(packed(image, size=(157, 203)), pixels_of(opened(KINDS["4:2:0"])))
    assert np.array_equal(packed(image, size=(157, 203), exif_orientation=True), pixels_of(opened(KINDS["4:2:0"])))


@given(cut=st.integers(0, len(KINDS["4:2:0"]) - 1))
@example(cut=len(KINDS["4:2:0"]) - 1)
@example(cut=len(KINDS["4:2:0"]) - 2)
def test_a_truncated_jpeg_is_rejected_where_pillow_refuses_it(cut: int) -> None:
    check_same_verdict(KINDS["4:2:0"][:cut])


@given(
    image=st.sampled_from([KINDS["4:2:0"], KINDS["progressive"], KINDS["grey"], KINDS["restart markers"]]),
    place=st.floats(0, 1, exclude_max=True),
    piece=st.binary(min_size=1, max_size=4),
    is_insertion=st.booleans(),
)
def test_a_changed_jpeg_is_rejected_where_pillow_refuses_it(
    image: bytes, place: float, piece: bytes, is_insertion: bool
) -> None:
    at = int(place * len(image))
    check_same_verdict(image[:at] + piece + image[at + (0 if is_insertion else len(piece)) :])


def check_same_verdict(image: bytes) -> None:
    accepted, expected = False, False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(Exception):
            picture = opened(image)
            picture.load()
            expected = picture.width * picture.height <= PackedLayoutConfig().max_pixels
    with suppress(Rejected):
        packed(image, size=(8, 8))
        accepted = True
    assert accepted == expected


def test_a_bomb_is_refused_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    image = bytearray(KINDS["4:2:0"])
    frame = image.index(b"\xff\xc0")
    image[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500 pixels
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    with pytest.raises(Rejected, match=r"65500x65500 pixels is over layout\.max_pixels"):
        packed(bytes(image), size=(8, 8))


@pytest.mark.slow
def test_sixty_megapixels_are_decoded_at_an_eighth() -> None:
    image = jpeg(photo(width=10_000, height=6_000))
    decoded = decode_jpeg(image, channels=3, eighths=1)
    assert decoded is not None
    assert decoded.shape == (750, 1_250, 3)
    assert psnr(packed(image, size=(64, 64)), shrunk(opened(image), size=(64, 64))) > 45


@pytest.mark.parametrize("min_scale", [None, 1.0, 2.0, 3.5])
def test_the_dct_scale_is_the_smallest_that_leaves_enough(min_scale: float | None) -> None:
    for width in range(1, 600, 7):
        enough = [e for e in (1, 2, 4, 8) if min_scale is not None and width * e / 8 >= min_scale * 64]
        expected = min(enough, default=8)
        for box in ((3.0, 5.0, width, 600.0), (0.0, 0.0, 600.0, width)):
            assert dct_eighths(box, height=64, width=64, min_scale=min_scale) == expected


def test_min_scale_trades_fidelity_for_work() -> None:
    image = jpeg(photo(width=620, height=520))
    expected = shrunk(opened(image), size=(64, 64))
    fidelity = [psnr(packed(image, size=(64, 64), min_scale=scale), expected) for scale in (1.0, 2.0, None)]
    assert fidelity[0] + 3 < fidelity[1] < fidelity[2]


@pytest.mark.parametrize("value", [0.5, -1.0, float("nan")])
def test_a_min_scale_below_one_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"layout\.min_scale=.*at least 1 wanted"):
        PackedLayoutConfig(min_scale=value)


SIDES = st.integers(1, 3_000)


@given(width=SIDES, height=SIDES, target_width=st.integers(1, 300), target_height=st.integers(1, 300))
def test_the_fitted_box_is_the_largest_of_the_targets_shape_in_the_centre(
    width: int, height: int, target_width: int, target_height: int
) -> None:
    region = (7.0, 11.0, float(width), float(height))
    left, top, box_width, box_height = fitted_box(region, height=target_height, width=target_width, fit=Fit.crop)
    assert box_width / box_height == pytest.approx(target_width / target_height)
    assert box_width == pytest.approx(width) or box_height == pytest.approx(height)
    assert box_width <= width
    assert box_height <= height
    assert (left + box_width / 2, top + box_height / 2) == pytest.approx((7 + width / 2, 11 + height / 2))
    assert fitted_box(region, height=target_height, width=target_width, fit=Fit.stretch) == region


@pytest.fixture(params=["vector code", "Pillow"])
def resizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways to resize, of which a machine has the first where cykooz-resizer is installed."""
    if request.param == "Pillow":
        monkeypatch.setattr(decode, "simd", None)
    elif decode.simd is None:
        pytest.skip("cykooz-resizer is not installed")
    return str(request.param)


def whole(pixels: Pixels) -> Region:
    return 0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0])


@given(
    width=st.integers(1, 400), height=st.integers(1, 400), target=st.integers(1, 230), factor=st.sampled_from([1, 3])
)
@example(width=116, height=333, target=224, factor=1)  # a box that began before 0 by rounding
def test_no_size_fails_and_one_colour_stays_one_colour(width: int, height: int, target: int, factor: int) -> None:
    pixels = np.full((-(-height // factor), -(-width // factor), 1), 200, dtype=np.uint8)
    region = (0.0, 0.0, width / factor, height / factor)
    box = fitted_box(region, height=target, width=target, fit=Fit.crop)
    found = resize(pixels, height=target, width=target, region=region, box=box)
    assert np.array_equal(found, np.full((target, target, 1), 200))


@pytest.mark.parametrize("box", [(0.0, 0.0, 203.0, 157.0), (20.5, 7.25, 100.75, 101.0), (0.0, 100.0, 57.0, 57.0)])
@pytest.mark.parametrize("size", [(16, 16), (40, 30), (150, 200), (300, 310)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_resize_is_pillows_lanczos(resizer: str, box: Region, size: tuple[int, int], channels: int) -> None:
    picture = PHOTO if channels == 3 else PHOTO.convert("L")
    corners = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    expected = np.asarray(picture.resize(size[::-1], Image.Resampling.LANCZOS, box=corners)).reshape(*size, channels)
    pixels = np.asarray(picture).reshape(157, 203, channels)
    found = resize(pixels, height=size[0], width=size[1], region=whole(pixels), box=box)
    if resizer == "Pillow":
        assert np.array_equal(found, expected)
    else:  # it rounds between the two passes too, but takes them in the other order
        assert np.abs(found.astype(int) - expected).max() <= 3
        assert psnr(found, expected) > 50


def test_what_lies_outside_the_region_has_no_part(resizer: str) -> None:
    pixels = np.zeros((50, 60, 3), dtype=np.uint8)
    pixels[10:30, 20:50] = 255
    region = (20.0, 10.0, 30.0, 20.0)
    found = resize(pixels, height=8, width=8, region=region, box=region)
    assert found.min() == 255


def test_a_box_of_the_targets_size_is_cut_out_as_it_is(resizer: str) -> None:
    pixels = random_pixels(5, height=50, width=60)
    box = (20.0, 10.0, 30.0, 20.0)
    found = resize(pixels, height=20, width=30, region=whole(pixels), box=box)
    assert np.array_equal(found, pixels[10:30, 20:50])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_as_pillow_turns_them(orientation: int) -> None:
    picture = Image.fromarray(random_pixels(1, height=5, width=9))
    picture.getexif()[ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(picture))
    assert np.array_equal(turn(random_pixels(1, height=5, width=9), orientation=orientation), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("box", [None, (40, 100, 400, 250)])
def test_a_turned_jpeg_and_a_part_of_one_are_fitted_upright(orientation: int, box: Box | None) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = jpeg(photo(width=700, height=500), exif=exif)
    with opened(image) as picture:
        left, top, width, height = box or (0, 0, *picture.size)
        part = picture.crop((left, top, left + width, top + height))
        part.getexif()[ORIENTATION] = orientation
        expected = shrunk(ImageOps.exif_transpose(part), size=(48, 64))
    assert psnr(packed(image, size=(48, 64), exif_orientation=True, box=box), expected) > 40


@pytest.mark.parametrize("resolution", [64, 224])
def test_real_photographs_keep_their_fidelity(resolution: int) -> None:
    if not SAMPLES.exists():
        pytest.skip(f"no {SAMPLES.name} in shared data")
    fidelity = []
    with tarfile.open(SAMPLES) as archive:
        for member in (member for member, _ in zip(archive, range(42), strict=False) if member.name.endswith(".JPEG")):
            stream = archive.extractfile(member)
            assert stream is not None
            image = stream.read()
            expected = shrunk(opened(image), size=(resolution, resolution))
            fidelity.append(psnr(packed(image, size=(resolution, resolution)), expected))
    assert len(fidelity) == 40
    assert np.mean(fidelity) > 48
    assert min(fidelity) > 40


def test_the_plan_names_what_decides_pixels(resizer: str) -> None:
    assert set(library_versions()) == {"pillow", "simplejpeg", "resize"}
    assert library_versions()["resize"].startswith("pillow" if resizer == "Pillow" else "cykooz-resizer")


def test_grey_images_in_colour_and_colour_images_in_grey() -> None:
    grey = KINDS["grey"]
    encoder = make_encoder(PackedLayoutConfig(channels=Channels.grey, resolution=20), native_shape=None)
    encoder.encode(key="a", label=0, image=KINDS["4:2:0"])
    assert encoder.sums.num_pixels == 400
    colour = packed(grey, size=(20, 20))
    assert np.array_equal(colour[:, :, 0], colour[:, :, 2])
