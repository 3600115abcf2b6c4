"""How fast does data_prep make packed shards?

    python -m benchmarks.prepare                                        # synthetic 64x64, and real JPEGs where found
    python -m benchmarks.prepare --samples 2000 --repeats 1 --jpegs ""

Each turn runs `python -m data_prep` anew, timed from its start to its end, with 1 and with 2 workers. MB/s are of
shards written. The JPEGs are a tar that holds one folder a class under `*/train/`; they are unpacked first.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import REPOSITORY, print_conditions, print_table, rate_text, take_turns
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.manifest import read_data_set

JPEGS = REPOSITORY.parent / "shared" / "data" / "imagenet-jpegs" / "imagenet_1k_samples.tar"
WORKERS = (1, 2)
RESOLUTION = 64


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=50_000, help="synthetic images")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--jpegs", default=str(JPEGS), help="tar of class folders of JPEGs; empty for none")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        sources = {"synthetic": ["source=synthetic", f"source.samples={options.samples}", "source.val_samples=0"]}
        if options.jpegs and Path(options.jpegs).is_file():
            root = unpacked(Path(options.jpegs), Path(folder).resolve() / "jpegs")
            sources["JPEGs"] = ["source=folder", f"source.root={root}", "source.val_frac=0"]
        else:
            print(f"JPEGs left out: no file {options.jpegs!r}\n")
        candidates: dict[str, Callable[[], float]] = {}
        record_bytes: dict[str, float] = {}

        def candidate(name: str, overrides: list[str]) -> Callable[[], float]:
            def run() -> float:
                rate, record_bytes[name] = time_preparation(overrides, Path(folder))
                return rate

            return run

        for source, overrides in sources.items():
            for workers in WORKERS:
                name = f"{source}, {workers} worker{'s' if workers > 1 else ''}"
                candidates[name] = candidate(name, [*overrides, f"engine.workers={workers}"])
        rates = take_turns(candidates, repeats=options.repeats)
    print_conditions(" ".join(["python -m benchmarks.prepare", *argv]), "pillow")
    rows = [
        [name, rate_text(values), f"{statistics.median(values) * record_bytes[name] / 1e6:.0f}", str(len(values))]
        for name, values in rates.items()
    ]
    print_table(["source", "images/s, median (min to max)", "MB/s", "n"], rows)
    return 0


def add_jpegs_options(parser: argparse.ArgumentParser, *, num_images: int) -> None:
    """Add what the benchmarks have in common that prepare real JPEGs, as many of them as one likes."""
    parser.add_argument("--images", type=int, default=num_images, help="the JPEGs, again and again under other names")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--jpegs", type=Path, default=JPEGS, help="tar of class folders of JPEGs under */train/")


def check_jpegs(options: argparse.Namespace) -> None:
    """Raise UserError where the tar is not there."""
    if not options.jpegs.is_file():
        raise UserError(f"--jpegs {options.jpegs}: no such file; a tar of class folders of JPEGs is wanted")


def time_preparation(overrides: list[str], folder: Path) -> tuple[float, float]:
    """Run the command and return images/s and the bytes of shard that an image takes."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        out = Path(scratch).resolve() / "out"
        size = [f"layout.resolution={RESOLUTION}", "layout.channels=rgb", "layout.shard_bytes=4000000"]
        command = [sys.executable, "-m", "data_prep", *overrides, *size, f"out={out}"]
        started_s = time.perf_counter()
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        passed_s = time.perf_counter() - started_s
        train = read_data_set(out).split("train")
    return train.num_samples / passed_s, sum(shard.size_bytes for shard in train.shards) / train.num_samples


def unpacked(archive: Path, out: Path) -> Path:
    """Unpack a tar and return the folder that holds its class folders."""
    with tarfile.open(archive) as stream:
        stream.extractall(out, filter="data")
    return next(path for path in sorted(out.glob("**/train")) if path.is_dir())


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
