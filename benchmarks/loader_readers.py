"""One way of reading packed images, run in a process of its own: its images/s from the third batch on, as JSON.

    python -m benchmarks.loader_readers prepare FFCV folder             # makes of folder/images.npy what it reads
    python -m benchmarks.loader_readers run FFCV folder 1024 2 float32 2.0      # {"images_per_s": 38211.4}

The peers stand in benchmarks/loader_peers.py. benchmarks/loader.py says what stands behind the names.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loader_peers import (
    ffcv_loader,
    litdata_loader,
    memmap_batches,
    mosaicml_loader,
    torch_loader,
    web_loader,
    wids_loader,
    write_ffcv,
    write_litdata,
    write_mosaicml,
)
from benchmarks.loader_setup import MEAN, PADDING, SHAPE, STD, Setup, endless

# Before the clock starts: workers have started, code is compiled, queues are full.
BATCHES_BEFORE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way of reading.

    Attributes:
        batches: batches without end, or of one epoch where starting another would be most of the time.
        rate: instead of `batches`, what measures itself.
        kinds: what it can give.
        package: whose version the table names.
        prepare: makes folder/<store>.
    """

    batches: Callable[[Setup], Iterable[Any]] | None = None
    rate: Callable[[Setup], float] | None = None
    kinds: tuple[str, ...] = ("uint8", "float32")
    package: str = "torch"
    store: str = ""
    prepare: Callable[[Path, Path], None] | None = None


def main(argv: list[str]) -> None:
    action, name, folder = argv[0], argv[1], Path(argv[2])
    way = WAYS[name]
    if action == "prepare":
        if way.prepare is not None and not (folder / way.store).exists():
            part = folder / f"{way.store}.part"
            shutil.rmtree(part, ignore_errors=True)
            way.prepare(folder, part)
            part.rename(folder / way.store)
        return
    setup = Setup(
        folder=folder,
        batch_size=int(argv[3]),
        workers=int(argv[4]),
        floats=argv[5] == "float32",
        seconds=float(argv[6]),
    )
    rate = rate_of(way.batches(setup), setup) if way.batches is not None else way.rate and way.rate(setup)
    sys.stdout.write("\n" + json.dumps({"images_per_s": rate}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # some peers' threads and workers outlive their loader


def rate_of(batches: Iterable[Any], setup: Setup) -> float:
    """Return images/s from the third batch on, for some seconds or to the end."""
    started_s, num_images = 0.0, 0
    for number, batch in enumerate(batches):
        num_images += num_in(batch, setup)
        passed_s = time.perf_counter() - started_s
        if number == BATCHES_BEFORE:
            started_s, num_images = time.perf_counter(), 0
        elif number > BATCHES_BEFORE and passed_s >= setup.seconds:
            break
    return num_images / (time.perf_counter() - started_s)


def num_in(batch: Any, setup: Setup) -> int:
    """Return the number of images in a batch, and see that it is what was asked for."""
    images = batch["image"] if isinstance(batch, dict) else batch[0] if isinstance(batch, (list, tuple)) else batch
    assert int(np.prod(images.shape[1:])) == int(np.prod(SHAPE)), images.shape
    assert str(images.dtype).endswith("float32" if setup.floats else "uint8"), images.dtype
    return int(images.shape[0])


# Limits: the same work with nothing around it, indices known beforehand, a thread for each worker.


def gathers_alone(setup: Setup, *, gather: str) -> float:
    """Return images/s of threads that each fill a buffer of their own from one mapped shard."""
    reader, order = open_ours(setup, "one")
    batches = [reader._find(slots.sample_ids)[0] for slots in ahead(order, epoch=0)]
    pixels = reader.layout.pixel_bytes
    bytes_out = pixels * (4 if setup.floats else 1)
    buffers = [torch.empty((setup.batch_size, bytes_out), dtype=torch.uint8) for _ in range(setup.workers)]
    source = reader._mapped.array
    call: Callable[[Any, torch.Tensor], Any]
    if gather == "index_select":
        rows = torch.as_strided(
            torch.from_numpy(source).view(torch.int64), ((len(source) - pixels) // 64 + 1, pixels // 8), (8, 1)
        )

        def call(offsets: Any, out: torch.Tensor) -> None:
            torch.index_select(rows, 0, torch.from_numpy(offsets // 64), out=out.view(torch.int64))
    else:
        path = str(setup.folder / "limit" / "limit.so")
        library = ctypes.CDLL(path) if gather != "tarmac_gather" else reader._native
        function = getattr(library, gather)
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        function.argtypes, function.restype = (pointer, pointer, number, number, pointer), None

        def call(offsets: Any, out: torch.Tensor) -> None:
            function(source.ctypes.data, offsets.ctypes.data, len(offsets), pixels, out.data_ptr())

    counts, ends_s = [0] * setup.workers, [0.0] * setup.workers

    def work(thread: int, *, seconds: float) -> None:
        torch.set_num_threads(1)
        started_s, mine = time.perf_counter(), batches[thread :: setup.workers]
        for count, offsets in enumerate(chain.from_iterable(iter(lambda: mine, None)), start=1):
            call(offsets, buffers[thread])
            passed_s = time.perf_counter() - started_s
            if passed_s >= seconds:
                counts[thread], ends_s[thread] = count, passed_s
                return

    for seconds in (0.2, setup.seconds):
        threads = [threading.Thread(target=work, args=(k,), kwargs={"seconds": seconds}) for k in range(setup.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(counts) * setup.batch_size / max(ends_s)


def compile_limit(folder: Path, out: Path) -> None:
    out.mkdir(parents=True)
    source = Path(__file__).with_name("loader_limit.c")
    subprocess.run(["cc", "-O3", "-shared", "-fPIC", "-o", str(out / "limit.so"), str(source)], check=True)


# Ours.


def open_ours(setup: Setup, store: str) -> tuple[Any, Any]:
    from pipeline.data.order import FullOrder
    from pipeline.data.packed import PackedReader
    from pipeline.shards.manifest import read_data_set

    reader = PackedReader(read_data_set(setup.folder / store), "train")
    return reader, FullOrder(num_samples=reader.num_samples, batch_size=setup.batch_size, seed=0)


def ahead(order: Any, *, epoch: int) -> Iterator[Any]:
    from pipeline.data.order import rank_slots

    return rank_slots(order, epoch=epoch, first_step=0, rank=0, world_size=1)


def options_of_augmentation() -> dict[str, Any]:
    return {
        "flip": True,
        "crop_padding": PADDING,
        "mean_C": torch.from_numpy(MEAN),
        "std_C": torch.from_numpy(STD),
    }


def ours(setup: Setup, *, store: str) -> Iterator[Any]:
    """As training reads: the loader's uint8 batches; floats are made of them in the consumer."""
    from pipeline.data.augment import augment_normalise, augmentation_bits
    from pipeline.data.loader import BatchLoader

    reader, order = open_ours(setup, store)
    steps = 0
    loader = BatchLoader(reader, order, rank=0, world_size=1, first_step=lambda: steps)
    out = torch.empty((setup.batch_size, int(np.prod(SHAPE))))
    for batch in endless(loader):
        steps += 1
        if setup.floats:
            bits_B = augmentation_bits(batch.positions_B, seed=0, epoch=batch.epoch)
            yield augment_normalise(batch.images_BHWC, bits_B, **options_of_augmentation(), out=out)
        else:
            yield batch.images_BHWC


def ours_in_one_pass(setup: Setup, *, store: str) -> Iterator[Any]:
    """From the shards into floats, a batch in each thread."""
    from pipeline.data.augment import augmentation_bits

    reader, order = open_ours(setup, store)
    buffers = deque(torch.empty((setup.batch_size, int(np.prod(SHAPE)))) for _ in range(setup.workers + 1))
    waiting: deque[Any] = deque()

    def fill(slots: Any, epoch: int, out: torch.Tensor) -> torch.Tensor:
        bits_B = augmentation_bits(torch.from_numpy(slots.positions), seed=0, epoch=epoch)
        reader.fill_augmented(slots, bits_B, **options_of_augmentation(), out=out)
        return out

    pool = ThreadPoolExecutor(setup.workers, initializer=torch.set_num_threads, initargs=(1,))
    steps = ((epoch, slots) for epoch in range(1 << 30) for slots in ahead(order, epoch=epoch))
    for epoch, slots in steps:
        waiting.append(pool.submit(fill, slots, epoch, buffers.popleft()))
        if not buffers:
            batch = waiting.popleft().result()
            yield batch
            buffers.append(batch)


LIMIT, FLOAT_LIMIT, OURS, MANY = "memcpy alone", "floats written alone", "tarmac", "tarmac, 1,000 shards"
ONE_PASS = "tarmac, shards to floats in one pass"
FALLBACK = "tarmac, no native code"
WAYS = {
    LIMIT: Way(rate=partial(gathers_alone, gather="copy_rows"), kinds=("uint8",), store="limit", prepare=compile_limit),
    FLOAT_LIMIT: Way(
        rate=partial(gathers_alone, gather="write_floats"), kinds=("float32",), store="limit", prepare=compile_limit
    ),
    "index_select alone": Way(rate=partial(gathers_alone, gather="index_select"), kinds=("uint8",)),
    "tarmac's gather alone": Way(rate=partial(gathers_alone, gather="tarmac_gather"), kinds=("uint8",)),
    OURS: Way(batches=partial(ours, store="one")),
    MANY: Way(batches=partial(ours, store="thousand")),
    ONE_PASS: Way(batches=partial(ours_in_one_pass, store="one"), kinds=("float32",)),
    f"{ONE_PASS}, 1,000 shards": Way(batches=partial(ours_in_one_pass, store="thousand"), kinds=("float32",)),
    FALLBACK: Way(batches=partial(ours, store="one")),
    "FFCV": Way(batches=ffcv_loader, package="ffcv", store="ffcv", prepare=write_ffcv),
    "numpy memmap by batch": Way(batches=memmap_batches, kinds=("uint8",)),
    "torch DataLoader": Way(batches=torch_loader),
    "webdataset": Way(batches=web_loader, package="webdataset"),
    "wids": Way(batches=wids_loader, package="wids"),
    "litdata": Way(batches=litdata_loader, package="litdata", store="litdata", prepare=write_litdata),
    "MosaicML": Way(batches=mosaicml_loader, package="mosaicml-streaming", store="mosaicml", prepare=write_mosaicml),
}

if __name__ == "__main__":
    main(sys.argv[1:])
