"""How fast do batches of uint8 images come out?

    python -m benchmarks.loader                     # 100,000 images of 64x64, batches of 1,024, random order
    python -m benchmarks.loader --samples 5000 --repeats 1

In one run, taking turns, all from a warm page cache:

    index_select alone      torch.index_select on one mapped shard, indices known beforehand, one output: the limit
    tarmac                  BatchLoader as training uses it: order, gather, labels, a consumer
    tarmac, 100 shards      the same from many shards
    torch DataLoader        over a numpy memmap of the same pixels, item by item, default collate, 0 and 2 workers
    webdataset              the same shards: shard shuffle, shuffle(1000), decode("rgb8"), batched; 0 and 2 workers

The two peers are timed from their first batch on, which leaves their start out, over fewer images.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds

from benchmarks.measure import print_conditions, print_table, rate_text, synthetic_data, take_turns, warm
from pipeline.data.loader import BatchLoader
from pipeline.data.order import FullOrder, slots_of
from pipeline.data.packed import PackedReader
from pipeline.shards.errors import run_entry_point
from pipeline.shards.index import read_index
from pipeline.shards.manifest import DataSet
from pipeline.shards.mapping import MappedFiles
from pipeline.shards.record import PackedLayout

RESOLUTION = 64
NUM_SHARDS = 100
PEER_WORKERS = 2
LIMIT, OURS, WEBDATASET = "`index_select` alone", "tarmac", "webdataset"


class ItemDataset(torch.utils.data.Dataset[tuple[Any, int]]):
    """What a torch user would write over a numpy memmap."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return np.array(self.images[index]), int(self.labels[index])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=100_000, help="images in the data set")
    parser.add_argument("--batch-size", type=int, default=1_024)
    parser.add_argument("--repeats", type=int, default=7, help="turns")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the data in a turn, of the fast candidates")
    parser.add_argument("--peer-samples", type=int, default=20_000, help="images in a turn, of the peers")
    parser.add_argument("--cache", type=Path, default=Path("data"), help="folder for the data sets")
    options = parser.parse_args(argv)
    one, many, memmap = prepared(options.cache, samples=options.samples)
    batch_size, epochs = min(options.batch_size, options.samples), options.epochs
    peer_batches = max(2, min(options.samples, options.peer_samples) // batch_size)

    def peer(loader: Iterable[Any]) -> Callable[[], float]:
        return lambda: rate_after_first(islice(loader, peer_batches))

    dataset = ItemDataset(*memmap)
    candidates = {
        LIMIT: limit(one, batch_size=batch_size, epochs=epochs),
        OURS: ours(one, batch_size=batch_size, epochs=epochs),
        f"{OURS}, {len(many.split('train').shards)} shards": ours(many, batch_size=batch_size, epochs=epochs),
    }
    for workers in (0, PEER_WORKERS):
        named = f", {workers} workers"
        candidates["torch DataLoader on a memmap" + named] = peer(
            torch.utils.data.DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=workers)
        )
        candidates[WEBDATASET + named] = peer(web_loader(many, batch_size=batch_size, workers=workers))
    rates = take_turns(candidates, repeats=options.repeats)
    report(rates, samples=options.samples, batch_size=batch_size, epochs=epochs, peer_batches=peer_batches)
    return 0


def prepared(cache: Path, *, samples: int) -> tuple[DataSet, DataSet, tuple[Any, Any]]:
    """Return the data in one shard, in many shards, and as numpy memmaps of images and labels; page cache warm."""
    record_bytes = PackedLayout(height=RESOLUTION, width=RESOLUTION, channels=3).record_bytes
    sizes = {"one": 1 << 40, "many": -(-samples // NUM_SHARDS) * record_bytes + 1_024}
    one, many = (
        synthetic_data(
            cache / f"bench-{RESOLUTION}-{samples}-{name}",
            samples=samples,
            resolution=RESOLUTION,
            shard_bytes=shard_bytes,
        )
        for name, shard_bytes in sizes.items()
    )
    path = one.root / "images.npy"
    reader = PackedReader(one, "train")
    if not path.exists():
        part = path.with_suffix(".part")
        images = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(samples, *reader.image_shape))
        for start in range(0, samples, 1_000):
            part_of = slice(start, min(start + 1_000, samples))
            slots = slots_of(np.arange(part_of.start, part_of.stop))
            reader.fill(slots, epoch=0, out=torch.from_numpy(images[part_of]))
        images.flush()
        part.replace(path)
    reader.close()
    (shard,) = one.split("train").shards
    labels = read_index(shard.index_path, num_samples=samples)["label"].astype(np.int64)
    warm([path, *(shard.path for data_set in (one, many) for shard in data_set.split("train").shards)])
    return one, many, (np.load(path, mmap_mode="r"), labels)


def limit(data_set: DataSet, *, batch_size: int, epochs: int) -> Callable[[], float]:
    """Return a run of nothing but gathers from the one mapped shard."""
    (shard,), layout = data_set.split("train").shards, data_set.packed
    assert layout is not None
    mapped = MappedFiles([shard.size_bytes])
    mapped.map_file(0, shard.path)
    records = torch.from_numpy(mapped.array[: shard.num_samples * layout.record_bytes]).view(shard.num_samples, -1)
    pixels = records[:, layout.pixel_offset : layout.pixel_offset + layout.pixel_bytes]
    num_batches = shard.num_samples // batch_size
    batches = list(torch.randperm(shard.num_samples)[: num_batches * batch_size].view(num_batches, batch_size))
    out = torch.empty((batch_size, layout.pixel_bytes), dtype=torch.uint8)

    def run() -> float:
        assert len(mapped.array)  # keeps the mapping alive
        started_s = time.perf_counter()
        for _ in range(epochs):
            for ids in batches:
                torch.index_select(pixels, 0, ids, out=out)
        return epochs * len(batches) * batch_size / (time.perf_counter() - started_s)

    return run


def ours(data_set: DataSet, *, batch_size: int, epochs: int) -> Callable[[], float]:
    """Return a run of the loader, epoch after epoch."""
    reader = PackedReader(data_set, "train")
    order = FullOrder(num_samples=reader.num_samples, batch_size=batch_size, seed=0)
    finished_steps = 0
    loader = BatchLoader(reader, order, rank=0, world_size=1, first_step=lambda: finished_steps)

    def run() -> float:
        nonlocal finished_steps
        num_images = 0
        started_s = time.perf_counter()
        for _ in range(epochs):
            for batch in loader:
                num_images += len(batch.images_BHWC)
                finished_steps += 1
        return num_images / (time.perf_counter() - started_s)

    return run


def web_loader(data_set: DataSet, *, batch_size: int, workers: int) -> Iterable[Any]:
    """Return the shards through webdataset, as its documentation has it."""
    urls = [str(shard.path) for shard in data_set.split("train").shards]
    dataset = (
        wds.WebDataset(urls, shardshuffle=len(urls))
        .shuffle(1_000)
        .decode("rgb8")
        .to_tuple("ppm", "cls")
        .batched(batch_size, partial=False)
    )
    if workers == 0:
        return dataset  # type: ignore[no-any-return]
    return wds.WebLoader(dataset, batch_size=None, num_workers=workers)  # type: ignore[no-any-return]


def rate_after_first(batches: Iterator[tuple[Any, Any]]) -> float:
    """Return images/s from the arrival of the first batch on."""
    next(batches)
    num_images = 0
    started_s = time.perf_counter()
    for images, _ in batches:
        num_images += len(images)
    return num_images / (time.perf_counter() - started_s)


def report(rates: dict[str, list[float]], *, samples: int, batch_size: int, epochs: int, peer_batches: int) -> None:
    """Print the conditions, the table, and the two numbers that the goals are about."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best_web = max(median for name, median in medians.items() if name.startswith(WEBDATASET))
    print_conditions(f"python -m benchmarks.loader --samples {samples} --batch-size {batch_size}", "webdataset")
    rows = [
        [
            name,
            rate_text(values),
            f"{medians[name] / medians[LIMIT]:.1%}",
            f"{medians[name] / best_web:.1f}",
            str(len(values)),
            f"{epochs * (samples // batch_size) * batch_size if index < 3 else (peer_batches - 1) * batch_size:,}",
        ]
        for index, (name, values) in enumerate(rates.items())
    ]
    print_table(
        ["loader", "images/s, median (min to max)", "of the limit", "times webdataset", "n", "images each"], rows
    )
    print(
        f"\ntarmac reaches {medians[OURS] / medians[LIMIT]:.0%} of the limit (goal: 70 %)"
        f" and {medians[OURS] / best_web:.0f} times webdataset at its best (goal: 40)"
    )


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
