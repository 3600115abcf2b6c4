"""How fast do batches of packed images come out: as uint8, and augmented as floats, on the CPU?

    python -m benchmarks.loader                     # 100,000 images of 64x64, batches of 1,024, random order, 2 workers
    python -m benchmarks.loader --samples 5000 --repeats 1 --only tarmac FFCV

Everything in a warm page cache. In one run, taking turns, each in a fresh process, timed from its third batch on:

    memcpy alone            a loop in C that copies random images, one after the other, in each thread: the limit
    floats written alone    a loop in C that writes as many floats, in each thread: the limit of the second table
    index_select alone      torch.index_select on the mapped shard in each thread
    tarmac's gather alone   our C loop in each thread
    tarmac                  BatchLoader as training uses it; floats by `augment_normalise` in the consumer
    tarmac, 1,000 shards    the same, a batch with rows of most shards
    tarmac, ... one pass    PackedReader.fill_augmented in each thread: no uint8 batch in between
    tarmac, no native code  the same as on a machine without a compiler
    FFCV                    its own file of raw images, OrderOption.RANDOM, os_cache
    numpy memmap by batch   fancy indexing, one thread
    torch DataLoader        over the memmap, item by item, default collate
    webdataset              our 1,000 shards: shard shuffle, shuffle(1000), decode("rgb8"), batched, WebLoader
    wids                    our shard by its manifest, random places, torch DataLoader
    litdata, MosaicML       their own formats, raw arrays, shuffled

Floats are mirrored, shifted by up to 4 pixels and normalised to float32. Peers that are not installed or do not run
are left out and named. To have them all: pip install -e . ffcv wids litdata mosaicml-streaming
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from benchmarks.loader_readers import FALLBACK, FLOAT_LIMIT, LIMIT, MANY, ONE_PASS, OURS, WAYS
from benchmarks.loader_setup import SIDE
from benchmarks.measure import REPOSITORY, print_conditions, print_table, rate_text, synthetic_data, take_turns, warm
from pipeline.data.order import slots_of
from pipeline.data.packed import PackedReader
from pipeline.native import SWITCH
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.record import PackedLayout

NUM_SHARDS = 1_000
Rates = dict[str, list[float]]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=100_000, help="images in the data set")
    parser.add_argument("--batch-size", type=int, default=1_024)
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn, at most")
    parser.add_argument("--workers", type=int, default=2, help="threads or processes of each")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="what to run")
    parser.add_argument("--cache", type=Path, default=Path("data"), help="folder for the data sets")
    options = parser.parse_args(argv)
    folder = (options.cache / f"bench-loader-{SIDE}-{options.samples}").resolve()
    make_data(folder, samples=options.samples)
    names = [name for name in options.only if is_installed(name) and is_prepared(name, folder)]
    warm([path for path in folder.rglob("*") if path.is_file()])
    batch_size = str(min(options.batch_size, options.samples))
    tables: dict[str, Rates] = {}
    for kind in ("uint8", "float32"):
        candidates = {
            name: partial(run_way, name, folder, batch_size, str(options.workers), kind, str(options.seconds))
            for name in names
            if kind in WAYS[name].kinds
        }
        tables[kind] = take_turns(candidates, repeats=options.repeats)
    print_conditions(
        " ".join(["python -m benchmarks.loader", *argv]), *sorted({WAYS[name].package for name in names} - {"torch"})
    )
    report("uint8", tables["uint8"], limit=LIMIT)
    report("float32", tables["float32"], limit=FLOAT_LIMIT)
    print(
        "\nGoals: uint8 at 85 % of the limit, 1.3 times FFCV, 45 times webdataset; from 1,000 shards at least half the"
        " rate of one; floats at 5 times FFCV"
    )
    return 0


def make_data(folder: Path, *, samples: int) -> None:
    """Make the data in one shard, in many shards, and as numpy arrays of images and labels, where it is not there."""
    record_bytes = PackedLayout(height=SIDE, width=SIDE, channels=3).record_bytes
    sizes = {"one": 1 << 40, "thousand": -(-samples // NUM_SHARDS) * record_bytes + 1_024}
    for name, shard_bytes in sizes.items():
        synthetic_data(folder / name, samples=samples, resolution=SIDE, shard_bytes=shard_bytes)
    if (folder / "labels.npy").exists():
        return
    reader = PackedReader(
        synthetic_data(folder / "one", samples=samples, resolution=SIDE, shard_bytes=1 << 40), "train"
    )
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(samples, *reader.image_shape)
    )
    labels = reader.fill(slots_of(np.arange(samples)), epoch=0, out=torch.from_numpy(images))
    images.flush()
    np.save(folder / "labels.npy", labels)
    reader.close()


def is_installed(name: str) -> bool:
    """Tell whether a way's package is there; say so where it is not."""
    try:
        return bool(version(WAYS[name].package))
    except PackageNotFoundError:
        print(f"{name} left out: no package {WAYS[name].package}\n")
        return False


def is_prepared(name: str, folder: Path) -> bool:
    """Make what a way reads, where that was not done before, and try what may fail; say so where it does."""
    try:
        run_program("prepare", name, str(folder))
        if WAYS[name].package != "torch" or WAYS[name].rate is not None:
            run_way(name, folder, "16", "1", WAYS[name].kinds[-1], "0.1")
    except UserError as error:
        print(f"{name} left out: {error}\n")
        return False
    return True


def run_way(name: str, folder: Path, *arguments: str) -> float:
    """Read in a fresh process and return images/s."""
    output = run_program("run", name, str(folder), *arguments)
    return float(json.loads(output.splitlines()[-1])["images_per_s"])


def run_program(action: str, name: str, *arguments: str) -> str:
    """Run benchmarks.loader_readers and return what it printed.

    Raises:
        UserError: it failed; the message is the last line that it wrote.
    """
    command = [sys.executable, "-m", "benchmarks.loader_readers", action, name, *arguments]
    environment = {**os.environ, SWITCH: "0" if name == FALLBACK else "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(["it failed", *done.stderr.strip().splitlines()][-1])
    return done.stdout


def report(kind: str, rates: Rates, *, limit: str) -> None:
    """Print a table: each way against the limit and against two of the peers."""
    medians = {name: statistics.median(values) for name, values in rates.items()}

    def against(name: str, other: str, form: str) -> str:
        return format(medians[name] / medians[other], form) if other in medians else ""

    print()
    print_table(
        [f"{kind} batches", "images/s, median (min to max)", "of the limit", "times FFCV", "times webdataset", "n"],
        [
            [
                name,
                rate_text(values),
                against(name, limit, ".1%"),
                against(name, "FFCV", ".2f"),
                against(name, "webdataset", ".1f"),
                str(len(values)),
            ]
            for name, values in rates.items()
        ],
    )
    for many, one in ((MANY, OURS), (f"{ONE_PASS}, 1,000 shards", ONE_PASS)):
        if many in medians and one in medians:
            print(f"\n{many}: {medians[many] / medians[one]:.0%} of its rate from one shard")


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
