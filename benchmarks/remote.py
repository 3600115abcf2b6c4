"""How fast does an epoch come in from a web server, and how fast once it is in the cache?

    python -m benchmarks.remote                         # 80,000 images of 64x64, 1.1 GB in 80 shards, nginx on loopback
    python -m benchmarks.remote --mb-per-s 100 --samples 20000 --repeats 1

Wants nginx. In one run, taking turns, each in a fresh process, one epoch from its start (opening included) to its end:

    downloads alone         all shards by obstore, 8 at a time, into files, fsynced: the limit of a cold cache
    tarmac, cold            data.path=http://..., order=window, an empty cache: downloaded, checked, published, read
    tarmac, warm            the same again with what the first left
    tarmac, half a cache    the same, cold, with room for half of the shards
    tarmac, local           the same shards as a folder
    webdataset              WebDataset(urls), shuffle(1000), decode("rgb8"), batched, 2 workers: no cache
    webdataset, cold        the same with cache_dir=..., empty
    webdataset, warm        the same again
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.request import urlopen

from benchmarks.measure import REPOSITORY, print_conditions, print_table, rate_text, synthetic_data, take_turns
from pipeline.build_data import Wanted, open_splits
from pipeline.build_order import build_order, shard_counts_of
from pipeline.data.loader import BatchLoader
from pipeline.data_config import CacheConfig, DataConfig, WindowOrderConfig
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.manifest import ShardEntry, read_data_set
from pipeline.storage import open_store
from pipeline.world import World

RESOLUTION = 64
NUM_SHARDS, RECORD_BYTES = 80, 14_336
CACHE_BYTES = 1 << 40
DOWNLOADS = 8
LIMIT = "downloads alone"
CONFIG = """
{user}daemon off; worker_processes 2; pid {folder}/nginx.pid; error_log stderr error;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on; {rate}
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remote", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=80_000, help="images in the data set, 13.8 kB each")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--mb-per-s", type=int, help="of each connection to the server, MB/s; left out: no limit")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--only", nargs="+", help="ways to run, as the table names them, beside the downloads alone")
    parser.add_argument("--cache", type=Path, default=Path("data"), help="folder for the data set and the caches")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        name, place = options.child
        rate = CHILDREN[name](place, options.cache, options)
        sys.stdout.write("\n" + json.dumps(rate) + "\n")
        sys.stdout.flush()
        os._exit(0)  # a peer's workers outlive its loader
    root = options.cache / f"remote-{RESOLUTION}-{options.samples}"
    shard_bytes = options.samples * RECORD_BYTES // NUM_SHARDS
    data_set = synthetic_data(root, samples=options.samples, resolution=RESOLUTION, shard_bytes=shard_bytes)
    size_bytes = sum(shard.size_bytes for shard in data_set.split("train").shards)
    with tempfile.TemporaryDirectory(dir=options.cache) as scratch, served(root, Path(scratch), options) as url:
        ours, theirs = Path(scratch) / "ours", Path(scratch) / "theirs"

        def run(child: str, place: str, cache: Path, *, fresh: bool) -> float:
            if fresh:
                shutil.rmtree(cache, ignore_errors=True)
            cache.mkdir(exist_ok=True)
            return spawned(child, place, cache, [*argv, "--folder", str(root.resolve())])

        ways = {
            LIMIT: partial(run, "downloads", url, Path(scratch) / "files", fresh=True),
            "tarmac, half a cache": partial(run, "ours, half", url, ours, fresh=True),
            "tarmac, cold": partial(run, "ours", url, ours, fresh=True),
            "tarmac, warm": partial(run, "ours", url, ours, fresh=False),
            "tarmac, local": partial(run, "ours", str(root.resolve()), ours, fresh=False),
            "webdataset": partial(run, "webdataset", url, theirs, fresh=True),
            "webdataset, cold": partial(run, "webdataset, cached", url, theirs, fresh=True),
            "webdataset, warm": partial(run, "webdataset, cached", url, theirs, fresh=False),
        }
        only = set(options.only or ways)
        if unknown := sorted(only - {*ways}):
            parser.error(f"--only: no way {unknown[0]!r}; there are: {'; '.join(ways)}")
        rates = take_turns({name: ways[name] for name in ways if name in {LIMIT, *only}}, repeats=options.repeats)
    print_conditions(" ".join(["python -m benchmarks.remote", *argv]), "obstore", "webdataset")
    limit = sorted(rates[LIMIT])[len(rates[LIMIT]) // 2]
    rows = []
    for name, values in rates.items():
        median = sorted(values)[len(values) // 2]
        mb = median * size_bytes / options.samples / 1e6
        rows.append([name, rate_text(values), f"{mb:,.0f}", f"{100 * median / limit:.0f} %", str(len(values))])
    print_table(["way", "images/s, median (min to max)", "MB/s", "of the downloads alone", "n"], rows)
    return 0


@contextmanager
def served(root: Path, scratch: Path, options: argparse.Namespace) -> Iterator[str]:
    """Serve a folder by nginx."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise UserError("benchmarks.remote: no nginx here; install it (apt-get install nginx)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder, url = scratch.resolve(), f"http://127.0.0.1:{port}"
    rate = f"limit_rate {options.mb_per_s}000k;" if options.mb_per_s else ""
    user = "user root; " if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(user=user, folder=folder, root=root.resolve(), port=port, rate=rate))
    server = subprocess.Popen(
        [program, "-p", str(folder), "-c", str(config), "-e", "stderr"], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            try:
                with urlopen(f"{url}/dataset.json", timeout=5):
                    break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


def spawned(child: str, place: str, cache: Path, argv: list[str]) -> float:
    """Run one way in a process of its own, from a cold page cache of what it will write; return its images/s."""
    command = [sys.executable, "-m", "benchmarks.remote", *argv, "--cache", str(cache), "--child", child, place]
    os.sync()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{child}: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def downloads(place: str, cache: Path, options: argparse.Namespace) -> float:
    """Bring all shards into files."""
    names = [f"train/{shard.path.name}" for shard in _shards(options)]
    store = open_store(place)
    started_s = time.perf_counter()

    def fetch(name: str) -> None:
        size = store.size_of(name)
        assert size is not None
        with (cache / Path(name).name).open("wb") as stream:
            stream.write(store.read_at(name, offset=0, size_bytes=size))
            stream.flush()
            os.fsync(stream.fileno())

    with ThreadPoolExecutor(DOWNLOADS) as pool:
        list(pool.map(fetch, names))
    return float(options.samples / (time.perf_counter() - started_s))


def ours(place: str, cache: Path, options: argparse.Namespace, *, cache_frac: float | None = None) -> float:
    """An epoch of the training loader."""
    sizes = [shard.size_bytes for shard in _shards(options)]
    max_bytes = CACHE_BYTES if cache_frac is None else int(cache_frac * sum(sizes))
    world = World(rank=0, size=1, local_rank=0, local_size=1, cuda=False)
    started_s = time.perf_counter()
    data = DataConfig(path=place)
    _, (reader,) = open_splits(data, CacheConfig(dir=str(cache), max_bytes=max_bytes), [Wanted(name="train")], world)
    counts = shard_counts_of(reader)
    order = build_order(
        WindowOrderConfig(window_chunks=1), data=data, shard_counts=counts, slots=options.batch_size, seed=0
    )
    loader = BatchLoader(reader, order, rank=0, world_size=1)
    num_images = sum(len(batch.images_BHWC) for batch in loader)
    rate = num_images / (time.perf_counter() - started_s)
    loader.close()
    reader.close()
    return rate


def webdataset(place: str, cache: Path, options: argparse.Namespace, *, is_cached: bool = False) -> float:
    """An epoch as webdataset's documentation has it."""
    import webdataset as wds

    urls = [f"{place}/train/{shard.path.name}" for shard in _shards(options)]
    told = {"cache_dir": str(cache)} if is_cached else {}
    started_s = time.perf_counter()
    data = wds.WebDataset(urls, shardshuffle=len(urls), **told).shuffle(1_000).decode("rgb8").to_tuple("ppm", "cls")
    loader = wds.WebLoader(data.batched(options.batch_size), batch_size=None, num_workers=2)
    num_images = sum(len(images) for images, _ in loader)
    return num_images / (time.perf_counter() - started_s)


def _shards(options: argparse.Namespace) -> Sequence[ShardEntry]:
    return read_data_set(options.folder).split("train").shards


CHILDREN: dict[str, Callable[[str, Path, argparse.Namespace], float]] = {
    "downloads": downloads,
    "ours": ours,
    "ours, half": partial(ours, cache_frac=0.5),
    "webdataset": webdataset,
    "webdataset, cached": partial(webdataset, is_cached=True),
}


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
