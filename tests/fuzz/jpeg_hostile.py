"""Feeds the native decoder with damaged JPEGs and hostile jobs; a process of its own, since a fault would be its end.

    python tests/fuzz/jpeg_hostile.py 4000                      # "4000 inputs: 1312 decoded, 2688 refused; peak 61 MB"
    python tests/fuzz/jpeg_hostile.py 4000 library.so images/   # another build of the library; seeds of one's own

Run under the address sanitizer by test_jpeg.py, with `LD_PRELOAD=libasan.so` and a library built for it.
"""

from __future__ import annotations

import ctypes
import io
import random
import resource
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import native
from pipeline.data import decode

SIZE = (24, 31)
HOSTILE_NUMBERS = (-(2**31), -1, 0, 1, 2, 65_535, 65_536, 2**31 - 1)
HOSTILE_FLOATS = (float("nan"), float("inf"), -1.0, 0.0, 1e-300, 1e300)


def seeds() -> list[bytes]:
    """Return small JPEGs of each kind."""
    found = []
    rng = np.random.default_rng(1)
    for number in range(36):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        width, height = (int(side) for side in rng.integers(1, 150, 2))
        picture = coarse.resize((width, height), Image.Resampling.BICUBIC).convert("L" if number % 6 == 5 else "RGB")
        stream = io.BytesIO()
        picture.save(
            stream,
            "JPEG",
            subsampling=number % 3,
            progressive=number % 2 == 1,
            restart_marker_blocks=number % 4,
            quality=30 + number,
        )
        found.append(stream.getvalue())
    return found


def damaged(image: bytes, rng: random.Random) -> bytes:
    content = bytearray(image)
    match rng.randrange(6):
        case 0:
            del content[rng.randrange(len(content)) :]
        case 1:
            for _ in range(rng.randint(1, 20)):
                content[rng.randrange(len(content))] = rng.randrange(256)
        case 2:  # in the headers
            for _ in range(rng.randint(1, 4)):
                content[rng.randrange(min(700, len(content)))] = rng.randrange(256)
        case 3:
            at, length = rng.randrange(len(content)), rng.randrange(64)
            content[at:at] = content[rng.randrange(len(content)) :][:length]
        case 4:
            at = rng.randrange(len(content))
            del content[at : at + rng.randrange(64)]
        case _:  # another size in the frame header
            at = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
            for place in range(5, 9):
                content[at + place] = rng.choice((0, 1, 255, content[at + place]))
    return bytes(content)


def job_of(image: bytes, rng: random.Random, size: tuple[int, int]) -> np.ndarray:
    """Return a job (1,) whose numbers are mostly right for an image of (width, height)."""
    job = np.zeros(1, dtype=decode.JOB)
    width, height = size
    job["size_bytes"] = len(image)
    job["width"], job["height"], job["flip"] = width, height, rng.randrange(2)
    w, h = rng.randint(1, max(width, 1)), rng.randint(1, max(height, 1))
    left, top = rng.randint(0, max(width - w, 0)), rng.randint(0, max(height - h, 0))
    job["region"] = left, top, w, h
    box_width, box_height = w * rng.uniform(0.1, 1), h * rng.uniform(0.1, 1)
    job["box"] = left + rng.uniform(0, w - box_width), top + rng.uniform(0, h - box_height), box_width, box_height
    if rng.random() < 0.1:
        job["region"][0, rng.randrange(4)] = rng.choice(HOSTILE_NUMBERS)
    if rng.random() < 0.1:
        job["box"][0, rng.randrange(4)] = rng.choice(HOSTILE_FLOATS)
    if rng.random() < 0.05:
        job[rng.choice(("height", "width"))] = rng.choice(HOSTILE_NUMBERS)
    return job


def size_in_header(image: bytes) -> tuple[int, int]:
    """Return (width, height) where a frame header says so, as a hostile sidecar would agree with a hostile image."""
    at = max(image.find(b"\xff\xc0"), image.find(b"\xff\xc2"))
    header = image[at + 5 : at + 9] if at >= 0 else b""
    return int.from_bytes(header[2:], "big"), int.from_bytes(header[:2], "big")


def peak_kb() -> int:
    """Return this process's own peak; the one that getrusage tells begins with that of the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:"))


def main(num_inputs: int, library_path: Path | None = None, images: Path | None = None) -> str:
    if library_path is not None:
        native.library_path = lambda: library_path
    library = decode.native_library()
    if isinstance(library, native.Absent):
        return f"skipped: {library.reason}"
    originals = sorted(seeds() if images is None else (path.read_bytes() for path in images.iterdir()))
    rng = random.Random(7)
    results: dict[int, int] = {}
    for number in range(num_inputs):
        image = damaged(originals[number % len(originals)], rng)
        job = job_of(image, rng, size_in_header(image))
        # Exactly so long that reading or writing beyond it is seen by the sanitizer, or lands in the canary.
        content = np.frombuffer(image, dtype=np.uint8).copy()
        out = np.full(SIZE[0] * SIZE[1] * 3 + 64, 77, dtype=np.uint8)
        begun = ctypes.c_int64(0)
        library.tarmac_decode_jpegs(
            content.ctypes.data, job.ctypes.data, 1, ctypes.byref(begun), out.ctypes.data, *SIZE
        )
        assert (out[-64:] == 77).all(), "written beyond the image"
        results[int(job["result"][0])] = results.get(int(job["result"][0]), 0) + 1
    peak = peak_kb() // 1024
    return f"{num_inputs} inputs: {results.get(0, 0)} decoded, {num_inputs - results.get(0, 0)} refused; peak {peak} MB"


if __name__ == "__main__":
    sys.stdout.write(main(int(sys.argv[1]), *map(Path, sys.argv[2:])) + "\n")
