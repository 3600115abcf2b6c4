"""How fast do JPEGs of original size become batches of random crops, and with how much memory?

    python -m benchmarks.encoded                                    # 8,000 ImageNet JPEGs, 2 workers, every peer found
    python -m benchmarks.encoded --images 2000 --repeats 1 --only tarmac FFCV

Random resized crop to 224x224 and flip, uint8 batches of 256, everything in a warm page cache. In one run, taking
turns, each in a fresh process, timed from its third batch on:

    crops decoded alone     libjpeg-turbo 3 decodes the rows and columns of the crops and nothing else: the limit
    tarmac                  BatchLoader and EncodedReader over shards of the encoded layout, antialiased
    tarmac, no native code  the same as on a machine without a compiler: simplejpeg whole, cykooz-resizer
    torch DataLoader        a data set of files; simplejpeg and OpenCV's linear resize, or Pillow
    webdataset              our shards: shuffle(1000), simplejpeg, WebLoader
    litdata, MosaicML       their own formats with the JPEGs' bytes, simplejpeg
    FFCV                    its own file of JPEGs at quality 90, RandomResizedCropRGBImageDecoder
    DALI on the CPU         readers.file, decoders.image_random_crop, resize, flip
    grain                   MapDataset of files, simplejpeg, mp_prefetch
    spdl                    a thread pool over FFmpeg (which must be installed) and its filters, or simplejpeg

Processor time is that of all of a reader's processes: on a loaded machine it is the number to go by. Memory is the
most that they had at once beside the files' pages in the page cache: anonymous and shared, each shared page counted
once. Peers that are not installed or do not run are left out and named. To have them all:

    pip install -e . webdataset litdata mosaicml-streaming ffcv nvidia-dali-cuda120 grain spdl-io spdl-core \
        opencv-python-headless
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from benchmarks.encoded_peers import FALLBACK, OURS, PEERS, SIDE, descendants
from benchmarks.measure import REPOSITORY, print_conditions, print_table, rate_text, take_turns, warm
from benchmarks.prepare import add_jpegs_options, check_jpegs, unpacked
from benchmarks.prepare_peers import repeated
from pipeline.data.crop import RandomCrop
from pipeline.data.decode import libjpegs, make_jobs
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.index import read_index
from pipeline.shards.manifest import read_data_set
from pipeline.shards.mapping import MappedFiles

# Of each reader, one number a turn.
Notes = dict[str, list[float]]

LIMIT = "crops decoded alone"
SAMPLING_S = 0.2


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoded", description=(__doc__ or "").split("\n")[0])
    add_jpegs_options(parser, num_images=8_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), help="readers to run")
    parser.add_argument("--cache", type=Path, default=Path("data"), help="folder for what the readers read")
    options = parser.parse_args(argv)
    check_jpegs(options)
    folder = (options.cache / f"encoded-{options.images}").resolve()
    unpack_into(folder, options.jpegs, num_images=options.images)
    names = [name for name in options.only if is_installed(name) and prepared(name, folder)]
    warm([path for path in folder.rglob("*") if path.is_file() and ".part" not in str(path)])
    memory: Notes = {name: [] for name in names}
    cpu_ms: Notes = {name: [] for name in [LIMIT, *names]}
    candidates: dict[str, Callable[[], float]] = {
        name: partial(run_reader, name, folder, options, memory=memory[name], cpu_ms=cpu_ms[name]) for name in names
    }
    if OURS in names and (limit := build_limit(folder, threads=options.workers, cpu_ms=cpu_ms[LIMIT])):
        candidates = {LIMIT: limit, **candidates}
    rates = take_turns(candidates, repeats=options.repeats)
    packages = sorted({PEERS[name].package for name in names} - {"tarmac", "torch"})
    decoders = [name for name in ("simplejpeg", "opencv-python-headless") if is_package(name)]
    print_conditions(" ".join(["python -m benchmarks.encoded", *argv]), "pillow", *decoders, *packages)
    report(rates, memory, cpu_ms, num_images=options.images)
    return 0


def unpack_into(folder: Path, jpegs: Path, *, num_images: int) -> None:
    """Make folder/files of class folders with so many JPEGs, the archive's again and again, if it is not there."""
    if (folder / "files").is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        repeated(unpacked(jpegs, Path(scratch) / "once"), num_images=num_images).rename(folder / "files")


def is_package(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def is_installed(name: str) -> bool:
    """Tell whether a reader's package is there; say so where it is not."""
    found = is_package(PEERS[name].package)
    if not found:
        print(f"{name} left out: no package {PEERS[name].package}\n")
    return found


def prepared(name: str, folder: Path) -> bool:
    """Make what a reader reads, where that was not done before, and try it; say so where it fails."""
    try:
        run_program("prepare", name, str(folder))
    except UserError as error:
        print(f"{name} left out: {error}\n")
        return False
    return True


def run_reader(
    name: str, folder: Path, options: argparse.Namespace, *, memory: list[float], cpu_ms: list[float]
) -> float:
    """Run a reader in a fresh process and return its images/s; note its memory and processor time."""
    output = run_program("run", name, str(folder), str(options.batch_size), str(options.workers), memory=memory)
    found = json.loads(output.splitlines()[-1])
    cpu_ms.append(found["cpu_ms_per_image"])
    return float(found["images_per_s"])


def run_program(action: str, name: str, *arguments: str, memory: list[float] | None = None) -> str:
    """Run benchmarks.encoded_peers and return what it printed.

    Raises:
        UserError: it failed; the message is the last line that it wrote.
    """
    command = [sys.executable, "-m", "benchmarks.encoded_peers", action, name, *arguments]
    environment = {**os.environ, "TARMAC_NATIVE": "0" if name == FALLBACK else ""}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        program = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=output, stderr=errors)
        peak = 0
        while program.poll() is None:
            time.sleep(SAMPLING_S)
            if memory is not None:
                peak = max(peak, memory_bytes(program.pid))
        if memory is not None:
            memory.append(peak)
        output.seek(0)
        errors.seek(0)
        if program.returncode:
            raise UserError(["it failed", *errors.read().strip().splitlines()][-1])
        return output.read()


def memory_bytes(root: int) -> int:
    """Return the memory of a process and its descendants, but for pages of files; shared pages count once."""
    total = 0
    for process in descendants(root):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has just ended
        fields = dict(line.split(":", 1) for line in lines[1:])
        total += sum(int(fields[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem")) * 1024
    return total


def build_limit(folder: Path, *, threads: int, cpu_ms: list[float]) -> Callable[[], float] | None:
    """Return what decodes the crops of every image and does nothing with them; None where there is no compiler."""
    if shutil.which("cc") is None:
        print(f"{LIMIT} left out: no C compiler\n")
        return None
    library_path = folder / "limit.so"
    sources = [Path(__file__).with_name("encoded_limit.c"), REPOSITORY / "pipeline" / "native" / "resample.c"]
    flags = ["-O3", "-std=gnu11", "-shared", "-fPIC", "-o", str(library_path)]
    subprocess.run(["cc", *flags, *map(str, sources), "-ldl", "-lm"], check=True)
    library = ctypes.CDLL(str(library_path))
    if all(library.tarmac_jpeg_open(path.encode()) for path in libjpegs()):
        print(f"{LIMIT} left out: no libjpeg-turbo 3\n")
        return None
    split = read_data_set(folder / "tarmac").split("train")
    mapped = MappedFiles([shard.size_bytes for shard in split.shards])
    for number, shard in enumerate(split.shards):
        mapped.map_file(number, shard.path)
    indices = [read_index(shard.index_path, num_samples=shard.num_samples) for shard in split.shards]
    columns = {
        name: np.concatenate([rows[name].astype(np.int64) for rows in indices])
        for name in ("height", "width", "image_bytes")
    }
    places = [rows["image_offset"].astype(np.int64) + mapped.starts[n] for n, rows in enumerate(indices)]
    sizes = {"heights_B": columns["height"], "widths_B": columns["width"]}
    views = RandomCrop(seed=1).views(np.arange(split.num_samples), epoch=0, size=(SIDE, SIDE), **sizes)
    jobs = make_jobs(views, offsets=np.concatenate(places), sizes_bytes=columns["image_bytes"], **sizes)
    np.random.default_rng(1).shuffle(jobs)

    def decode_alone(begun: ctypes.c_int64) -> None:
        room = np.empty(16 * int(columns["width"].max() + 64) * 3, dtype=np.uint8)
        pointers = (mapped.array.ctypes.data, jobs.ctypes.data, len(jobs))
        library.decode_alone(*(ctypes.c_void_p(value) for value in pointers), ctypes.byref(begun), _pointer(room))

    def run() -> float:
        begun, started_s, started_cpu_s = ctypes.c_int64(0), time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decode_alone, [begun] * threads))
        cpu_ms.append(1e3 * (time.process_time() - started_cpu_s) / len(jobs))
        return len(jobs) / (time.perf_counter() - started_s)

    return run


def _pointer(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def report(rates: Notes, memory: Notes, cpu_ms: Notes, *, num_images: int) -> None:
    """Print the table and the numbers that the goals are about, by the clock and by processor time."""
    medians, most, cpu = (
        {name: statistics.median(values) for name, values in notes.items() if values}
        for notes in (rates, memory, cpu_ms)
    )
    rows = [
        [
            name if name in (LIMIT, OURS, FALLBACK) else f"{name} ({version(PEERS[name].package)})",
            rate_text(values),
            f"{medians[OURS] / medians[name]:.2f}" if OURS in medians else "",
            f"{cpu[name]:.3f}",
            f"{cpu[name] / cpu[OURS]:.2f}" if OURS in cpu else "",
            f"{most[name] / 1e6:,.0f} MB" if name in most else "",
            str(len(values)),
        ]
        for name, values in rates.items()
    ]
    by_cpu = "processor ms an image"
    header = ["reader", "images/s, median (min to max)", "tarmac is faster by", by_cpu, "of tarmac's", "memory", "n"]
    print_table(header, rows)
    peers = {name for name in rates if name not in (LIMIT, OURS, FALLBACK)}
    if OURS not in rates or not peers:
        return
    best, leanest = max(peers, key=medians.__getitem__), min(peers, key=cpu.__getitem__)
    least = min(peers, key=most.__getitem__)
    told = [
        f"{medians[OURS] / medians[best]:.2f} times the images/s of {best}, the fastest of the others (goal: 1.4)",
        f"{cpu[leanest] / cpu[OURS]:.2f} times those of {leanest} by processor time, which load does not change",
        f"{most[OURS] / most[least]:.2f} of the memory of {least}, which needs the least (goal: 0.5)",
    ]
    if LIMIT in rates:
        share = medians[OURS] / medians[LIMIT]
        told.append(f"{share:.0%} of the limit (goal: 75 %), {cpu[LIMIT] / cpu[OURS]:.0%} by processor time")
    print(f"\n{num_images:,} images. tarmac: {'; '.join(told)}\n")


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
