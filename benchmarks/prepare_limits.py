"""How near does preparation come to what bounds it: the JPEG decoder, and copying?

    python -m benchmarks.prepare_limits                               # 32,000 ImageNet JPEGs, 2 processes
    python -m benchmarks.prepare_limits --images 500 --repeats 1

In one run, taking turns, on the same files from a warm page cache:

    simplejpeg alone     decodes the bytes, in memory beforehand, at the DCT scale that data_prep picks: the limit
    simplejpeg, whole    the same at full size
    decode, resize       at the DCT scale and with data_prep's resize to 64x64, so what remains is all the rest
    tarmac, packed       python -m data_prep: read, decode, resize, sum, pack, checksum, fsync, card
    cp -r, cp of a tar   the same bytes and `sync` of what was written
    copy and checksums   files read, SHA-256 and CRC-32 taken, 64 MB files written and fsynced, in as many processes:
                         the least that the format asks of any writer
    tarmac, encoded      python -m data_prep layout=encoded layout.decode_check=false: no image is decoded

Ours are timed twice over: the whole command, and from its own line `prepared ... in ... s`, the workers' start to the
last shard, which leaves out what hardly grows: Python's start, the plan, the card.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import REPOSITORY, print_conditions, print_table, rate_text, take_turns, warm
from benchmarks.prepare import add_jpegs_options, check_jpegs, unpacked
from benchmarks.prepare_peers import repeated
from data_prep.config import Fit
from data_prep.decode import dct_eighths, decode_jpeg, fitted_box, jpeg_size, resize, scaled
from pipeline.shards.errors import run_entry_point

RESOLUTION = 64
MIN_SCALE = 2.0
PREPARED = re.compile(r"prepared .* in ([0-9.]+) s;")
# Of a process that decodes: the barrier where all of them start.
_STATE: dict[str, Any] = {}
DECODER, WHOLE_DECODER, RESIZER = "simplejpeg alone", "simplejpeg, whole images", "decode and resize alone"
COPY, CHECKED_COPY = "cp", "copy and checksums alone"
SHARD_BYTES = 1 << 26

# Does one process's share of a loop and returns when it began and ended, in seconds of the monotonic clock.
Part = Callable[[int], tuple[float, float]]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prepare_limits", description=(__doc__ or "").split("\n")[0]
    )
    add_jpegs_options(parser, num_images=32_000)
    options = parser.parse_args(argv)
    check_jpegs(options)
    whole: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        once = unpacked(options.jpegs, Path(folder).resolve() / "once")
        root = repeated(once, num_images=options.images)
        files = sorted(root.glob("*/*"))
        archive = root.with_suffix(".tar")
        with tarfile.open(archive, "w", dereference=True) as stream:  # a file for each hard link
            stream.add(root, arcname="train")
        warm([*files, archive])
        num_bytes = sum(file.stat().st_size for file in files)
        distinct = sorted(once.glob("*/*"))

        def ours(name: str, *told: str) -> Callable[[], float]:
            def run() -> float:
                whole_rate, rate = time_preparation(root, *told, workers=options.workers, num_images=len(files))
                whole.setdefault(name, []).append(whole_rate)
                return rate

            return run

        packed = ours("packed", f"layout.resolution={RESOLUTION}", "layout.channels=rgb", "layout.shard_bytes=16000000")
        encoded = ours("encoded", "layout=encoded", "layout.decode_check=false", f"layout.shard_bytes={SHARD_BYTES}")
        looped = partial(time_loop, num_images=len(files), workers=options.workers)
        decoded = partial(decode_part, distinct, num_images=len(files), workers=options.workers)
        copied = partial(copy_part, files, workers=options.workers)
        rates: dict[str, list[float]] = take_turns(
            {
                DECODER: partial(looped, partial(decoded, min_scale=MIN_SCALE, resized=False)),
                WHOLE_DECODER: partial(looped, partial(decoded, min_scale=None, resized=False)),
                RESIZER: partial(looped, partial(decoded, min_scale=MIN_SCALE, resized=True)),
                "tarmac, packed": packed,
                f"{COPY} -r": partial(time_copy, root, num_images=len(files)),
                f"{COPY} of one tar": partial(time_copy, archive, num_images=len(files)),
                CHECKED_COPY: partial(looped, copied),
                "tarmac, encoded": encoded,
            },
            repeats=options.repeats,
        )
    print_conditions(" ".join(["python -m benchmarks.prepare_limits", *argv]), "pillow", "simplejpeg")
    report(rates, {f"tarmac, {name}": values for name, values in whole.items()}, image_bytes=num_bytes / len(files))
    return 0


def time_preparation(root: Path, *told: str, workers: int, num_images: int) -> tuple[float, float]:
    """Run the command; return images/s of all of it, and those that it reports of its workers."""
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        out = Path(scratch) / "out"
        command = [
            *(sys.executable, "-m", "data_prep", "source=folder", f"source.root={root}", "source.val_frac=0"),
            *(*told, f"engine.workers={workers}", f"out={out}"),
        ]
        os.sync()
        started_s = time.perf_counter()
        done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
        passed_s = time.perf_counter() - started_s
    found = PREPARED.search(done.stdout + done.stderr)
    if found is None:
        raise RuntimeError(f"no line `prepared ... in ... s` in {done.stdout + done.stderr!r}")
    # Told to a tenth of a second.
    return num_images / passed_s, num_images / max(float(found.group(1)), 0.1)


def time_copy(path: Path, *, num_images: int) -> float:
    """Copy a file or a folder, see it on disk, and return images/s."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        out = Path(scratch) / "copy"
        os.sync()
        started_s = time.perf_counter()
        subprocess.run(["cp", "-r", str(path), str(out)], check=True)
        # Ours syncs each file that it writes; `sync -f` does it for the whole file system, as one would after cp.
        subprocess.run(["sync", "-f", str(out)], check=True)
        passed_s = time.perf_counter() - started_s
    return num_images / passed_s


def time_loop(part: Part, *, num_images: int, workers: int) -> float:
    """Run a part in each of `workers` processes and return images/s from their common start on."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(workers)
    os.sync()
    # Unlike bare processes, an executor notices one that died.
    with ProcessPoolExecutor(workers, context, initializer=_meet_at, initargs=(together,)) as executor:
        spans = list(executor.map(part, range(workers)))
    passed_s = max(end_s for _, end_s in spans) - min(start_s for start_s, _ in spans)
    return num_images / passed_s


def _meet_at(barrier: Any) -> None:
    _STATE["together"] = barrier


def decode_part(
    files: list[Path], number: int, *, workers: int, num_images: int, min_scale: float | None, resized: bool
) -> tuple[float, float]:
    """Decode every `workers`-th image, from memory; what is no plain JPEG is left out."""
    contents = [file.read_bytes() for file in files]
    mine = [contents[index % len(contents)] for index in range(number, num_images, workers)]
    _STATE["together"].wait()
    started_s = time.monotonic()
    for content in mine:
        size = jpeg_size(content)
        if size is None:
            continue
        region = (0.0, 0.0, float(size[0]), float(size[1]))
        box = fitted_box(region, height=RESOLUTION, width=RESOLUTION, fit=Fit.crop)
        eighths = dct_eighths(box, height=RESOLUTION, width=RESOLUTION, min_scale=min_scale)
        pixels = decode_jpeg(content, channels=3, eighths=eighths)
        if resized and pixels is not None:
            factor = eighths / 8
            region, box = scaled(region, factor), scaled(box, factor)
            resize(pixels, height=RESOLUTION, width=RESOLUTION, region=region, box=box)
    return started_s, time.monotonic()


def copy_part(files: list[Path], number: int, *, workers: int) -> tuple[float, float]:
    """Copy every `workers`-th file into files of a shard's size, taking the checksums that the format holds."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        _STATE["together"].wait()
        started_s = time.monotonic()
        mine = iter(files[number::workers])
        file = next(mine, None)
        while file:
            digest, num_bytes = hashlib.sha256(), 0
            with (Path(folder) / file.name).open("wb", buffering=1 << 18) as stream:
                while file and num_bytes < SHARD_BYTES:
                    content = file.read_bytes()
                    zlib.crc32(content)
                    digest.update(content)
                    stream.write(content)
                    num_bytes += len(content)
                    file = next(mine, None)
                stream.flush()
                os.fsync(stream.fileno())
        return started_s, time.monotonic()


def report(rates: dict[str, list[float]], whole: dict[str, list[float]], *, image_bytes: float) -> None:
    """Print the table and the two numbers that the goals are about."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best_copy = max((name for name in medians if name.startswith(COPY)), key=lambda name: medians[name])
    limits = dict.fromkeys((DECODER, WHOLE_DECODER, RESIZER, "tarmac, packed"), DECODER)
    rows = [
        [
            name,
            rate_text(values),
            f"{medians[name] * image_bytes / 1e6:,.0f}",
            f"{medians[name] / medians[limits.get(name, best_copy)]:.0%}",
            rate_text(whole[name]) if name in whole else "",
            str(len(values)),
        ]
        for name, values in rates.items()
    ]
    print_table(
        ["what", "images/s, median (min to max)", "MB/s of JPEG", "of the limit", "whole command, images/s", "n"], rows
    )
    packed, encoded = medians["tarmac, packed"], medians["tarmac, encoded"]
    print(f"\ntarmac reaches {packed / medians[DECODER]:.0%} of the decoder's rate at the DCT scale (goal: 85 %),")
    print(f"{packed / medians[WHOLE_DECODER]:.0%} of its rate for whole images;")
    print(f"passing bytes through, {encoded / medians[best_copy]:.0%} of `{best_copy}` (goal: 80 %),")
    print(f"{encoded / medians[CHECKED_COPY]:.0%} of a copy with checksums and nothing else")


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
