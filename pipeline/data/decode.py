"""From the bytes of many images to rows of a batch: the parts that are seen, decoded, resized and mirrored.

    decoder = Decoder(threads=2)
    jobs = make_jobs(views, offsets=offsets, sizes_bytes=sizes, heights_B=heights, widths_B=widths)
    failures = decoder.decode(mapped_bytes, jobs, out=images_BHWC)      # {17: "image file is truncated"}

JPEGs are a matter for native code (pipeline/native/jpeg.c), which undoes no more than the view needs. What it does not
take (PNG, WebP, CMYK, anything that libjpeg has a complaint about) Pillow decodes whole, and Pillow decides what is a
bad image. Without native code simplejpeg decodes JPEGs whole. All of them resize with the same antialiased linear
filter, native code's own or cykooz-resizer's or Pillow's, which differ by a rounding or two.

Axes: B batch, H height, W width, C channels.
"""

from __future__ import annotations

import ctypes
import io
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import simplejpeg
from PIL import Image

from pipeline.data.crop import Int64Array, Views
from pipeline.native import Absent, load

try:
    import cykooz_resizer as simd
except ImportError:  # it has no wheel for Linux on ARM; Pillow takes three times as long
    simd = None

UInt8Array = npt.NDArray[np.uint8]
Jobs = npt.NDArray[np.void]

# As `struct job` in pipeline/native/jpeg.c.
JOB = np.dtype(
    [
        ("offset", "<i8"),
        ("size_bytes", "<i8"),
        ("box", "<f8", (4,)),
        ("region", "<i4", (4,)),
        ("height", "<i4"),
        ("width", "<i4"),
        ("flip", "<i4"),
        ("result", "<i4"),
    ]
)
# Values of `result`; others say why native code left an image to Pillow.
NOT_TRIED = -1
DECODED = 0
BROKEN = 5
# Pillow opens no more, and preparation takes no more.
MAX_PIXELS = 178_956_970
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
CHANNELS = 3


def make_jobs(
    views: Views, *, offsets: Int64Array, sizes_bytes: Int64Array, heights_B: Int64Array, widths_B: Int64Array
) -> Jobs:
    """Return jobs (B,) for images at these offsets of some bytes; heights and widths are of the whole images."""
    jobs = np.zeros(len(offsets), dtype=JOB)
    jobs["offset"], jobs["size_bytes"] = offsets, sizes_bytes
    jobs["box"], jobs["region"], jobs["flip"] = views.boxes, views.regions, views.flips
    jobs["height"], jobs["width"] = heights_B, widths_B
    jobs["result"] = NOT_TRIED
    return jobs


class Decoder:
    """Owns the threads.

    Attributes:
        pool: the threads.
        absence: why there is no native decoder, without which it takes 1.65 times as long; None where there is one.
    """

    def __init__(self, *, threads: int | None = None) -> None:
        """Start with so many threads; None for one to each processor that this process may use."""
        self.num_threads = threads or num_processors()
        native = native_library()
        self.absence = native.reason if isinstance(native, Absent) else None
        self._native = None if isinstance(native, Absent) else native
        self.pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="decode")
        self._counting = threading.Lock()
        self._decode_s, self._read_bytes = 0.0, 0

    def decode(self, content: UInt8Array, jobs: Jobs, *, out: UInt8Array) -> dict[int, str]:
        """Fill `out`, contiguous (B, H, W, 3), and return why, by its index, an image cannot be decoded.

        May be called from several threads at once, whose jobs then follow each other. Where libjpeg had a complaint
        about a JPEG, which Pillow may decode all the same, the job's result is `BROKEN`.
        """
        if self._native is not None:
            self._decode_natively(content, jobs, out)
        rest = np.flatnonzero(jobs["result"] != DECODED).tolist()
        waiting = iter(rest)
        failures: dict[int, str] = {}
        with_pillow = [
            self.pool.submit(self._timed, self._decode_rest, waiting, failures, content, jobs, out)
            for _ in range(min(self.num_threads, len(rest)))
        ]
        for future in with_pillow:
            future.result()
        with self._counting:
            self._read_bytes += int(jobs["size_bytes"].sum())
        return failures

    def counters(self) -> dict[str, float]:
        with self._counting:
            return {"decode_s": self._decode_s, "read_bytes": float(self._read_bytes)}

    def close(self) -> None:
        """End the threads; what they do not do yet is left undone."""
        self.pool.shutdown(cancel_futures=True)

    def _decode_natively(self, content: UInt8Array, jobs: Jobs, out: UInt8Array) -> None:
        """Share the jobs out among the threads, one by one, in C."""
        assert self._native is not None
        assert out.flags.c_contiguous
        assert jobs.flags.c_contiguous
        assert len(out) >= len(jobs)
        # In C a wrong place is a segmentation fault.
        ends = jobs["offset"] + jobs["size_bytes"]
        assert (jobs["offset"] >= 0).all()
        assert (ends <= len(content)).all()
        begun = ctypes.c_int64(0)
        arguments = (
            content.ctypes.data,
            jobs.ctypes.data,
            len(jobs),
            ctypes.byref(begun),
            out.ctypes.data,
            *out.shape[1:3],
        )
        calls = [
            self.pool.submit(self._timed, self._native.tarmac_decode_jpegs, *arguments)
            for _ in range(min(self.num_threads, len(jobs)))
        ]
        for call in calls:
            call.result()

    def _timed(self, work: Callable[..., object], *arguments: object) -> None:
        started_s = time.perf_counter()
        work(*arguments)
        passed_s = time.perf_counter() - started_s
        with self._counting:
            self._decode_s += passed_s

    def _decode_rest(
        self, waiting: Iterator[int], failures: dict[int, str], content: UInt8Array, jobs: Jobs, out: UInt8Array
    ) -> None:
        for index in waiting:
            try:
                decode_one(content, jobs[index], out=out[index], fast_jpeg=self._native is None)
            except Exception as error:  # Pillow's decoders raise almost anything on broken input
                failures[index] = " ".join(str(error).split()) or type(error).__name__


def decode_one(content: UInt8Array, job: Any, *, out: UInt8Array, fast_jpeg: bool = False) -> None:
    """Decode one job's image whole and put its view into `out` (H, W, 3).

    Args:
        fast_jpeg: try simplejpeg, which is twice as fast as Pillow but takes no JPEG that is odd; where it has a
            complaint the job's result is set.

    Raises:
        ValueError, OSError, and whatever else Pillow raises: the image cannot be decoded, or is of another size.
    """
    start = int(job["offset"])
    image = content[start : start + int(job["size_bytes"])].tobytes()
    size = int(job["width"]), int(job["height"])
    left, top, width, height = (int(number) for number in job["region"])
    pixels_HWC = None
    if fast_jpeg and image.startswith(b"\xff\xd8\xff"):
        pixels_HWC = _decode_plain_jpeg(image, size)
        job["result"] = BROKEN if pixels_HWC is None else DECODED
    if pixels_HWC is not None:
        pixels_HWC = pixels_HWC[top : top + height, left : left + width]
    else:
        picture = Image.open(io.BytesIO(image), formats=FORMATS)
        if picture.size != size:
            found = f"{picture.size[0]}x{picture.size[1]}"
            raise ValueError(f"is {found} pixels, the sidecar says {size[0]}x{size[1]}")
        pixels_HWC = np.asarray(_to_rgb(picture.crop((left, top, left + width, top + height))))
    box_left, box_top, box_width, box_height = (float(number) for number in job["box"])
    right, bottom = min(box_left - left + box_width, width), min(box_top - top + box_height, height)
    corners = (box_left - left, box_top - top, right, bottom)
    pixels_HWC = _resize(pixels_HWC, corners, height=out.shape[0], width=out.shape[1])
    out[:] = pixels_HWC[:, ::-1] if job["flip"] else pixels_HWC


def _decode_plain_jpeg(image: bytes, size: tuple[int, int]) -> UInt8Array | None:
    """Return a JPEG's pixels by simplejpeg, None where it has any complaint."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(image)
        if (width, height) != size or colours not in ("YCbCr", "RGB", "Gray"):
            return None
        pixels_HWC: UInt8Array = simplejpeg.decode_jpeg(image, "RGB")
    except ValueError:
        return None
    return pixels_HWC


def _resize(
    pixels_HWC: UInt8Array, corners: tuple[float, float, float, float], *, height: int, width: int
) -> UInt8Array:
    """Resize what lies between corners (left, top, right, bottom), antialiased and linear."""
    rows, columns, channels = pixels_HWC.shape
    left, top, right, bottom = corners
    if simd is None:
        picture = Image.fromarray(pixels_HWC).resize((width, height), Image.Resampling.BILINEAR, box=corners)
        return np.asarray(picture)
    kind = simd.PixelType.U8x3
    found = simd.ImageData(width, height, kind)
    simd.Resizer().resize(
        simd.ImageData(columns, rows, kind, pixels_HWC.tobytes()),
        found,
        simd.ResizeOptions(
            resize_alg=simd.ResizeAlg.convolution(simd.FilterType.bilinear),
            crop_box=simd.CropBox(left, top, right - left, bottom - top),
        ),
    )
    return np.frombuffer(found.get_buffer(), dtype=np.uint8).reshape(height, width, channels)


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB: CMYK, palettes and 16 bits included; what is transparent shows its own colour."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        scaled: Any = np.asarray(picture).astype(np.uint32) / 257.0
        picture = Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # to RGB at once Pillow warns
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def num_processors() -> int:
    """Return how many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def native_library() -> ctypes.CDLL | Absent:
    """Return the native library with a libjpeg-turbo opened for it, or why there is none."""
    library = load()
    return library if isinstance(library, Absent) else _with_libjpeg(library)


@cache
def _with_libjpeg(library: ctypes.CDLL) -> ctypes.CDLL | Absent:
    library.tarmac_jpeg_open.argtypes = (ctypes.c_char_p,)
    library.tarmac_jpeg_job_bytes.restype = ctypes.c_int64
    library.tarmac_decode_jpegs.restype = None
    pointers = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64), ctypes.c_void_p)
    library.tarmac_decode_jpegs.argtypes = (*pointers, ctypes.c_int, ctypes.c_int)
    assert library.tarmac_jpeg_job_bytes() == JOB.itemsize
    if any(library.tarmac_jpeg_open(path.encode()) == 0 for path in libjpegs()):
        return library
    return Absent(reason="no libjpeg-turbo 3 was found: Pillow's wheel has one (pip install --force-reinstall pillow)")


def libjpegs() -> Iterator[str]:
    """Yield where a libjpeg of interface 62 may be: in Pillow's wheels for Linux, for macOS, in the system."""
    folder = Path(PIL.__file__).parent
    wheels = (folder.parent / "pillow.libs").glob("libjpeg-*.so.62*"), (folder / ".dylibs").glob("libjpeg.62*.dylib")
    yield from sorted(str(path) for path in itertools.chain(*wheels))
    yield from ("libjpeg.so.62", "libjpeg.62.dylib")
