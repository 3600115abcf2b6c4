"""How fast do JPEGs become small images, and how near are these to a whole decode with a Lanczos resize?

    python -m benchmarks.decode                                   # 1,000 ImageNet JPEGs to 64x64 and to 224x224
    python -m benchmarks.decode --images 50 --repeats 1 --jpegs ""    # made-up photographs

On one core, taking turns, in images a second of processor time, which other work on the machine disturbs least:

    libjpeg-turbo alone     through simplejpeg, with no resize: whole, and at the smallest DCT scale of twice the target
    tarmac                  data_prep.decode; and the whole encoder, with sums and the packed record
    others                  at the same DCT scale unless called whole, each with the resizes that it is used with

The box is the largest in the centre, as with layout.fit=crop. PSNR is against Pillow's whole decode and Lanczos.
Libraries that are not installed are named and left out: pip install opencv-python-headless pyvips pyvips-binary, and
PyTurboJPEG, which wants the system's libturbojpeg.
"""

from __future__ import annotations

import argparse
import importlib
import io
import math
import os
import statistics
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.measure import REPOSITORY, print_conditions, print_table, rate_text, take_turns
from data_prep.config import Channels, Fit, PackedLayoutConfig
from data_prep.decode import EIGHTHS, Region, dct_eighths, decode_jpeg, fitted_box, jpeg_size, resize, scaled
from data_prep.encode import make_encoder
from data_prep.sources.base import ImageArray
from pipeline.shards.errors import run_entry_point

JPEGS = REPOSITORY.parent / "shared" / "data" / "imagenet-jpegs" / "imagenet_1k_samples.tar"
HEADER = [
    "decoder and resize",
    "target",
    "images/s, median (min to max)",
    "of the whole decode",
    "PSNR: mean, worst",
    "n",
]
WHOLE, TODAY = "libjpeg-turbo alone, whole", "Pillow, whole, Lanczos"
MIN_SCALE = 2.0
FILTERS = {
    "Lanczos": Image.Resampling.LANCZOS,
    "Hamming": Image.Resampling.HAMMING,
    "antialiased linear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}

# From JPEG bytes to pixels: of the target's size, or as decoded where the candidate does no resize.
Run = Callable[[bytes], Any]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=1_000, help="images")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[64, 224], help="heights and widths, pixels")
    parser.add_argument("--jpegs", default=str(JPEGS), help="tar of JPEGs; made-up ones where there is none")
    options = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ["VIPS_CONCURRENCY"] = "1"
    is_real = bool(options.jpegs) and Path(options.jpegs).is_file()
    images = list(read_jpegs(Path(options.jpegs), options.images) if is_real else made_up_jpegs(options.images))
    rows = [row for side in options.resolutions for row in measured_rows(images, side=side, repeats=options.repeats)]
    print_conditions(" ".join(["python -m benchmarks.decode", *argv]), "pillow", "simplejpeg")
    print(f"{len(images)} {'JPEGs of ' + Path(options.jpegs).name if is_real else 'made-up photographs'}\n")
    print_table(HEADER, rows)
    return 0


def measured_rows(images: Sequence[bytes], *, side: int, repeats: int) -> list[list[str]]:
    runs = {**own_candidates(side), **other_candidates(side)}
    rates = take_turns({name: rate_of(run, images) for name, run in runs.items()}, repeats=repeats)
    limit = statistics.median(rates[WHOLE])
    expected = [runs[TODAY](image) for image in images]
    rows = []
    for name, values in rates.items():
        share = f"{statistics.median(values) / limit * 100:.0f} %"
        is_resized = runs[name](images[0]).shape == (side, side, 3) and not name.startswith("libjpeg-turbo alone")
        fidelity = fidelity_text(runs[name], images, expected) if is_resized and name != TODAY else ""
        rows.append([name, f"{side}x{side}", rate_text(values), share, fidelity, str(len(values))])
    return rows


def rate_of(run: Run, images: Sequence[bytes]) -> Callable[[], float]:
    """Return a function that runs over all images and returns images/s of processor time."""

    def measured() -> float:
        started_s = time.process_time()
        for image in images:
            run(image)
        return len(images) / (time.process_time() - started_s)

    return measured


def fidelity_text(run: Run, images: Sequence[bytes], expected: Sequence[ImageArray]) -> str:
    """Return the mean and the worst PSNR over the images, in dB; one without any error counts as 99."""
    values = []
    for image, wanted in zip(images, expected, strict=True):
        error = float(np.mean((run(image).astype(np.float32) - wanted) ** 2))
        values.append(10 * math.log10(255**2 / error) if error else 99.0)
    return f"{statistics.mean(values):.1f}, {min(values):.1f} dB"


def scaled_box(image: bytes, side: int) -> tuple[int, Region]:
    """Return the DCT scale in eighths, and the box that is kept in the pixels of that scale."""
    width, height = jpeg_size(image) or (side, side)
    region = (0.0, 0.0, float(width), float(height))
    box = fitted_box(region, height=side, width=side, fit=Fit.crop)
    eighths = dct_eighths(box, height=side, width=side, min_scale=MIN_SCALE)
    return eighths, scaled(box, eighths / 8)


def own_candidates(side: int) -> dict[str, Run]:
    """Return the limits, ours, and Pillow as preparation used it before."""
    config = PackedLayoutConfig(resolution=side, channels=Channels.rgb, min_scale=MIN_SCALE)
    encoder = make_encoder(config, native_shape=None)

    def decoded(image: bytes) -> ImageArray:
        pixels = decode_jpeg(image, channels=3, eighths=scaled_box(image, side)[0])
        assert pixels is not None
        return pixels

    def tarmac(image: bytes) -> ImageArray:
        eighths, box = scaled_box(image, side)
        pixels = decode_jpeg(image, channels=3, eighths=eighths)
        assert pixels is not None
        return resize(pixels, height=side, width=side, region=whole(pixels), box=box)

    def record(image: bytes) -> ImageArray:
        stored = encoder.encode(key="000000000", label=0, image=image).record
        return np.frombuffer(stored, np.uint8)

    return {
        WHOLE: lambda image: simplejpeg.decode_jpeg(image, "RGB"),
        "libjpeg-turbo alone, at DCT scale": decoded,
        "**tarmac**: simplejpeg, cykooz-resizer Lanczos": tarmac,
        "**tarmac**, with sums and the packed record": record,
        TODAY: lambda image: pillow_fitted(opened(image), side, box=whole_box(image, side)),
    }


def other_candidates(side: int) -> dict[str, Run]:
    """Return what else could be used, as far as it is installed."""
    runs: dict[str, Run] = {}
    for name, kind in FILTERS.items():
        runs[f"simplejpeg, Pillow {name}"] = simplejpeg_and_pillow(side, kind)
    for name in ("Lanczos", "box"):
        runs[f"Pillow with draft, {name}"] = pillow_draft(side, FILTERS[name])
    if cv2 := installed("cv2"):
        cv2.setNumThreads(1)
        runs |= opencv_candidates(cv2, side)
    if turbojpeg := installed("turbojpeg"):
        try:
            library = turbojpeg.TurboJPEG(os.environ.get("TURBOJPEG"))
        except (RuntimeError, OSError) as error:
            print(f"PyTurboJPEG left out: {error}\n")
        else:
            runs |= turbojpeg_candidates(turbojpeg, library, cv2, side)
    if pyvips := installed("pyvips"):
        pyvips.cache_set_max(0)
        runs["pyvips thumbnail"] = pyvips_thumbnail(pyvips, side)
    return runs


def installed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError):
        print(f"{module} left out: not installed\n")
        return None


def opened(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image))


def whole(pixels: ImageArray) -> Region:
    return 0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0])


def whole_box(image: bytes, side: int) -> Region:
    eighths, box = scaled_box(image, side)
    return scaled(box, 8 / eighths)


def pillow_fitted(
    picture: Image.Image, side: int, *, box: Region, kind: Image.Resampling = Image.Resampling.LANCZOS
) -> ImageArray:
    left, top, width, height = box
    corners = (left, top, min(left + width, picture.width), min(top + height, picture.height))
    return np.asarray(picture.convert("RGB").resize((side, side), kind, box=corners))


def simplejpeg_and_pillow(side: int, kind: Image.Resampling) -> Run:
    def run(image: bytes) -> ImageArray:
        eighths, box = scaled_box(image, side)
        pixels = decode_jpeg(image, channels=3, eighths=eighths)
        assert pixels is not None
        return pillow_fitted(Image.fromarray(pixels), side, box=box, kind=kind)

    return run


def pillow_draft(side: int, kind: Image.Resampling) -> Run:
    def run(image: bytes) -> ImageArray:
        picture = opened(image)
        region = (0.0, 0.0, float(picture.width), float(picture.height))
        box = fitted_box(region, height=side, width=side, fit=Fit.crop)
        eighths = dct_eighths(box, height=side, width=side, min_scale=MIN_SCALE)
        picture.draft("RGB", (picture.width * eighths // 8, picture.height * eighths // 8))
        return pillow_fitted(picture, side, box=scaled(box, eighths / 8), kind=kind)

    return run


def opencv_fitted(cv2: Any, pixels: ImageArray, side: int) -> Any:
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    left, top = (width - shorter) // 2, (height - shorter) // 2
    part = pixels[top : top + shorter, left : left + shorter]
    return cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)


def opencv_candidates(cv2: Any, side: int) -> dict[str, Run]:
    flags = dict(
        zip(
            EIGHTHS,
            (cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_COLOR),
            strict=True,
        )
    )

    def decoded(image: bytes, eighths: int) -> Any:
        stream = np.frombuffer(image, np.uint8)
        return cv2.imdecode(stream, flags[eighths] | cv2.IMREAD_IGNORE_ORIENTATION)

    def with_simplejpeg(image: bytes) -> Any:
        pixels = decode_jpeg(image, channels=3, eighths=scaled_box(image, side)[0])
        assert pixels is not None
        return opencv_fitted(cv2, pixels, side)

    return {
        "simplejpeg, OpenCV area": with_simplejpeg,
        "OpenCV, area": lambda image: opencv_fitted(cv2, decoded(image, scaled_box(image, side)[0]), side)[..., ::-1],
        "OpenCV, whole, area": lambda image: opencv_fitted(cv2, decoded(image, 8), side)[..., ::-1],
    }


def turbojpeg_candidates(turbojpeg: Any, library: Any, cv2: Any, side: int) -> dict[str, Run]:
    def decoded(image: bytes) -> Any:
        eighths, _ = scaled_box(image, side)
        return library.decode(image, pixel_format=turbojpeg.TJPF_RGB, scaling_factor=(1, 8 // eighths))

    def with_pillow(image: bytes) -> ImageArray:
        return pillow_fitted(Image.fromarray(decoded(image)), side, box=scaled_box(image, side)[1])

    runs: dict[str, Run] = {"PyTurboJPEG, Pillow Lanczos": with_pillow}
    if cv2:
        runs["PyTurboJPEG, OpenCV area"] = lambda image: opencv_fitted(cv2, decoded(image), side)
    return runs


def pyvips_thumbnail(pyvips: Any, side: int) -> Run:
    def run(image: bytes) -> Any:
        thumbnail = pyvips.Image.thumbnail_buffer(image, side, height=side, crop="centre", no_rotate=True)
        return (thumbnail if thumbnail.bands == 3 else thumbnail.colourspace("srgb")).numpy()

    return run


def read_jpegs(archive: Path, count: int) -> Iterator[bytes]:
    with tarfile.open(archive) as stream:
        for member in stream:
            if count > 0 and member.name.lower().endswith((".jpeg", ".jpg")):
                content = stream.extractfile(member)
                assert content is not None
                yield content.read()
                count -= 1


def made_up_jpegs(count: int) -> Iterator[bytes]:
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        yield stream.getvalue()


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
