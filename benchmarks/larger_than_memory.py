"""Does a data set several times the memory come in at the disk's sequential rate, with flat memory?

    python -m benchmarks.larger_than_memory             # 320,000 images of 64x64, 4.4 GB, under a limit of 1 GiB
    python -m benchmarks.larger_than_memory --disk-mb-per-s 60 --only "sequential; window; training"

Each candidate is a process of its own in a control group with the limit (benchmarks/memory_group.py), which it enters
when torch is imported; page cache and memory that it takes count against the limit. All start from a cold cache and
take turns:

    sequential              pread of 8 MB at a time through all shards, pages dropped behind: the disk's rate
    direct                  O_DIRECT reads of 2 MB in 4 threads, each a shard, past the page cache: the disk's best
    window                  BatchLoader, order=window, PagedFeed at the budget that memory_room.py gives
    window, kernel          the same order with plain mapped shards: the kernel's own read-ahead and reclaim
    full                    BatchLoader, order=full, PagedFeed with small blocks: random reads
    full, kernel            the same order with plain mapped shards
    training                as `window`, through a step of logistic regression, forward, backward and SGD
    training, in memory     the same steps over a part of the data that is in memory, without a limit

An MB/s is one of the shards' bytes passed, headers and all. Those that would take minutes are cut after --max-s, and
told by what they did until then.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import print_conditions, print_table, rate_text, synthetic_data, take_turns
from benchmarks.memory_group import MemoryGroup, NoGroupError
from pipeline.data.augment import normalise
from pipeline.data.loader import Batch, BatchLoader
from pipeline.data.memory_room import available_bytes, paging_budget, window_bytes
from pipeline.data.order import FullOrder, Order
from pipeline.data.packed import PackedReader
from pipeline.data.paged_feed import paged
from pipeline.data.window import WindowOrder
from pipeline.model.mlp import mlp
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.manifest import DataSet, ShardEntry, Split, read_data_set

RESOLUTION = 64
LANES, WINDOW_CHUNKS = 8, 4
SAMPLE_S = 0.05
CANDIDATES = (
    "sequential",
    "direct",
    "window",
    "window, kernel",
    "full",
    "full, kernel",
    "training",
    "training, in memory",
)


@dataclasses.dataclass(slots=True, kw_only=True)
class Outcome:
    """What a process measured of itself: rates, and memory over time in bytes."""

    images_per_s: float = 0.0
    mb_per_s: float = 0.0
    wait_frac: float = 0.0
    samples: int = 0
    is_once_each: bool = True
    read_bytes: int = 0
    budget_bytes: int = 0
    private_bytes: list[int] = dataclasses.field(default_factory=list)
    mapped_bytes: list[int] = dataclasses.field(default_factory=list)
    file_bytes: list[int] = dataclasses.field(default_factory=list)


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    if options.child:
        print(json.dumps(dataclasses.asdict(run_child(options, read_data_set(root_of(options))))))
        return 0
    data_set = prepared(options)
    chosen = [name.strip() for name in options.only.split(";")] if options.only else list(CANDIDATES)
    if unknown := set(chosen) - set(CANDIDATES):
        raise UserError(f"--only: no candidate {sorted(unknown)[0]!r}; there are: {'; '.join(CANDIDATES)}")
    outcomes: dict[str, list[Outcome]] = {name: [] for name in chosen}

    def run(name: str) -> float:
        outcomes[name].append(spawn(name, argv))
        return outcomes[name][-1].mb_per_s

    take_turns({name: functools.partial(run, name) for name in chosen}, repeats=options.repeats)
    report(outcomes, data_set, options, argv)
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.larger_than_memory", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--samples", type=int, default=320_000, help="images in the data set, 13.8 kB each")
    parser.add_argument("--limit-mb", type=int, default=1024, help="memory of each process's control group, MiB")
    parser.add_argument("--disk-mb-per-s", type=int, help="hold the disk to this rate, MB/s")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--shard-mb", type=int, default=8, help="MiB; order=window has 36 of them in memory at a time")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--max-s", type=float, default=30, help="seconds after which a candidate is cut")
    parser.add_argument("--only", help=f"some of: {'; '.join(CANDIDATES)}")
    parser.add_argument("--cache", type=Path, default=Path("data"), help="folder for the data set")
    parser.add_argument("--child", choices=CANDIDATES, help=argparse.SUPPRESS)
    parser.add_argument("--group", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def root_of(options: argparse.Namespace) -> Path:
    return Path(options.cache) / f"larger-{RESOLUTION}-{options.samples}-{options.shard_mb}"


def prepared(options: argparse.Namespace) -> DataSet:
    """Return the data set, prepared on the first use."""
    shard_bytes = options.shard_mb << 20
    return synthetic_data(root_of(options), samples=options.samples, resolution=RESOLUTION, shard_bytes=shard_bytes)


def spawn(name: str, argv: Sequence[str]) -> Outcome:
    """Run a candidate in a group of its own and return what it found.

    Raises:
        UserError: it failed, or no group can be made.
    """
    options = parse(argv)
    rate = options.disk_mb_per_s and options.disk_mb_per_s * 1_000_000
    limit_bytes = None if name == "training, in memory" else options.limit_mb << 20
    command = [sys.executable, "-m", "benchmarks.larger_than_memory", *argv, "--child", name]
    try:
        with MemoryGroup(limit_bytes=limit_bytes, read_bytes_per_s=rate, disk_of=options.cache) as group:
            process = subprocess.Popen(
                [*command, "--group", str(group.memory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            # The process says that it has imported everything, is put into the group, and is told so.
            process.stdout.readline()
            group.enter(process.pid)
            text, _ = process.communicate("\n")
            if process.returncode:
                raise UserError(f"{name}: ended with code {process.returncode} under {options.limit_mb} MiB")
    except NoGroupError as error:
        raise UserError(f"{error}; as root, or in a delegated group, there is one") from None
    return Outcome(**json.loads(text))


def run_child(options: argparse.Namespace, data_set: DataSet) -> Outcome:
    """Run a candidate in this process, which is put into its group before it takes memory for data."""
    # One thread of torch's own beside the loader's: two that share two cores with anything else wait for each other.
    torch.set_num_threads(1 if options.child.startswith("training") else os.cpu_count() or 1)
    split, outcome = data_set.split("train"), Outcome()
    drop_cache(split)
    print("ready", flush=True)
    sys.stdin.readline()
    with sampled(outcome, options.group):
        if options.child == "sequential":
            run_sequential(split, outcome)
        elif options.child == "direct":
            run_direct(split, outcome)
        else:
            run_loader(options, data_set, outcome)
    drop_cache(split)
    return outcome


def run_sequential(split: Split, outcome: Outcome) -> None:
    """Read all shards one after the other, as `dd bs=8M` does."""
    buffer = memoryview(bytearray(8 << 20))
    started_s = time.perf_counter()
    for shard in split.shards:
        descriptor = os.open(shard.path, os.O_RDONLY)
        offset = 0
        while size := os.preadv(descriptor, [buffer], offset):
            os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)
            offset += size
        os.close(descriptor)
        outcome.samples += shard.num_samples
        outcome.read_bytes += offset
    seconds = time.perf_counter() - started_s
    outcome.images_per_s, outcome.mb_per_s = outcome.samples / seconds, outcome.read_bytes / 1e6 / seconds


def run_direct(split: Split, outcome: Outcome) -> None:
    """Read all shards past the page cache, several at a time."""

    def read(shard: ShardEntry) -> int:
        # Page-aligned, as the disk writes into it.
        buffer = mmap.mmap(-1, 2 << 20)
        descriptor, offset = os.open(shard.path, os.O_RDONLY | os.O_DIRECT), 0
        while size := os.preadv(descriptor, [buffer], offset):
            offset += size
        os.close(descriptor)
        return offset

    started_s = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        outcome.read_bytes = sum(pool.map(read, split.shards))
    seconds = time.perf_counter() - started_s
    outcome.samples = split.num_samples
    outcome.images_per_s, outcome.mb_per_s = outcome.samples / seconds, outcome.read_bytes / 1e6 / seconds


def run_loader(options: argparse.Namespace, data_set: DataSet, outcome: Outcome) -> None:
    """Go through an epoch, or as much of it as there is time for."""
    split, layout = data_set.split("train"), data_set.packed
    assert layout is not None
    is_full = options.child.startswith("full")
    make_feed = None
    if not options.child.endswith(("kernel", "memory")):
        size_bytes = sum(shard.size_bytes for shard in split.shards)
        budget = paging_budget(data_bytes=size_bytes, available_bytes=available_bytes(), num_ranks=1)
        if budget is None:
            raise UserError(
                f"--samples={options.samples} fits the memory: more samples, or a smaller --limit-mb, wanted"
            )
        outcome.budget_bytes = budget
        make_feed = paged(data_set, "train", budget_bytes=budget, is_random=is_full)
    reader = PackedReader(data_set, "train", make_feed=make_feed)
    shard_counts = [shard.num_samples for shard in split.shards]
    if options.child == "training, in memory":
        # What fits in memory, brought there beforehand.
        shard_counts = shard_counts[: max(1, len(shard_counts) // 10)]
        for shard in split.shards[: len(shard_counts)]:
            shard.path.read_bytes()
    window = {"lanes": LANES, "window_chunks": WINDOW_CHUNKS}
    order: Order
    if is_full:
        order = FullOrder(num_samples=reader.num_samples, batch_size=options.batch_size, seed=0)
    else:
        order = WindowOrder(shard_counts=shard_counts, batch_size=options.batch_size, seed=0, **window)
    consume = training_step(data_set) if options.child.startswith("training") else lambda batch: None
    loader = BatchLoader(reader, order, rank=0, world_size=1)
    uses = np.zeros(reader.num_samples, dtype=np.int64)
    started_s = time.perf_counter()
    for batch in loader:
        consume(batch)
        uses[batch.sample_ids] += 1
        if time.perf_counter() - started_s > options.max_s:
            break
    seconds = time.perf_counter() - started_s
    outcome.samples = int(uses.sum())
    outcome.is_once_each = int(uses.max()) == 1
    outcome.images_per_s = outcome.samples / seconds
    outcome.mb_per_s = outcome.images_per_s * layout.record_bytes / 1e6
    outcome.wait_frac = loader.wait_s / seconds
    outcome.read_bytes = getattr(reader._feed, "bytes_read", 0)
    loader.close()
    reader.close()


def training_step(data_set: DataSet) -> Callable[[Batch], None]:
    """Return a step of logistic regression in plain torch."""
    layout = data_set.packed
    assert layout is not None
    model = mlp(in_features=layout.pixel_bytes, widths=[], num_classes=data_set.num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    mean = std = torch.full((layout.channels,), 127.5)

    def step(batch: Batch) -> None:
        loss = torch.nn.functional.cross_entropy(model(normalise(batch.images_BHWC, mean, std)), batch.labels_B)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


@contextmanager
def sampled(outcome: Outcome, group: Path) -> Iterator[None]:
    """Note this process's memory and its group's page cache, time after time, while the block runs."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(SAMPLE_S):
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            outcome.private_bytes.append(int(status["RssAnon"].split()[0]) << 10)
            outcome.mapped_bytes.append(int(status["RssFile"].split()[0]) << 10)
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            outcome.file_bytes.append(int(stat.get("total_cache", stat.get("file", 0))))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def drop_cache(split: Split) -> None:
    """Drop the shards from the page cache."""
    for shard in split.shards:
        descriptor = os.open(shard.path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def report(
    outcomes: dict[str, list[Outcome]], data_set: DataSet, options: argparse.Namespace, argv: Sequence[str]
) -> None:
    """Print the conditions, the table, and what the goal is about."""
    split, layout = data_set.split("train"), data_set.packed
    assert layout is not None
    print_conditions(" ".join(["python -m benchmarks.larger_than_memory", *argv]))
    size_bytes = sum(shard.size_bytes for shard in split.shards)
    needed = window_bytes(lanes=LANES, window_chunks=WINDOW_CHUNKS, chunk_bytes=split.shards[0].size_bytes)
    budgets = {outcome.budget_bytes >> 20 for each in outcomes.values() for outcome in each} - {0}
    print(
        f"{split.num_samples:,} images, {size_bytes / 1e9:.1f} GB, {size_bytes / (options.limit_mb << 20):.1f} times"
        f" the limit of {options.limit_mb} MiB; budget of the feed {min(budgets, default=0)} MiB, of which the windows"
        f" need {needed >> 20}; disk "
        + (f"held to {options.disk_mb_per_s} MB/s\n" if options.disk_mb_per_s else "as it is\n")
    )
    best = {name: sorted(outcome.mb_per_s for outcome in each)[len(each) // 2] for name, each in outcomes.items()}
    rows = []
    for name, each in outcomes.items():
        # Of a whole epoch: what is read ahead of the last batch of one that was cut would count as waste.
        is_whole = all(outcome.samples > split.num_samples - options.batch_size for outcome in each)
        read_bytes = [is_whole * outcome.read_bytes / (outcome.samples * layout.record_bytes) for outcome in each]
        rows.append(
            [
                name,
                rate_text([outcome.images_per_s for outcome in each]),
                rate_text([outcome.mb_per_s for outcome in each]),
                f"{best[name] / best['sequential']:.0%}" if "sequential" in best else "",
                rate_text([100 * outcome.wait_frac for outcome in each], decimals=1),
                rate_text(read_bytes, decimals=2) if any(read_bytes) else "",
                *(
                    f"{_settled(low, min) >> 20} to {_settled(low, max) >> 20}"
                    for low in (
                        [o.file_bytes for o in each],
                        [o.mapped_bytes for o in each],
                        [o.private_bytes for o in each],
                    )
                ),
                f"{min(outcome.samples for outcome in each):,}",
                "yes" if all(outcome.is_once_each for outcome in each) else "NO",
            ]
        )
    print_table(
        [
            "candidate",
            "images/s, median (min to max)",
            "MB/s",
            "of sequential",
            "time waiting, %",
            "bytes read for one used",
            "page cache, MiB",
            "mapped pages, MiB",
            "private, MiB",
            "images",
            "no image twice",
        ],
        rows,
    )


def _settled(series: list[list[int]], choose: Callable[[list[int]], int]) -> int:
    """Return the smallest or largest of what was noted after the first fifth of each run."""
    return choose([value for values in series for value in values[len(values) // 5 :] or [0]])


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
