"""Shards that the webdataset package wrote, adopted and read as our own, against what that package itself reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from data_prep.index import main as index
from pipeline.data.crop import CentreCrop
from pipeline.data.encoded import EncodedReader
from pipeline.data.loader import BatchLoader
from pipeline.data.order import FullOrder, Order, SequentialOrder
from pipeline.data.remote_set import make_feeds, open_data_set
from pipeline.data.shard_cache import CacheOptions
from pipeline.data.stream import StreamReader, stream_facts
from pipeline.data.window import WindowOrder
from pipeline.shards.manifest import DataSet, read_data_set
from served import served
from tiny_data import Pixels, random_pixels, rows_of

SIZE = (18, 23)
COUNTS = (7, 1, 12, 4, 9)
NUM = sum(COUNTS)
NUM_CLASSES = 5
# What the library writes for a sample of this number: members by extension, encoded by the library where it can.
KINDS: dict[str, Callable[[int], dict[str, object]]] = {
    "jpg and cls": lambda number: {"jpg": image(number, "JPEG"), "cls": number % 5, "txt": "a caption"},
    "png and json": lambda number: {"png": image(number, "PNG"), "json": {"label": number % 5, "more": [1]}},
    "webp, twice a picture": lambda number: {
        "webp": image(number, "WEBP", lossless=True),
        "depth.png": image(number + 1, "PNG"),
        "cls": str(number % 5),
    },
}
# JPEG leaves a decoder a rounding.
TOLERANCES = {"jpg and cls": 1, "png and json": 0, "webp, twice a picture": 0}


def image(number: int, kind: str, **options: bool) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(random_pixels(number, height=SIZE[0], width=SIZE[1])).save(stream, kind, **options)
    return stream.getvalue()


def write_tars(folder: Path, kind: str) -> list[str]:
    folder.mkdir()
    tars, number = [], 0
    for shard, count in enumerate(COUNTS):
        tars.append(str(folder / f"web-train-{shard:03d}.tar"))
        with webdataset.TarWriter(tars[-1]) as writer:
            for _ in range(count):
                writer.write({"__key__": f"some folder/{number:05d}", **KINDS[kind](number)})
                number += 1
    return tars


def read_by_webdataset(tars: list[str]) -> dict[str, tuple[Pixels, int]]:
    """Return pixels and label by key as the library itself reads and decodes them."""
    samples = {}
    for tar in tars:
        with Path(tar).open("rb") as stream:
            opened = [{"url": tar, "stream": stream}]
            stages = (tar_file_expander, group_by_keys, webdataset.decode("rgb8"))
            for sample in webdataset.DataPipeline(lambda opened=opened: iter(opened), *stages):
                pixels = next(sample[name] for name in ("jpg", "png", "webp") if name in sample)
                label = sample["cls"] if "cls" in sample else sample["json"]["label"]
                samples[sample["__key__"]] = (pixels, int(label))
    assert len(samples) == NUM
    return samples


def orders(data_set: DataSet) -> dict[str, Order]:
    counts = [shard.num_samples for shard in data_set.split("train").shards]
    return {
        "full": FullOrder(num_samples=NUM, batch_size=11, seed=2),
        "window": WindowOrder(shard_counts=counts, batch_size=11, seed=2, lanes=1, window_chunks=2, chunk_samples=4),
    }


def assert_equals_webdataset(
    reader: EncodedReader, order: Order, expected: dict[str, tuple[Pixels, int]], *, tolerance: int
) -> None:
    seen: list[int] = []
    keys: list[str] = []
    loader = BatchLoader(reader, order, rank=0, world_size=1)
    for batch in loader:
        for pixels, label, sample_id in zip(
            batch.images_BHWC.numpy(), batch.labels_B.tolist(), batch.sample_ids.tolist(), strict=True
        ):
            seen.append(sample_id)
            # The sidecars are there by now, wherever they came from.
            keys = keys or [row["source_key"].decode() for _, row in rows_of(reader.data_set, "train")]
            wanted_pixels, wanted_label = expected[keys[sample_id]]
            assert label == wanted_label
            assert np.abs(pixels.astype(int) - wanted_pixels).max() <= tolerance
    loader.close()
    assert sorted(seen) == list(range(NUM))


def open_reader(data_set: DataSet) -> EncodedReader:
    return EncodedReader(data_set, "train", size=SIZE, crop=CentreCrop(frac=1.0), threads=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_adopted_on_local_disk_every_sample_is_what_webdataset_reads(
    tmp_path: Path, kind: str, elsewhere: bool
) -> None:
    expected = read_by_webdataset(write_tars(tmp_path / "web", kind))
    out = tmp_path / "out" if elsewhere else tmp_path / "web"
    assert index([f"path={tmp_path / 'web'}", f"out={out}"]) == 0
    data_set = read_data_set(out)
    for order in orders(data_set).values():
        reader = open_reader(data_set)
        assert_equals_webdataset(reader, order, expected, tolerance=TOLERANCES[kind])
        reader.close()


@pytest.mark.parametrize("kind", ["jpg and cls", "png and json"])
def test_streamed_without_an_index_every_sample_is_what_the_adopted_shards_give(tmp_path: Path, kind: str) -> None:
    tars = write_tars(tmp_path / "web", kind)
    assert index([f"path={tmp_path / 'web'}", f"out={tmp_path / 'out'}"]) == 0
    facts = stream_facts(tars, split="train", num_samples=NUM, num_classes=NUM_CLASSES, size=SIZE)
    crop = CentreCrop(frac=1.0)
    stream = StreamReader(tars, facts=facts, crop=crop, seed=0, rank=0, world_size=1, in_order=True, threads=2)
    readers = (stream, open_reader(read_data_set(tmp_path / "out")))
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for reader in readers:
        loader = BatchLoader(reader, SequentialOrder(num_samples=NUM, batch_size=NUM), rank=0, world_size=1)
        (batch,) = loader
        found.append((batch.images_BHWC, batch.labels_B))
        loader.close()
        reader.close()
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("kind", ["jpg and cls", "png and json"])
@pytest.mark.parametrize("sidecars", ["beside the tars", "on this machine"])
@pytest.mark.slow
def test_adopted_on_a_web_server_every_sample_is_what_webdataset_reads(
    tmp_path: Path, kind: str, sidecars: str
) -> None:
    """Through the node's cache, first empty, then full."""
    expected = read_by_webdataset(write_tars(tmp_path / "web", kind))
    with served(tmp_path / "web") as url:
        if sidecars == "beside the tars":
            assert index([f"path={tmp_path / 'web'}"]) == 0
            location = url
        else:
            location = str(tmp_path / "out")
            assert index([f'path="{url}/web-train-{{000..004}}.tar"', f"out={location}"]) == 0
        opened = open_data_set(location, cache=CacheOptions(dir=str(tmp_path / "cache"), max_bytes=10_000_000))
        assert opened.is_remote
        for order in orders(opened.data_set).values():
            (make_feed,) = make_feeds([(opened, "train")], ranks=1)
            reader = EncodedReader(
                opened.data_set, "train", size=SIZE, crop=CentreCrop(frac=1.0), threads=2, make_feed=make_feed
            )
            assert_equals_webdataset(reader, order, expected, tolerance=TOLERANCES[kind])
            reader.close()
