"""How fast is making training-ready data, against the writers of other formats?

    python -m benchmarks.prepare_peers                                # 8,000 ImageNet JPEGs to 64x64, 2 processes
    python -m benchmarks.prepare_peers --resolutions 64 224 --repeats 5

All take the same JPEG files from a warm page cache and end with raw pixels on disk, each as its users run it:

    tarmac           python -m data_prep: the whole command, its start, checksums, fsync and card included
    FFCV             DatasetWriter, an indexed data set that opens with Pillow, RGBImageField(max_resolution=...)
    MosaicML         MDSWriter, a writer a process, Pillow's resize, an ndarray column
    litdata          optimize, Pillow's resize, samples that are Pillow images
    webdataset       ShardWriter, a writer a process, Pillow's resize, ppm members
    webdataset, cv2  the same with OpenCV's decoder and area resize, as img2dataset has it

Peers are timed inside a process that has imported them, which leaves their start out. Those that are not installed
are left out and named.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.measure import REPOSITORY, print_conditions, print_table, rate_text, take_turns, warm
from benchmarks.prepare import add_jpegs_options, check_jpegs, unpacked
from pipeline.shards.errors import run_entry_point
from pipeline.shards.manifest import read_data_set

OURS = "tarmac"
SHARD_BYTES = 8_000_000

# A JPEG file and its class number.
Labelled = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A writer of another format.

    `write(images, out, resolution, workers)` makes the data set; `modules` are imported before the clock starts.
    """

    package: str
    modules: tuple[str, ...]
    write: Callable[[list[Labelled], Path, int, int], None]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prepare_peers", description=(__doc__ or "").split("\n")[0]
    )
    add_jpegs_options(parser, num_images=8_000)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[64])
    options = parser.parse_args(argv)
    check_jpegs(options)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        root = repeated(unpacked(options.jpegs, Path(folder).resolve() / "once"), num_images=options.images)
        classes = sorted(path.name for path in root.iterdir())
        images = [(str(path), classes.index(path.parent.name)) for path in sorted(root.glob("*/*"))]
        warm([Path(path) for path, _ in images])
        peers = {name: peer for name, peer in PEERS.items() if importable(name, peer)}
        tables = {
            resolution: take_turns(
                {
                    OURS: partial(time_ours, root, resolution=resolution, workers=options.workers),
                    **{
                        name: partial(time_peer, name, images, root, resolution=resolution, workers=options.workers)
                        for name in peers
                    },
                },
                repeats=options.repeats,
            )
            for resolution in options.resolutions
        }
    packages = {peer.package for peer in peers.values()}
    print_conditions(" ".join(["python -m benchmarks.prepare_peers", *argv]), "pillow", *sorted(packages))
    for resolution, rates in tables.items():
        report(rates, resolution=resolution, num_images=len(images))
    return 0


def repeated(root: Path, *, num_images: int) -> Path:
    """Return a folder of class folders with `num_images` names: hard links to the files of `root`, again and again."""
    out = root.parent / "repeated"
    files = sorted(root.glob("*/*"))
    for number in range(num_images):
        file = files[number % len(files)]
        target = out / file.parent.name / f"{number // len(files):03d}-{file.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)
    return out


def importable(name: str, peer: Peer) -> bool:
    """Tell whether a peer can be imported, in a process of its own; say so where it cannot."""
    with one_process() as executor:
        fault = executor.submit(import_fault, peer.modules).result()
    if fault:
        print(f"{name} left out: {fault}\n")
    return fault is None


def import_fault(modules: tuple[str, ...]) -> str | None:
    """Return why one of these cannot be imported, None where all can be."""
    try:
        for module in modules:
            import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def one_process() -> ProcessPoolExecutor:
    """Return an executor that is one fresh process, told nothing of ours and free to start others."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_silence)


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def time_ours(root: Path, *, resolution: int, workers: int) -> float:
    """Run the command and return images/s."""
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        out = Path(scratch) / "out"
        command = [
            *(sys.executable, "-m", "data_prep", "source=folder", f"source.root={root}", "source.val_frac=0"),
            *(f"layout.resolution={resolution}", "layout.channels=rgb", f"layout.shard_bytes={SHARD_BYTES}"),
            *(f"engine.workers={workers}", f"out={out}"),
        ]
        started_s = time.perf_counter()
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        passed_s = time.perf_counter() - started_s
        return read_data_set(out).split("train").num_samples / passed_s


def time_peer(name: str, images: list[Labelled], root: Path, *, resolution: int, workers: int) -> float:
    """Run a peer and return images/s."""
    out = Path(tempfile.mkdtemp(dir=root.parent))
    try:
        with one_process() as executor:
            passed_s, written_bytes = executor.submit(run_peer, name, images, out, resolution, workers).result()
    finally:
        shutil.rmtree(out)
    least_bytes = len(images) * resolution * resolution  # FFCV keeps the shape, so a side may be shorter
    if written_bytes < least_bytes:
        raise RuntimeError(f"{name} wrote {written_bytes} bytes; at least {least_bytes} wanted")
    return len(images) / passed_s


def run_peer(name: str, images: list[Labelled], out: Path, resolution: int, workers: int) -> tuple[float, int]:
    """Return the seconds that a peer took, once imported, and the bytes that it wrote."""
    peer = PEERS[name]
    for module in peer.modules:
        import_module(module)
    started_s = time.perf_counter()
    peer.write(images, out, resolution, workers)
    passed_s = time.perf_counter() - started_s
    return passed_s, sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def by_pillow(path: str, resolution: int) -> Image.Image:
    """Open, crop to the centre and resize as torchvision's transforms do by default: antialiased, bilinear."""
    with Image.open(path) as picture:
        return ImageOps.fit(picture.convert("RGB"), (resolution, resolution), Image.Resampling.BILINEAR)


def by_opencv(path: str, resolution: int) -> Image.Image:
    """Decode, resize the shortest side and crop with OpenCV."""
    cv2 = import_module("cv2")
    pixels_HWC = cv2.cvtColor(cv2.imread(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    height, width = pixels_HWC.shape[:2]
    scale = resolution / min(height, width)
    size = (max(resolution, round(scale * width)), max(resolution, round(scale * height)))
    pixels_HWC = cv2.resize(pixels_HWC, size, interpolation=cv2.INTER_AREA)
    top, left = (size[1] - resolution) // 2, (size[0] - resolution) // 2
    return Image.fromarray(pixels_HWC[top : top + resolution, left : left + resolution])


class OpenedImages:
    """An indexed data set, as FFCV's examples have it from torchvision's ImageFolder."""

    def __init__(self, images: list[Labelled]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.images[index]
        with Image.open(path) as picture:
            return picture.convert("RGB"), label


def write_ffcv(images: list[Labelled], out: Path, resolution: int, workers: int) -> None:
    fields = import_module("ffcv.fields")
    columns = {
        "image": fields.RGBImageField(write_mode="raw", max_resolution=resolution),
        "label": fields.IntField(),
    }
    writer = import_module("ffcv.writer").DatasetWriter(str(out / "train.beton"), columns, num_workers=workers)
    writer.from_indexed_dataset(OpenedImages(images))


def write_mosaicml(images: list[Labelled], out: Path, resolution: int, workers: int) -> None:
    in_processes(_write_mds, images, out, resolution, workers)
    import_module("streaming.base.util").merge_index(str(out), keep_local=True)


def _write_mds(images: list[Labelled], out: Path, number: int, resolution: int) -> None:
    columns = {"image": f"ndarray:uint8:{resolution},{resolution},3", "label": "int"}
    writer = import_module("streaming").MDSWriter
    with writer(columns=columns, out=str(out / f"{number:02d}"), size_limit=SHARD_BYTES) as stream:
        for path, label in images:
            stream.write({"image": np.asarray(by_pillow(path, resolution)), "label": label})


def write_litdata(images: list[Labelled], out: Path, resolution: int, workers: int) -> None:
    import_module("litdata").optimize(
        fn=partial(_litdata_sample, resolution=resolution),
        inputs=images,
        output_dir=str(out),
        chunk_bytes=SHARD_BYTES,
        num_workers=workers,
    )


def _litdata_sample(labelled: Labelled, *, resolution: int) -> dict[str, Any]:
    path, label = labelled
    return {"image": by_pillow(path, resolution), "class": label}


def write_webdataset(images: list[Labelled], out: Path, resolution: int, workers: int) -> None:
    in_processes(partial(_write_tars, by_pillow), images, out, resolution, workers)


def write_webdataset_opencv(images: list[Labelled], out: Path, resolution: int, workers: int) -> None:
    in_processes(partial(_write_tars, by_opencv), images, out, resolution, workers)


def _write_tars(
    opened: Callable[[str, int], Image.Image], images: list[Labelled], out: Path, number: int, resolution: int
) -> None:
    pattern = str(out / f"{number:02d}-%06d.tar")
    with import_module("webdataset").ShardWriter(pattern, maxsize=SHARD_BYTES, verbose=0) as stream:
        for index, (path, label) in enumerate(images):
            content = io.BytesIO()
            opened(path, resolution).save(content, format="PPM")
            stream.write({"__key__": f"{number:02d}{index:09d}", "ppm": content.getvalue(), "cls": label})


def in_processes(
    write: Callable[[list[Labelled], Path, int, int], None],
    images: list[Labelled],
    out: Path,
    resolution: int,
    workers: int,
) -> None:
    """Call `write(part of the images, out, number of the part, resolution)` in as many processes as parts."""
    with ProcessPoolExecutor(workers) as executor:
        parts: Iterator[list[Labelled]] = (images[number::workers] for number in range(workers))
        for done in [executor.submit(write, part, out, number, resolution) for number, part in enumerate(parts)]:
            done.result()


PEERS = {
    "FFCV": Peer(package="ffcv", modules=("ffcv.writer", "ffcv.fields"), write=write_ffcv),
    "MosaicML streaming": Peer(package="mosaicml-streaming", modules=("streaming",), write=write_mosaicml),
    "litdata": Peer(package="litdata", modules=("litdata",), write=write_litdata),
    "webdataset": Peer(package="webdataset", modules=("webdataset",), write=write_webdataset),
    "webdataset, cv2": Peer(package="webdataset", modules=("webdataset", "cv2"), write=write_webdataset_opencv),
}


def report(rates: dict[str, list[float]], *, resolution: int, num_images: int) -> None:
    """Print the table of a resolution, and the number that the goal is about."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    rows = [
        [name, rate_text(values), f"{medians[OURS] / medians[name]:.2f}", str(len(values)), f"{num_images:,}"]
        for name, values in rates.items()
    ]
    print_table(
        [f"writer, {resolution}x{resolution}", "images/s, median (min to max)", "tarmac is faster by", "n", "images"],
        rows,
    )
    others = {name: median for name, median in medians.items() if name != OURS}
    if others:
        best = max(others, key=lambda name: others[name])
        times = medians[OURS] / others[best]
        print(f"\ntarmac makes {times:.2f} times the images/s of {best}, the fastest of the others (goal: 2)\n")


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
