"""Encoded and foreign shards, read in batches: against tarfile and Pillow, damaged, by several ranks."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from data_prep.index import main as index
from pipeline.data.crop import CentreCrop, RandomCrop
from pipeline.data.encoded import EncodedReader
from pipeline.data.loader import BatchLoader
from pipeline.data.order import FullOrder, Slots, slots_of
from pipeline.data.reader import AllAtHand, Int64Array
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.manifest import DataSet, read_data_set
from pipeline.shards.mapping import MappedFiles
from tiny_data import copy_of, prepare_pictures, random_pixels, rows_of, save_pixels

SIZE = (16, 12)
NUM_TRAIN = 25
# See test_decode.py.
MOST_ROUNDED = 2


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """JPEG, PNG and WebP images of many sizes, in class folders, in several shards."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(NUM_TRAIN):
        extension = ("jpg", "jpg", "png", "webp")[number % 4]
        pixels = random_pixels(number, height=20 + number, width=40 - number)
        save_pixels(root / "in" / "train" / f"class{number % 3}" / f"{number:03d}.{extension}", pixels)
    for label in range(3):
        save_pixels(root / "in" / "val" / f"class{label}" / "0.jpg", random_pixels(label, height=20, width=20))
    options = ["layout=encoded", "layout.shard_bytes=16000"]
    data_set = prepare_pictures(root / "in", root / "out", *options)
    assert len(data_set.split("train").shards) > 3
    return data_set


def jpeg(seed: int, *, width: int = 20) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(random_pixels(seed, height=16, width=width)).save(stream, "JPEG")
    return stream.getvalue()


def open_reader(data_set: DataSet, split: str = "train", **options: object) -> EncodedReader:
    return EncodedReader(data_set, split, **{"size": SIZE, "crop": CentreCrop(), "threads": 2, **options})


def read(reader: EncodedReader, slots: Slots, *, epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
    out = torch.zeros((len(slots), *reader.image_shape), dtype=torch.uint8)
    labels = reader.fill(slots, epoch=epoch, out=out)
    return out.numpy(), labels


def stored_samples(data_set: DataSet, split: str) -> list[tuple[Image.Image, int]]:
    """Read a split's images and labels by Python's tar reader."""
    samples, label = [], -1
    for shard in data_set.split(split).shards:
        with tarfile.open(shard.path) as archive:
            for member in archive:
                content = archive.extractfile(member).read()
                if member.name.endswith(".cls"):
                    label = int(content)
                elif not member.name.endswith((".json", ".txt")):
                    samples.append((Image.open(io.BytesIO(content)).convert("RGB"), label))
    return samples


def centre_by_pillow(picture: Image.Image) -> np.ndarray:
    scale = 0.875 * min(picture.height / SIZE[0], picture.width / SIZE[1])
    width, height = scale * SIZE[1], scale * SIZE[0]
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    box = (left, top, left + width, top + height)
    return np.asarray(picture.resize(SIZE[::-1], Image.Resampling.BILINEAR, box=box)).astype(int)


def test_it_reads_what_tarfile_and_pillow_read(pictures: DataSet) -> None:
    stored = stored_samples(pictures, "train")
    ids = np.random.default_rng(0).permutation(NUM_TRAIN)
    reader = open_reader(pictures)
    images, labels = read(reader, slots_of(ids))
    assert reader.num_samples == len(stored) == NUM_TRAIN
    assert reader.image_shape == (*SIZE, 3)
    assert labels.tolist() == [stored[i][1] for i in ids]
    for image, sample_id in zip(images, ids, strict=True):
        assert np.abs(image - centre_by_pillow(stored[sample_id][0])).max() <= MOST_ROUNDED


def test_without_native_code_the_pixels_differ_by_roundings_and_a_line_says_so(
    pictures: DataSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slots, crop = slots_of(np.arange(NUM_TRAIN)), RandomCrop(seed=3)
    native, _ = read(open_reader(pictures, crop=crop), slots)
    caplog.clear()
    monkeypatch.setenv("TARMAC_NATIVE", "0")
    fallback, _ = read(open_reader(pictures, crop=crop), slots)
    assert np.abs(native.astype(int) - fallback).max() <= MOST_ROUNDED
    assert [record.getMessage() for record in caplog.records] == [
        "data: JPEGs of train are decoded at about 3/5 of the speed: native code is turned off by TARMAC_NATIVE=0"
    ]


def test_adopted_shards_are_read_like_our_own(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    samples = {f"train/{number:04d}": (jpeg(number, width=20 + number), number % 3) for number in range(10)}
    with webdataset.ShardWriter(str(tmp_path / "web" / "pets-train-%03d.tar"), maxcount=4, verbose=0) as writer:
        for key, (image, label) in samples.items():
            writer.write({"__key__": key, "jpg": image, "cls": label, "txt": "a caption"})
    assert index([f"path={tmp_path / 'web'}", f"out={tmp_path / 'out'}"]) == 0
    data_set = read_data_set(tmp_path / "out")
    keys = [row["source_key"].decode() for _, row in rows_of(data_set, "train")]
    images, labels = read(open_reader(data_set), slots_of(np.arange(10)))
    assert labels.tolist() == [samples[key][1] for key in keys]
    for image, key in zip(images, keys, strict=True):
        assert np.abs(image - centre_by_pillow(Image.open(io.BytesIO(samples[key][0])))).max() <= MOST_ROUNDED


def test_labels_of_several_classes_come_as_stored(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    labels = [["owl", "cat"], [], ["dog"]]
    # The second shard's sidecar has one column less.
    for shard, numbers in (("a", (0, 1)), ("b", (2,))):
        with webdataset.TarWriter(str(tmp_path / "web" / f"{shard}-train.tar")) as writer:
            for number in numbers:
                writer.write({"__key__": f"{number}", "jpg": jpeg(number), "json": {"tags": labels[number]}})
    assert index([f"path={tmp_path / 'web'}", "label_field=tags", f"classes={tmp_path / 'names.txt'}"]) == 0
    reader = open_reader(read_data_set(tmp_path / "web"))
    assert read(reader, slots_of(np.array([2, 0, 1])))[1].tolist() == [[1, -1], [0, 2], [-1, -1]]
    found = read(reader, slots_of(np.array([2])))[1]
    assert found.tolist() == [[1]]
    assert found.dtype == np.int64


def test_the_same_batches_whatever_ranks_threads_and_start(pictures: DataSet) -> None:
    order = FullOrder(num_samples=NUM_TRAIN, batch_size=8, seed=5)
    crop = RandomCrop(seed=5)

    def batches(world_size: int, threads: int, first_step: int, micro_slots: int | None = None) -> list[np.ndarray]:
        ranks = []
        for rank in range(world_size):
            reader = open_reader(pictures, crop=crop, threads=threads)
            loader = BatchLoader(
                reader,
                order,
                rank=rank,
                world_size=world_size,
                first_step=lambda: first_step,
                micro_slots=micro_slots,
            )
            ranks.append([batch.images_BHWC.numpy().copy() for batch in loader])
            loader.close()
            reader.close()
        steps = [np.concatenate(parts) for parts in zip(*ranks, strict=True)]
        pieces = 8 // world_size // (micro_slots or 8 // world_size)
        return [np.concatenate(steps[i : i + pieces]) for i in range(0, len(steps), pieces)]

    whole = batches(1, 1, 3)
    assert len(whole) == 3
    for other in (batches(2, 3, 3), batches(4, 1, 3), batches(1, 2, 3, micro_slots=2)):
        assert np.array_equal(whole, other)
    assert np.array_equal(whole[2:], batches(2, 2, 5))
    assert not np.array_equal(whole, batches(1, 1, 0))


@pytest.mark.parametrize("switch", ["", "0"])
@pytest.mark.parametrize("damage", ["one bit", "no header"])
def test_a_damaged_image_is_an_error_that_names_all_that_is_known_and_how_to_mend_it(
    pictures: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, switch: str
) -> None:
    monkeypatch.setenv("TARMAC_NATIVE", switch)
    root = copy_of(pictures, tmp_path / "set with space")
    rows = rows_of(read_data_set(root), "train")
    bad = next(k for k, (_, row) in enumerate(rows) if k > 9 and row["source_key"].endswith(b".jpg"))
    shard, row = rows[bad]
    record = sum(path == shard for path, _ in rows[:bad])
    content = bytearray(shard.read_bytes())
    start, length = int(row["image_offset"]), int(row["image_bytes"])
    if damage == "one bit":
        content[start + length * 2 // 3] ^= 1
    else:
        content[start : start + length // 4] = bytes(length // 4)
    shard.write_bytes(content)
    reader = open_reader(read_data_set(root), verify=damage == "one bit")
    with pytest.raises(DamageError) as caught:
        read(reader, slots_of(np.arange(NUM_TRAIN)))
    message = str(caught.value)
    assert message.startswith(f"{shard}: record {record} (sample {row['source_key'].decode()}) ")
    assert "its bytes have changed, CRC-32 differs" in message
    assert f"python -m data_prep.repair 'path={root}'" in message
    others = np.delete(np.arange(NUM_TRAIN), bad)
    assert len(read(reader, slots_of(others))[0]) == NUM_TRAIN - 1


@pytest.mark.parametrize("switch", ["", "0"])
def test_a_jpeg_that_has_changed_so_that_pillow_takes_it_is_found_where_libjpeg_warns(
    pictures: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv("TARMAC_NATIVE", switch)
    root = copy_of(pictures, tmp_path / "set")
    shard, row = next(found for found in rows_of(read_data_set(root), "train") if found[1]["source_key"][-3:] == b"jpg")
    content = bytearray(shard.read_bytes())
    end = int(row["image_offset"]) + int(row["image_bytes"])
    content[end - 200 : end] = b"\xff\xd9" * 100  # the end, too early
    shard.write_bytes(content)
    reader = open_reader(read_data_set(root), crop=CentreCrop(frac=1.0), size=(400, 200))
    assert Image.open(io.BytesIO(bytes(content[int(row["image_offset"]) : end]))).convert("RGB")
    with pytest.raises(DamageError, match="is damaged: its bytes have changed"):
        read(reader, slots_of(np.arange(NUM_TRAIN)))


def test_an_image_that_was_stored_undecodable_is_told_from_a_changed_one(tmp_path: Path) -> None:
    pixels = random_pixels(0, height=90, width=90)
    save_pixels(tmp_path / "in" / "train" / "a" / "0.jpg", pixels)
    save_pixels(tmp_path / "in" / "train" / "b" / "1.jpg", pixels)
    cut = tmp_path / "in" / "train" / "b" / "1.jpg"
    cut.write_bytes(cut.read_bytes()[:2000])
    data_set = prepare_pictures(tmp_path / "in", tmp_path / "out", "layout=encoded", "layout.decode_check=false")
    with pytest.raises(DamageError, match=r"those that were stored; prepare the data again with layout\.decode_check"):
        read(open_reader(data_set), slots_of(np.arange(2)))


def test_a_missing_or_cut_shard_is_found_at_the_start(pictures: DataSet, tmp_path: Path) -> None:
    root = copy_of(pictures, tmp_path / "cut")
    shard = read_data_set(root).split("train").shards[1]
    os.truncate(shard.path, shard.size_bytes - 512)
    with pytest.raises(DamageError, match=f"{shard.path}: cut short"):
        open_reader(read_data_set(root))


def test_sidecars_are_read_when_their_shard_is(pictures: DataSet, tmp_path: Path) -> None:
    """So that those of a remote set need not all be there at the start."""
    root = copy_of(pictures, tmp_path / "remote")
    data_set = read_data_set(root)
    shards = data_set.split("train").shards
    away = tmp_path / "away"
    away.mkdir()
    for shard in shards:
        shutil.move(shard.path, away / shard.path.name)
        shutil.move(shard.index_path, away / shard.index_path.name)

    class Fetching(AllAtHand):
        """A feed that brings a shard and its sidecar at the first use."""

        def __init__(self, mapped: MappedFiles) -> None:
            self.mapped, self.fetched = mapped, []

        def wait_for(self, shards_used: Int64Array) -> None:
            for number in set(shards_used.tolist()) - set(self.fetched):
                shard = shards[number]
                shutil.move(away / shard.path.name, shard.path)
                shutil.move(away / shard.index_path.name, shard.index_path)
                self.mapped.map_file(number, shard.path)
                self.fetched.append(number)

    reader = open_reader(data_set, make_feed=Fetching)
    read(reader, slots_of(np.array([0, NUM_TRAIN - 1])))
    assert sorted(reader._feed.fetched) == [0, len(shards) - 1]
    images, _ = read(reader, slots_of(np.arange(NUM_TRAIN)))
    assert np.array_equal(images, read(open_reader(pictures), slots_of(np.arange(NUM_TRAIN)))[0])


def test_a_sidecar_that_points_elsewhere_is_refused_before_anything_is_decoded(
    pictures: DataSet, tmp_path: Path
) -> None:
    root = copy_of(pictures, tmp_path / "set")
    index = read_data_set(root).split("train").shards[0].index_path
    _, row = rows_of(read_data_set(root), "train")[0]
    content = bytearray(index.read_bytes())
    at = content.index(row.tobytes())
    for column, value in (("image_offset", 2**63), ("image_bytes", 2**40), ("height", 0), ("width", 2**32 - 1)):
        changed = row.copy()
        changed[column] = value
        content[at : at + row.nbytes] = changed.tobytes()
        index.write_bytes(content)
        with pytest.raises(DamageError, match=r"\.idx\.npy: record 0 "):
            read(open_reader(read_data_set(root)), slots_of(np.arange(3)))


def test_packed_sets_and_impossible_sizes_are_refused(synthetic: DataSet, pictures: DataSet) -> None:
    with pytest.raises(UserError, match="holds the packed layout"):
        open_reader(synthetic)
    with pytest.raises(UserError, match="size 0x12"):
        open_reader(pictures, size=(0, 12))
