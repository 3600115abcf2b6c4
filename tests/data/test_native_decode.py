"""Decoded views against Pillow's whole decode, crop and resize."""

from __future__ import annotations

import ctypes
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import native
from pipeline.data.crop import CentreCrop, RandomCrop, Views
from pipeline.data.decode import JOB, Decoder, make_jobs
from tiny_data import random_pixels

NATIVE_FOLDER = Path(native.__file__).parent
# Native code never differs from Pillow by more than 1; cykooz-resizer rounds twice.
MOST_ROUNDED = 2
SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


@pytest.fixture(params=["native", "fallback"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    """Each way of decoding, of which the second is everyone's that has no compiler."""
    monkeypatch.setenv("TARMAC_NATIVE", "0" if request.param == "fallback" else "")
    found = Decoder(threads=2)
    if request.param == "native" and found.absence:
        pytest.skip(found.absence)
    yield found
    found.close()


def smooth_picture(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    coarse = Image.fromarray(random_pixels(seed, height=9, width=9))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def saved(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def jobs_of(images: list[bytes], views: Views, sizes: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Lay images one behind the other and return their bytes and jobs; sizes are (height, width)."""
    lengths = np.array([len(image) for image in images])
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    heights, widths = np.array(sizes).T
    content = np.frombuffer(b"".join(images), dtype=np.uint8)
    return content, make_jobs(views, offsets=offsets, sizes_bytes=lengths, heights_B=heights, widths_B=widths)


def decode(decoder: Decoder, images: list[bytes], views: Views, sizes, *, size=(17, 23)):
    content, jobs = jobs_of(images, views, sizes)
    out = np.zeros((len(images), *size, 3), dtype=np.uint8)
    return out, decoder.decode(content, jobs, out=out)


def by_pillow(image: bytes, region: np.ndarray, box: np.ndarray, flip: bool, *, size=(17, 23)) -> np.ndarray:
    """Decode the whole, convert, cut the region out, resize the box."""
    left, top, width, height = map(int, region)
    picture = Image.open(io.BytesIO(image)).convert("RGB").crop((left, top, left + width, top + height))
    corners = (box[0] - left, box[1] - top, min(box[0] - left + box[2], width), min(box[1] - top + box[3], height))
    pixels = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR, box=corners)).astype(int)
    return pixels[:, ::-1] if flip else pixels


def assert_as_pillow(out: np.ndarray, images: list[bytes], views: Views, *, most: int = MOST_ROUNDED) -> None:
    for index, image in enumerate(images):
        wanted = by_pillow(image, views.regions[index], views.boxes[index], views.flips[index])
        assert np.abs(out[index] - wanted).max() <= most, index


def views_of(sizes: list[tuple[int, int]], *, epoch: int, crop=None, size=(17, 23)) -> Views:
    heights, widths = np.array(sizes).T
    crop = crop or RandomCrop(seed=1)
    return crop.views(np.arange(len(sizes)), epoch=epoch, heights_B=heights, widths_B=widths, size=size)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_crops_of_any_jpeg_are_those_of_its_whole_decode(
    decoder: Decoder, subsampling: str, progressive: bool, mode: str
) -> None:
    rng = np.random.default_rng(3)
    sizes = [(int(height), int(width)) for height, width in rng.integers(1, 140, size=(60, 2))]
    images = [
        saved(
            smooth_picture(number, width, height, mode),
            subsampling=SUBSAMPLINGS[subsampling],
            progressive=progressive,
            restart_marker_blocks=3 * (number % 2),
            quality=60 + number % 40,
        )
        for number, (height, width) in enumerate(sizes)
    ]
    for crop in (RandomCrop(seed=1), CentreCrop(), CentreCrop(frac=1.0)):
        views = views_of(sizes, epoch=0, crop=crop)
        out, failures = decode(decoder, images, views, sizes)
        assert failures == {}
        assert_as_pillow(out, images, views, most=MOST_ROUNDED if decoder.absence else 1)


def test_native_code_takes_every_plain_jpeg_itself() -> None:
    decoder = Decoder(threads=1)
    if decoder.absence:
        pytest.skip(decoder.absence)
    sizes = [(33, 50)] * 12
    images = [
        saved(smooth_picture(i, 50, 33, "L" if i % 5 == 0 else "RGB"), subsampling=i % 3, progressive=i % 2 == 1)
        for i in range(12)
    ]
    content, jobs = jobs_of(images, views_of(sizes, epoch=0), sizes)
    decoder.decode(content, jobs, out=np.zeros((12, 17, 23, 3), dtype=np.uint8))
    assert jobs["result"].tolist() == [0] * 12


def test_a_flip_is_the_mirrored_image_to_the_bit(decoder: Decoder) -> None:
    sizes = [(60, 70)] * 8
    images = [saved(smooth_picture(number, 70, 60)) for number in range(8)]
    views = views_of(sizes, epoch=0)
    plain, _ = decode(
        decoder, images, Views(boxes=views.boxes, regions=views.regions, flips=views.flips & False), sizes
    )
    flipped, _ = decode(
        decoder, images, Views(boxes=views.boxes, regions=views.regions, flips=views.flips | True), sizes
    )
    assert np.array_equal(flipped, plain[:, :, ::-1])


@pytest.mark.parametrize("size", [(1, 1), (224, 224), (96, 5)])
def test_outputs_of_any_size_smaller_and_larger_than_the_crop(decoder: Decoder, size: tuple[int, int]) -> None:
    sizes = [(60, 170), (300, 200), (1, 1), (2, 900)]
    images = [saved(smooth_picture(number, width, height)) for number, (height, width) in enumerate(sizes)]
    for crop in (RandomCrop(seed=5), CentreCrop()):
        views = views_of(sizes, epoch=0, crop=crop, size=size)
        out, failures = decode(decoder, images, views, sizes, size=size)
        assert failures == {}
        for index, image in enumerate(images):
            wanted = by_pillow(image, views.regions[index], views.boxes[index], views.flips[index], size=size)
            assert np.abs(out[index] - wanted).max() <= MOST_ROUNDED, index


def odd_images() -> dict[str, bytes]:
    picture = smooth_picture(1, 50, 40)
    faded = picture.copy()
    faded.putalpha(128)
    palette = picture.quantize(16)
    palette.info["transparency"] = bytes(range(16))
    grey = smooth_picture(2, 50, 40, "L")
    wide_grey = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return {
        "cmyk": saved(picture.convert("CMYK")),
        "rgb-jpeg": saved(picture, keep_rgb=True),
        "png": saved(picture, "PNG"),
        "png-alpha": saved(faded, "PNG"),
        "png-palette": saved(palette, "PNG"),
        "png-grey": saved(grey, "PNG"),
        "png-16-bits": saved(wide_grey, "PNG"),
        "webp": saved(picture, "WEBP", quality=80),
        "webp-lossless": saved(faded, "WEBP", lossless=True),
        "bmp": saved(picture, "BMP"),
        "gif": saved(picture.quantize(16), "GIF"),
    }


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # of the oracle
@pytest.mark.parametrize("kind", odd_images())
def test_what_native_code_does_not_take_pillow_decodes(decoder: Decoder, kind: str) -> None:
    image = odd_images()[kind]
    sizes = [(40, 50)] * 5
    views = views_of(sizes, epoch=0)
    out, failures = decode(decoder, [image] * 5, views, sizes)
    assert failures == {}
    plain = saved(Image.fromarray(np.asarray(smooth_picture(2, 50, 40, "L"))), "PNG")
    # Pillow clips 16 bits where we scale them: the same picture in 8 bits is the oracle.
    assert_as_pillow(out, [plain if kind == "png-16-bits" else image] * 5, views)


def test_a_bad_image_is_named_with_the_reason_and_the_others_are_decoded(decoder: Decoder) -> None:
    sizes = [(64, 80)] * 6
    good = saved(smooth_picture(1, 80, 64))
    other = saved(smooth_picture(1, 81, 64))
    images = [
        good,
        good[: len(good) // 3],
        b"no image at all",
        other,
        b"",
        saved(smooth_picture(1, 80, 64), "PNG")[:-60],
    ]
    views = views_of(sizes, epoch=0, crop=CentreCrop(frac=1.0))
    out, failures = decode(decoder, images, views, sizes)
    assert sorted(failures) == [1, 2, 3, 4, 5]
    assert "truncated" in failures[1].lower()
    assert "cannot identify" in failures[2]
    assert "is 81x64 pixels, the sidecar says 80x64" in failures[3]
    assert_as_pillow(out[:1], images[:1], views)


def test_any_number_of_threads_gives_the_same_pixels() -> None:
    sizes = [(30 + number, 90 - number) for number in range(40)]
    images = [
        saved(smooth_picture(i, width, height), "PNG" if i % 7 == 0 else "JPEG")
        for i, (height, width) in enumerate(sizes)
    ]
    outs = []
    for threads in (1, 5):
        decoder = Decoder(threads=threads)
        outs.append(decode(decoder, images, views_of(sizes, epoch=0), sizes)[0])
        decoder.close()
    assert np.array_equal(outs[0], outs[1])


def test_the_two_ways_differ_by_roundings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(100 + 3 * number, 200 - number) for number in range(30)]
    images = [saved(smooth_picture(i, width, height)) for i, (height, width) in enumerate(sizes)]
    first = Decoder(threads=1)
    if first.absence:
        pytest.skip(first.absence)
    monkeypatch.setenv("TARMAC_NATIVE", "0")
    second = Decoder(threads=1)
    assert "TARMAC_NATIVE=0" in str(second.absence)
    found = [decode(decoder, images, views_of(sizes, epoch=0), sizes)[0].astype(int) for decoder in (first, second)]
    assert np.abs(found[0] - found[1]).max() <= MOST_ROUNDED


def test_the_job_has_one_form_in_c_and_in_python() -> None:
    library = native.load()
    if isinstance(library, native.Absent):
        pytest.skip(library.reason)
    library.tarmac_jpeg_job_bytes.restype = ctypes.c_int64
    assert library.tarmac_jpeg_job_bytes() == JOB.itemsize


SYSTEM_HEADER = Path("/usr/include/jpeglib.h")
PAIRS = {
    "err": "errors",
    "progress": "progress",
    "image_width": "width",
    "image_height": "height",
    "num_components": "num_components",
    "out_color_space": "colours",
    "output_width": "output_width",
    "output_height": "output_height",
    "output_scanline": "output_row",
    "input_scan_number": "scan",
}


@pytest.mark.skipif(not SYSTEM_HEADER.exists() or shutil.which("cc") is None, reason="no jpeglib.h, or no C compiler")
def test_our_words_for_libjpegs_structures_are_its_headers(tmp_path: Path) -> None:
    checks = [
        f"_Static_assert(offsetof(struct jpeg_decompress_struct, {theirs}) == offsetof(struct decompressor, {ours}), "
        f'"{theirs}");'
        for theirs, ours in PAIRS.items()
    ]
    checks += [
        f'_Static_assert(sizeof(struct {theirs}) == sizeof({ours}), "{theirs}");'
        for theirs, ours in {
            "jpeg_decompress_struct": "union structure",
            "jpeg_error_mgr": "struct error_manager",
            "jpeg_progress_mgr": "struct progress_manager",
        }.items()
    ]
    checks.append('_Static_assert(JCS_RGB == COLOURS_RGB, "colours");')
    source = tmp_path / "check.c"
    source.write_text(
        "#include <stdio.h>\n#include <stddef.h>\n#include <jpeglib.h>\n#if JPEG_LIB_VERSION == 62\n"
        f'#include "jpeg.c"\n{"".join(f"{check}{chr(10)}" for check in checks)}#endif\n'
    )
    command = ["cc", "-std=gnu11", "-fsyntax-only", "-I", str(NATIVE_FOLDER), str(source)]
    assert subprocess.run(command, capture_output=True, text=True).stderr == ""
