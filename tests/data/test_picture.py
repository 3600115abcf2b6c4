"""Picture files for a trained model: (nearly) the pixels that data_prep stored, or that the reader gives."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.config import PackedLayoutConfig
from data_prep.encode import make_encoder
from pipeline.data import picture as picture_module
from pipeline.data.crop import CentreCrop
from pipeline.data.encoded import EncodedReader
from pipeline.data.order import slots_of
from pipeline.data.packed import PackedReader
from pipeline.data.picture import Preparation, prepare_picture
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.trained import facts_of
from tiny_data import ROOT, Pixels, prepare_pictures, random_pixels, rows_of, save_pixels

# Of JPEGs that are stored as JPEGs again.
MOST_LOST = 12
REAL_IMAGES = ROOT.parent / "shared" / "data" / "imagenet-jpegs" / "imagenet_1k_samples.tar"


def smooth(seed: int, *, height: int, width: int, channels: int = 3) -> Pixels:
    """Return a picture such as cameras make: little differs from pixel to pixel."""
    small = random_pixels(seed, height=5, width=6, channels=channels)
    picture = Image.fromarray(small[:, :, 0] if channels == 1 else small)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, channels)


def write_pictures(root: Path) -> dict[str, bytes]:
    """Write pictures of every kind below root/train, with a class folder each, and return them by source key."""
    folder = root / "train" / "all"
    folder.mkdir(parents=True)
    save_pixels(folder / "large.jpg", smooth(0, height=301, width=211))
    save_pixels(folder / "wide.jpg", smooth(1, height=77, width=400))
    save_pixels(folder / "grey.jpg", smooth(2, height=90, width=130, channels=1))
    save_pixels(folder / "small.jpg", smooth(3, height=9, width=14))
    save_pixels(folder / "exact.png", smooth(4, height=16, width=16))
    save_pixels(folder / "noise.png", random_pixels(5, height=40, width=50))
    save_pixels(folder / "some.webp", smooth(6, height=60, width=50))
    picture = Image.fromarray(smooth(7, height=50, width=70))
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("P").save(folder / "palette.png")
    with_alpha = picture.convert("RGBA")
    with_alpha.putalpha(77)
    with_alpha.save(folder / "alpha.png")
    Image.fromarray(smooth(8, height=33, width=44, channels=1)[:, :, 0].astype(np.uint16) * 257).save(
        folder / "deep.png"
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=exif)
    exif[0x0112] = 3
    picture.save(folder / "upside_down.jpg", exif=exif)
    (root / "val" / "all").mkdir(parents=True)
    save_pixels(root / "val" / "all" / "0.png", smooth(9, height=20, width=20))
    return {f"train/all/{path.name}": path.read_bytes() for path in folder.iterdir()}


def stored_pixels(data_set: DataSet) -> dict[str, Pixels]:
    """Return the training split's images by source key."""
    with_reader = PackedReader if data_set.packed else EncodedReader
    options = {} if data_set.packed else {"size": (16, 16), "crop": CentreCrop(frac=1.0), "threads": 1}
    reader = with_reader(data_set, "train", **options)
    images = torch.empty((reader.num_samples, *reader.image_shape), dtype=torch.uint8)
    reader.fill(slots_of(np.arange(reader.num_samples)), epoch=0, out=images)
    reader.close()
    keys = [bytes(row["source_key"]).decode() for _, row in rows_of(data_set, "train")]
    return dict(zip(keys, images.numpy(), strict=True))


def largest_difference(left: Pixels, right: Pixels) -> int:
    assert left.shape == right.shape
    return int(np.abs(left.astype(int) - right.astype(int)).max())


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["layout.fit=stretch"],
        ["layout.min_scale=null"],
        ["layout.channels=grey"],
        ["layout.exif_orientation=true"],
        ["layout.pixel_shuffle_seed=3"],
        ["layout=encoded"],
        ["layout=encoded", "layout.exif_orientation=true"],
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_a_picture_is_what_the_data_set_stored_of_it(tmp_path: Path, options: list[str]) -> None:
    """The data set's own facts say how: cut or stretched, turned, at which scale JPEGs were decoded."""
    written = write_pictures(tmp_path / "in")
    resolution = [] if "layout=encoded" in options else ["layout.resolution=16"]
    data_set = prepare_pictures(tmp_path / "in", tmp_path / "out", *options, *resolution)
    preparation = facts_of(data_set, side=16).preparation
    stored = stored_pixels(data_set)
    assert len(stored) == len(written)
    for key, content in written.items():
        # CMYK and turned JPEGs are stored as JPEGs again in the encoded layout, at a loss; everything else is kept.
        is_kept = "layout=encoded" not in options or not key.endswith(("cmyk.jpg", "turned.jpg", "down.jpg"))
        loss = 0 if is_kept else MOST_LOST
        found = prepare_picture(content, preparation=preparation)
        key = key if key in stored else key.removeprefix("train/")
        assert largest_difference(found, stored[key]) <= loss, key


def test_what_is_no_picture_is_refused_by_name() -> None:
    preparation = Preparation(height=8, width=8, channels=3, is_packed=True)
    with pytest.raises(UserError, match="is no image"):
        prepare_picture(b"not a picture", preparation=preparation)
    stream = io.BytesIO()
    Image.fromarray(smooth(0, height=64, width=64)).save(stream, "JPEG")
    for is_packed in (True, False):
        preparation = Preparation(height=8, width=8, channels=3, is_packed=is_packed)
        with pytest.raises(UserError, match="truncated"):
            prepare_picture(stream.getvalue()[:700], preparation=preparation)


def test_without_the_fast_resizer_pixels_are_equal_to_roundings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow rounds and cuts off to bytes between its two passes."""
    written = write_pictures(tmp_path / "in")
    data_set = prepare_pictures(tmp_path / "in", tmp_path / "out", "layout.resolution=16")
    stored = stored_pixels(data_set)
    monkeypatch.setattr(picture_module, "simd", None)
    for key, content in written.items():
        found = prepare_picture(content, preparation=facts_of(data_set, side=16).preparation)
        differences = np.abs(found.astype(int) - stored[key if key in stored else key.removeprefix("train/")])
        assert differences.max() <= 4, key
        assert differences.mean() <= 0.4, key


@pytest.mark.slow
@pytest.mark.skipif(not REAL_IMAGES.exists(), reason="the real images are not here")
def test_real_photographs_are_prepared_as_data_prep_prepares_them() -> None:
    encoder = make_encoder(PackedLayoutConfig(resolution=64), native_shape=None)
    preparation = Preparation(height=64, width=64, channels=3, is_packed=True)
    differences = []
    with tarfile.open(REAL_IMAGES) as archive:
        members = [member for member in archive if member.name.lower().endswith((".jpg", ".jpeg"))][:200]
        for member in members:
            stream = archive.extractfile(member)
            assert stream is not None
            content = stream.read()
            stored = encoder.encode(key="0", label=0, image=content)
            pixels = stored.record[stored.image_offset : stored.image_offset + stored.image_bytes]
            expected = np.asarray(Image.open(io.BytesIO(pixels)))
            differences.append(largest_difference(prepare_picture(content, preparation=preparation), expected))
    assert set(differences) == {0}
