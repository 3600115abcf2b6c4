"""How fast is a tar of tars listed?

    python -m benchmarks.listing                            # 1,000 class tars of 1,281 images, as ImageNet's train tar
    python -m benchmarks.listing --classes 20 --images 50 --repeats 1
    python -m benchmarks.listing --classes 19167 --images 741 --image-bytes 200 900     # 14 million, in 20 GB of disk

The tar is sparse: its headers are written, its contents are holes, so that 140 GB take about 5 GB of disk. In one run,
taking turns, from a warm page cache:

    tarmac, 1 thread ... n      walk_tars_concurrently, every member of every class tar
    the same, cold              the file dropped from the page cache before each turn: a matter of disk and threads
    tarfile                     Python's reader, one class tar after the other, over a tenth of them
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from benchmarks.measure import print_conditions, print_table, rate_text, take_turns
from data_prep.archives.tar import walk_tar, walk_tars_concurrently
from pipeline.shards.errors import run_entry_point
from pipeline.shards.record import BLOCK_BYTES, END_OF_ARCHIVE, padded_bytes, ustar_header
from pipeline.storage import open_store

NAME = "train.tar"
IMAGE_BYTES = (20_000, 200_000)  # ImageNet's are 110 kB in the mean
Part = tuple[str, int, int | None]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listing", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--classes", type=int, default=1_000, help="class tars")
    parser.add_argument("--images", type=int, default=1_281, help="images in each")
    parser.add_argument("--image-bytes", type=int, nargs=2, default=IMAGE_BYTES, help="least and most of an image")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--cache", type=Path, default=Path(), help="where the temporary folder is made")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.cache) as folder:
        path = Path(folder) / NAME
        write_tar_of_tars(path, classes=options.classes, images=options.images, image_bytes=options.image_bytes)
        num_members = options.classes * options.images
        candidates: dict[str, Callable[[], float]] = {}
        for cold in (False, True):
            for threads in options.threads:
                name = f"tarmac, {threads} thread{'s' if threads > 1 else ''}, {'cold' if cold else 'warm'}"
                candidates[name] = ours(path, num_members, threads=threads, cold=cold)
        candidates["tarfile, warm"] = pythons(path, num_classes=max(1, options.classes // 10))
        rates = take_turns(candidates, repeats=options.repeats)
        disk_bytes, size_bytes = 512 * path.stat().st_blocks, path.stat().st_size
    command = f"python -m benchmarks.listing --classes {options.classes} --images {options.images}"
    print_conditions(command)
    print(f"{num_members:,} members in {options.classes:,} class tars, {size_bytes / 1e9:,.1f} GB, on disk", end=" ")
    print(f"{disk_bytes / 1e9:,.1f} GB\n")
    print_table(
        ["reader", "members/s, median (min to max)", "s for all", "n"],
        [
            [name, rate_text(values), f"{num_members / statistics.median(values):,.1f}", str(len(values))]
            for name, values in rates.items()
        ],
    )
    return 0


def write_tar_of_tars(path: Path, *, classes: int, images: int, image_bytes: tuple[int, int]) -> None:
    """Write a tar of class tars whose members' contents are holes."""
    sizes = random.Random(0)
    offset = 0
    with path.open("wb", buffering=0) as stream:
        for number in range(classes):
            start = offset
            offset += BLOCK_BYTES
            for image in range(images):
                size_bytes = sizes.randint(*image_bytes)
                os.pwrite(stream.fileno(), ustar_header(f"n{number:08d}_{image}.JPEG", size_bytes), offset)
                offset += BLOCK_BYTES + padded_bytes(size_bytes)
            offset += len(END_OF_ARCHIVE)
            os.pwrite(stream.fileno(), ustar_header(f"n{number:08d}.tar", offset - start - BLOCK_BYTES), start)
        os.ftruncate(stream.fileno(), offset + len(END_OF_ARCHIVE))
        os.fsync(stream.fileno())


def ours(path: Path, num_members: int, *, threads: int, cold: bool) -> Callable[[], float]:
    """Return a listing of all members, by a store opened anew."""

    def run() -> float:
        if cold:
            forget(path)
        started_s = time.perf_counter()
        store = open_store(str(path.parent))
        parts: list[Part] = [
            (NAME, member.offset, member.offset + member.size_bytes) for member in walk_tar(store, NAME)
        ]
        found = sum(len(members) for members in walk_tars_concurrently(store, parts, threads=threads))
        passed_s = time.perf_counter() - started_s
        assert found == num_members
        return num_members / passed_s

    return run


def pythons(path: Path, *, num_classes: int) -> Callable[[], float]:
    """Return a listing of the first class tars by Python's reader."""

    def run() -> float:
        started_s = time.perf_counter()
        found = 0
        with tarfile.open(path) as outer:
            for member in islice(outer, num_classes):
                with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                    found += sum(1 for image in inner if image.isreg())
        return found / (time.perf_counter() - started_s)

    return run


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
