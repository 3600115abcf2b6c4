"""The odd files that ImageNet is known for, by name, through the whole preparation."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from imagenet_sets import SHARED_IMAGENET, picture, tar_bytes
from pipeline.shards.manifest import DataSet
from tiny_data import prepare_here, rows_of, stored_image

RED = (200, 40, 60)


def jpeg(mode: str = "RGB", *, size: tuple[int, int] = (40, 30), exif: bytes = b"") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, RED).convert(mode).save(stream, "JPEG", quality=95, exif=exif)
    return stream.getvalue()


def adobe_cmyk() -> bytes:
    """CMYK as Photoshop writes it: all channels inverted, with an Adobe marker that says so."""
    stream = io.BytesIO()
    Image.new("CMYK", (40, 30), (55, 215, 195, 0)).save(stream, "JPEG", quality=95)
    content = stream.getvalue()
    assert b"Adobe" in content[:64]
    return content


def png_called_jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), RED).save(stream, "PNG")
    return stream.getvalue()


BROKEN_EXIF = b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(range(200))
# A tag that says "turned by 90 degrees", which ImageNet practice does not follow.
TURNED_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"

GOOD = {
    "n02105855_2933.JPEG": png_called_jpeg(),
    "n02105855_1.JPEG": adobe_cmyk(),
    "n02105855_2.JPEG": jpeg(exif=BROKEN_EXIF),
    "n02105855_3.JPEG": jpeg("L"),
    "n02105855_4.JPEG": jpeg(size=(1, 1)),
    "n02105855_5.JPEG": jpeg(exif=TURNED_EXIF),
}
BAD = {
    "n02105855_6.JPEG": picture(6, width=200, height=200)[:9000],
    "n02105855_7.JPEG": b"",
    "n02105855_8.JPEG": b"<html>This photo is no longer available</html>",
}


def write_train(root: Path, images: dict[str, bytes]) -> Path:
    root.mkdir()
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes({"n02105855.tar": tar_bytes(images)}))
    return root


def stored(data_set: DataSet, split: str = "train") -> dict[str, bytes]:
    """Return each image's stored bytes by its file name."""
    return {
        bytes(row["source_key"]).decode().rpartition("/")[2]: stored_image(shard, row)
        for shard, row in rows_of(data_set, split)
    }


def member_names(data_set: DataSet) -> set[str]:
    names = set()
    for shard in data_set.split("train").shards:
        with tarfile.open(shard.path) as archive:
            names |= {name.rpartition(".")[2] for name in archive.getnames()}
    return names


def mean_colour(pixels: npt.NDArray[np.uint8]) -> list[int]:
    return np.rint(pixels.reshape(-1, 3).mean(axis=0)).astype(int).tolist()


def assert_about(colour: list[int], expected: tuple[int, ...], *, within: int = 4) -> None:
    assert np.abs(np.subtract(colour, expected)).max() <= within, (colour, expected)


def test_odd_files_are_stored_as_a_viewer_shows_them(tmp_path: Path) -> None:
    root = write_train(tmp_path / "imagenet", GOOD)
    data_set = prepare_here(tmp_path / "set", "source=imagenet1k", f"source.root={root}", "layout.resolution=16")
    images = stored(data_set)
    assert images.keys() == GOOD.keys()
    for name, content in images.items():
        pixels = np.frombuffer(content[-16 * 16 * 3 :], dtype=np.uint8)
        grey = round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])
        assert_about(mean_colour(pixels), (grey,) * 3 if name == "n02105855_3.JPEG" else RED)
    assert (tmp_path / "set" / "rejected.jsonl").read_bytes() == b""


def test_encoded_keeps_bytes_but_makes_cmyk_rgb_and_calls_a_png_a_png(tmp_path: Path) -> None:
    root = write_train(tmp_path / "imagenet", GOOD)
    data_set = prepare_here(tmp_path / "set", "source=imagenet1k", f"source.root={root}", "layout=encoded")
    images = stored(data_set)
    assert {name for name, content in images.items() if content != GOOD[name]} == {"n02105855_1.JPEG"}
    made = Image.open(io.BytesIO(images["n02105855_1.JPEG"]))
    assert (made.format, made.mode, made.size) == ("JPEG", "RGB", (40, 30))
    assert_about(mean_colour(np.asarray(made)), RED)
    assert {"png", "jpg"} <= member_names(data_set)


@pytest.mark.parametrize("layout", ["packed", "encoded"])
def test_truncated_and_empty_files_and_web_pages_are_listed_with_their_reason(tmp_path: Path, layout: str) -> None:
    root = write_train(tmp_path / "imagenet", GOOD | BAD)
    options = ("source=imagenet1k", f"source.root={root}", f"layout={layout}", "layout.resolution=16", "max_rejected=3")
    data_set = prepare_here(tmp_path / "set", *options)
    assert stored(data_set).keys() == GOOD.keys()
    lines = (tmp_path / "set" / "rejected.jsonl").read_text().splitlines()
    reasons = {Path(row["source_key"]).name: row["reason"] for row in map(json.loads, lines)}
    assert reasons.keys() == BAD.keys()
    assert reasons["n02105855_7.JPEG"] == "empty file"
    assert all(reasons.values())


def test_sixty_megapixels_are_stored_and_a_bomb_is_rejected_undecoded(tmp_path: Path) -> None:
    bomb = bytearray(png_called_jpeg())
    bomb[16:24] = (12_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    images = {"n02105855_60.JPEG": jpeg(size=(10_000, 6_000)), "n02105855_61.JPEG": bytes(bomb)}
    root = write_train(tmp_path / "imagenet", images)
    options = ("source=imagenet1k", f"source.root={root}", "layout.resolution=16", "max_rejected=1")
    data_set = prepare_here(tmp_path / "set", *options)
    (content,) = stored(data_set).values()
    assert_about(mean_colour(np.frombuffer(content[-16 * 16 * 3 :], dtype=np.uint8)), RED)
    (line,) = (tmp_path / "set" / "rejected.jsonl").read_text().splitlines()
    assert "12000x12000 pixels is over layout.max_pixels=100000000" in json.loads(line)["reason"]


@pytest.mark.slow
def test_the_real_archives_with_their_odd_files_come_through_whole(tmp_path: Path) -> None:
    if not SHARED_IMAGENET.is_dir():
        pytest.skip("shared/data is not here")
    data_set = prepare_here(tmp_path / "set", "source=imagenet1k", f"source.root={SHARED_IMAGENET}", "layout=encoded")
    assert {name: split.num_samples for name, split in data_set.splits.items()} == {"train": 230, "val": 150}
    originals = {}
    with tarfile.open(SHARED_IMAGENET / "ILSVRC2012_img_train.tar") as outer:
        for member in outer:
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                originals |= {image.name: inner.extractfile(image).read() for image in inner}  # type: ignore[union-attr]
    images = stored(data_set)
    assert images.keys() == originals.keys()
    changed = {name for name in images if images[name] != originals[name]}
    cmyk = {name for name in images if Image.open(io.BytesIO(originals[name])).mode == "CMYK"}
    assert changed == cmyk
    assert len(cmyk) == 22
    assert Image.open(io.BytesIO(images["n02105855_2933.JPEG"])).format == "PNG"
    for name in cmyk:
        ours = np.asarray(Image.open(io.BytesIO(images[name])).convert("RGB"), dtype=int)
        pillow = np.asarray(Image.open(io.BytesIO(originals[name])).convert("RGB"), dtype=int)
        assert np.abs(ours - pillow).mean() < 6
