"""Data sets behind URLs, read in batches: against the same data set in a folder, and against tarfile and Pillow."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from batch_worker import digests
from data_prep.index import main as index
from exact_resume import Shape, assert_resumes_exactly
from nginx_server import nginx_server
from pipeline.data import download, shard_cache
from pipeline.data.cached_feed import CachedFeed
from pipeline.data.counting import counters_of
from pipeline.data.crop import CentreCrop
from pipeline.data.encoded import EncodedReader
from pipeline.data.loader import BatchLoader
from pipeline.data.order import FullOrder, Order, SequentialOrder, slots_of
from pipeline.data.packed import PackedReader
from pipeline.data.reader import Reader
from pipeline.data.remote_set import OpenedSet, make_feeds, open_data_set
from pipeline.data.shard_cache import CacheOptions
from pipeline.data.window import WindowOrder
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.manifest import DataSet
from pipeline.shards.record import PackedLayout
from pipeline.storage import remote
from s3_server import s3_server
from shard_server import ShardServer, shard_server
from tiny_data import ROOT, copy_of, prepare_pictures, write_packed_set, write_pictures

SHARD_SAMPLES = 20
NUM_SHARDS = 12


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    layout = PackedLayout(height=8, width=8, channels=3)
    sizes = {"train": [SHARD_SAMPLES] * NUM_SHARDS, "val": [7, 8]}
    return write_packed_set(tmp_path_factory.mktemp("data") / "packed", shard_sizes=sizes, layout=layout)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(download, "ATTEMPT_S", 1)
    monkeypatch.setattr(shard_cache, "WRONG_BYTES_PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(remote, "BODY_RETRY_DELAYS_S", (0.01,))
    download._opened.cache_clear()


@pytest.fixture
def server(packed: DataSet) -> Iterator[ShardServer]:
    with shard_server(packed.root) as found:
        yield found


def entry_bytes(opened: OpenedSet, split: str = "train") -> int:
    return max(entry.size_bytes for entry in opened.entries[split])


def opened_at(url: str, tmp_path: Path, *, num_shards: float | None = None, **chosen: object) -> OpenedSet:
    """Open with a cache that has room for so many shards beside the manifests."""
    options = dataclasses.replace(CacheOptions(dir=str(tmp_path / "cache"), patience_s=30), **chosen)  # type: ignore[arg-type]
    opened = open_data_set(url, cache=options)
    if num_shards is None:
        return opened
    lists_bytes = sum(path.stat().st_size for path in (tmp_path / "cache" / "sets").rglob("*") if path.is_file())
    max_bytes = lists_bytes + int(num_shards * entry_bytes(opened))
    return dataclasses.replace(opened, cache=dataclasses.replace(options, max_bytes=max_bytes))


def reader_of(opened: OpenedSet, split: str = "train", *, ranks: int = 1) -> PackedReader:
    (feed,) = make_feeds([(opened, split)], ranks=ranks)
    assert feed is not None
    return PackedReader(opened.data_set, split, make_feed=feed)


def feed_of(reader: PackedReader) -> CachedFeed:
    assert isinstance(reader._feed, CachedFeed)
    return reader._feed


def window_order(data_set: DataSet, *, batch_size: int = 12) -> WindowOrder:
    counts = [shard.num_samples for shard in data_set.split("train").shards]
    return WindowOrder(shard_counts=counts, batch_size=batch_size, seed=5, lanes=2, window_chunks=2)


def full_order(data_set: DataSet, *, batch_size: int = 12) -> FullOrder:
    return FullOrder(num_samples=data_set.split("train").num_samples, batch_size=batch_size, seed=5)


def batches(
    reader: Reader, order: Order, *, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for batch in BatchLoader(reader, order, rank=rank, world_size=world_size):
        yield batch.images_BHWC.clone(), batch.labels_B.clone()


def cache_bytes(tmp_path: Path) -> int:
    return sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("order_name", ["full", "window", "none"])
def test_batches_through_the_cache_are_those_of_the_folder(
    order_name: str, world_size: int, packed: DataSet, server: ShardServer, tmp_path: Path
) -> None:
    order: Order = {
        "full": full_order(packed),
        "window": window_order(packed),
        "none": SequentialOrder(num_samples=packed.split("train").num_samples, batch_size=14),
    }[order_name]
    opened = opened_at(server.url, tmp_path, num_shards=None if order_name == "full" else 8)
    readers = [reader_of(opened, ranks=world_size) for _ in range(world_size)]
    local = PackedReader(packed, "train")
    for _ in range(2):
        streams = [batches(reader, order, rank=rank, world_size=world_size) for rank, reader in enumerate([*readers])]
        expected = [batches(local, order, rank=rank, world_size=world_size) for rank in range(world_size)]
        for step in range(order.steps_per_epoch):
            for found, wanted in zip(streams, expected, strict=True):
                for mine, folders in zip(next(found), next(wanted), strict=True):
                    assert torch.equal(mine, folders), f"step {step}"
        for stream in streams:
            assert next(stream, None) is None
        assert cache_bytes(tmp_path) <= opened.cache.max_bytes
    for reader in readers:
        reader.close()


def test_a_window_order_fetches_each_shard_about_once_an_epoch(
    packed: DataSet, server: ShardServer, tmp_path: Path
) -> None:
    reader = reader_of(opened_at(server.url, tmp_path, num_shards=6))
    list(batches(reader, window_order(packed)))
    cache = feed_of(reader).cache
    # A chunk on the border of two lanes is read by both.
    assert NUM_SHARDS - 1 <= cache.num_downloads <= NUM_SHARDS + 1
    assert feed_of(reader).waited_s > 0
    reader.close()


def test_the_second_run_downloads_nothing(packed: DataSet, server: ShardServer, tmp_path: Path) -> None:
    for num_downloads, num_hits in ((NUM_SHARDS, 0), (0, NUM_SHARDS)):
        opened = opened_at(server.url, tmp_path)
        reader = reader_of(opened)
        list(batches(reader, full_order(packed)))
        cache = feed_of(reader).cache
        assert (cache.num_downloads, cache.num_hits) == (num_downloads, num_hits)
        assert counters_of(reader) == {
            "cache_hits": num_hits,
            "cache_misses": num_downloads,
            "downloaded_bytes": sum(entry.size_bytes for entry in opened.entries["train"]) if num_downloads else 0,
        }
        reader.close()


@pytest.mark.slow
def test_a_run_through_a_small_cache_resumes_exactly(packed: DataSet, server: ShardServer, tmp_path: Path) -> None:
    opened = opened_at(server.url, tmp_path, num_shards=8)
    order = WindowOrder(shard_counts=[SHARD_SAMPLES] * NUM_SHARDS, batch_size=60, seed=5, lanes=2, window_chunks=2)
    shapes = (
        Shape(world_size=2, prefetch=2, micro_slots=7, threads=1),
        Shape(world_size=1, prefetch=5, micro_slots=None, threads=1),
    )
    assert_resumes_exactly(lambda shape: (reader_of(opened, ranks=shape.world_size), order), epochs=1, shapes=shapes)


@pytest.mark.parametrize("batch_size", [1, 12, 120])
def test_an_order_that_the_cache_cannot_hold_is_refused_at_the_start_with_what_to_type(
    batch_size: int, packed: DataSet, server: ShardServer, tmp_path: Path
) -> None:
    opened = opened_at(server.url, tmp_path, num_shards=8)
    reader = reader_of(opened)
    with pytest.raises(
        UserError, match=r"split train: this order reads .* read less at a time .order=window, .* cache.max_bytes="
    ) as caught:
        next(batches(reader, full_order(packed, batch_size=batch_size)))
    assert not [name for name in server.requests if name.endswith(".tar")]
    assert f"cache.max_bytes={opened.cache.max_bytes} leaves a rank" in str(caught.value)
    reader.close()
    told = int(str(caught.value).rpartition("=")[2])
    reader = reader_of(dataclasses.replace(opened, cache=dataclasses.replace(opened.cache, max_bytes=told)))
    assert len(list(batches(reader, full_order(packed)))) == 20
    reader.close()


def test_windows_larger_than_the_cache_are_refused_at_the_start(
    packed: DataSet, server: ShardServer, tmp_path: Path
) -> None:
    reader = reader_of(opened_at(server.url, tmp_path, num_shards=3.5))
    with pytest.raises(UserError, match="smaller windows or batches, fewer lanes"):
        next(batches(reader, window_order(packed)))
    reader.close()


def test_samples_may_be_asked_for_outside_an_iteration(packed: DataSet, server: ShardServer, tmp_path: Path) -> None:
    reader, local = reader_of(opened_at(server.url, tmp_path)), PackedReader(packed, "train")
    out, expected = torch.empty((3, 8, 8, 3), dtype=torch.uint8), torch.empty((3, 8, 8, 3), dtype=torch.uint8)
    slots = slots_of(np.array([3, 200, 77]))
    assert reader.fill(slots, epoch=0, out=out).tolist() == local.fill(slots, epoch=0, out=expected).tolist()
    assert torch.equal(out, expected)
    reader.close()


def test_the_error_of_a_download_reaches_the_consumer(packed: DataSet, server: ShardServer, tmp_path: Path) -> None:
    server.faults["train/shard-000007.tar"] = ["wrong"] * 100
    reader = reader_of(opened_at(server.url, tmp_path))
    with pytest.raises(DamageError, match=f"{server.url}/train/shard-000007.tar: its SHA-256 is not the manifest's"):
        list(batches(reader, full_order(packed)))
    reader.close()


@pytest.mark.slow
def test_a_server_that_fails_now_and_then_and_goes_away_changes_no_batch(
    packed: DataSet, server: ShardServer, tmp_path: Path
) -> None:
    server.faults["*"] = ["none"] * 4 + ["500", "reset", "none", "cut", "wrong"] * 3
    reader, local = reader_of(opened_at(server.url, tmp_path, num_shards=6)), PackedReader(packed, "train")
    order = window_order(packed)
    streams = batches(reader, order), batches(local, order)
    for step, (found, wanted) in enumerate(zip(*streams, strict=True)):
        if step == 3:
            server.is_away.set()
            threading.Timer(1.0, server.is_away.clear).start()
        assert torch.equal(found[0], wanted[0])
    reader.close()


@pytest.mark.parametrize("name", ["dataset.json", "train/manifest.json", "train/shard-000003.idx.npy"])
def test_changed_facts_are_damage_that_names_the_url(name: str, packed: DataSet, tmp_path: Path) -> None:
    root = copy_of(packed, tmp_path / "copy")
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[:-20] + b"7" + content[-19:])
    with shard_server(root) as server:

        def read_all() -> None:
            reader = reader_of(opened_at(server.url, tmp_path))
            try:
                list(batches(reader, full_order(packed)))
            finally:
                reader.close()

        with pytest.raises(DamageError, match=f"{server.url}/{name}: ") as caught:
            read_all()
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_no_data_set_and_no_server_are_one_line(server: ShardServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{server.url}/no: no dataset.json, so no finished data set"):
        opened_at(f"{server.url}/no", tmp_path)
    with pytest.raises(UserError, match=r"nowhere.invalid/x/dataset.json: .*no connection"):
        opened_at("http://nowhere.invalid/x", tmp_path)


def test_a_folder_needs_no_cache(packed: DataSet, tmp_path: Path) -> None:
    opened = open_data_set(str(packed.root), cache=CacheOptions(dir=str(tmp_path / "cache")))
    assert opened.data_set == packed
    assert make_feeds([(opened, "train"), (opened, "val")], ranks=1) == [None, None]
    assert not (tmp_path / "cache").exists()


def test_splits_share_a_cache_and_training_goes_on_after_validation(
    packed: DataSet, server: ShardServer, tmp_path: Path
) -> None:
    opened = opened_at(server.url, tmp_path, num_shards=9)
    train_feed, val_feed = make_feeds([(opened, "train"), (opened, "val")], ranks=1)
    train = PackedReader(opened.data_set, "train", make_feed=train_feed)
    val = PackedReader(opened.data_set, "val", make_feed=val_feed)
    local = PackedReader(packed, "train")
    for _ in range(2):
        found, wanted = batches(train, window_order(packed)), batches(local, window_order(packed))
        for step, (mine, folders) in enumerate(zip(found, wanted, strict=True)):
            assert torch.equal(mine[0], folders[0])
            if step % 10 == 5:
                assert len(list(batches(val, SequentialOrder(num_samples=15, batch_size=4)))) == 4
    assert cache_bytes(tmp_path) <= opened.cache.max_bytes
    train.close()
    val.close()


def test_encoded_sets_are_read_through_the_cache(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", num_each=9, size=24, extension="jpg")
    data_set = prepare_pictures(tmp_path / "in", tmp_path / "out", "layout=encoded", "layout.shard_bytes=9000")
    with shard_server(tmp_path / "out") as server:
        opened = opened_at(server.url, tmp_path)
        (feed,) = make_feeds([(opened, "train")], ranks=1)
        reader = EncodedReader(opened.data_set, "train", size=(8, 8), crop=CentreCrop(), make_feed=feed)
        local = EncodedReader(data_set, "train", size=(8, 8), crop=CentreCrop())
        order = full_order(data_set, batch_size=8)
        for mine, folders in zip(batches(reader, order), batches(local, order), strict=True):
            assert torch.equal(mine[0], folders[0])
            assert torch.equal(mine[1], folders[1])
        reader.close()


@pytest.mark.slow
def test_foreign_shards_at_a_url_are_read_with_local_and_with_remote_sidecars(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", num_each=9, size=24, extension="jpg")
    prepared = prepare_pictures(tmp_path / "in", tmp_path / "out", "layout=encoded", "layout.shard_bytes=9000")
    tars, sidecars = tmp_path / "www" / "tars", tmp_path / "www" / "sidecars"
    tars.mkdir(parents=True)
    for shard in prepared.split("train").shards:
        shutil.copy(shard.path, tars)
    with shard_server(tmp_path / "www") as server:
        shards = sorted(path.name for path in tars.iterdir())
        pattern = f"{server.url}/tars/shard-{{000000..{len(shards) - 1:06d}}}.tar"
        assert index([f"path='{pattern}'", f"out={sidecars}"]) == 0
        order = full_order(prepared, batch_size=8)
        found = []
        for location in (str(sidecars), f"{server.url}/sidecars"):
            opened = opened_at(location, tmp_path)
            assert opened.data_set.is_foreign
            (feed,) = make_feeds([(opened, "train")], ranks=1)
            reader = EncodedReader(opened.data_set, "train", size=(8, 8), crop=CentreCrop(), make_feed=feed)
            found.append(list(batches(reader, order)))
            reader.close()
        local = EncodedReader(prepared, "train", size=(8, 8), crop=CentreCrop())
        for mine, theirs, folders in zip(*found, batches(local, order), strict=True):
            assert torch.equal(mine[0], folders[0])
            assert torch.equal(theirs[0], folders[0])


def test_batches_from_s3_are_those_of_the_folder(
    packed: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        for path in packed.root.rglob("*"):
            if path.is_file():
                s3.client.upload_file(str(path), "bucket", f"sets/packed/{path.relative_to(packed.root).as_posix()}")
        reader = reader_of(opened_at("s3://bucket/sets/packed", tmp_path))
        local = PackedReader(packed, "train")
        for mine, folders in zip(batches(reader, full_order(packed)), batches(local, full_order(packed)), strict=True):
            assert torch.equal(mine[0], folders[0])
        reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_two_runs_at_once_on_one_small_cache_behind_nginx_read_what_lies_in_the_folder(
    world_size: int, packed: DataSet, tmp_path: Path
) -> None:
    """Each run alone would fill the cache with what it reads ahead; one of them is killed, and started again."""
    shutil.copytree(packed.root, tmp_path / "www" / "set")
    local = PackedReader(packed, "train")
    with nginx_server(tmp_path) as url:
        max_bytes = opened_at(f"{url}/set", tmp_path, num_shards=11).cache.max_bytes

        def start(seed: int, rank: int) -> subprocess.Popen[str]:
            arguments = [f"{url}/set", tmp_path / "cache", max_bytes, seed, rank, world_size]
            return subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("batch_worker.py")), *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        runs = {(seed, rank): start(seed, rank) for seed in (1, 2) for rank in range(world_size)}
        victim = runs[1, 0]
        assert victim.stdout is not None
        victim.stdout.readline()
        victim.kill()
        victim.communicate()
        runs[1, 0] = start(1, 0)
        for (seed, rank), process in runs.items():
            stdout, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, stderr
            assert stdout.split() == list(digests(local, seed=seed, rank=rank, world_size=world_size))
    assert cache_bytes(tmp_path) <= max_bytes
