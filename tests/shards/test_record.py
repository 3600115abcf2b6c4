from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.shards.index import read_index
from pipeline.shards.record import (
    BLOCK_BYTES,
    END_OF_ARCHIVE,
    MAX_MEMBER_BYTES,
    PackedLayout,
    label_member,
    pack_encoded,
    ustar_header,
)
from tiny_data import random_pixels, stored_image, write_packed_set

KEYS = st.from_regex(r"[A-Za-z0-9_-]{1,90}", fullmatch=True)
LAYOUTS = st.builds(PackedLayout, height=st.integers(1, 40), width=st.integers(1, 40), channels=st.sampled_from([1, 3]))


def tarfile_header(name: str, size_bytes: int) -> bytes:
    """The oracle: what Python's tarfile writes for the same member."""
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


@given(KEYS, st.sampled_from(["cls", "ppm", "jpg"]), st.integers(0, MAX_MEMBER_BYTES))
def test_a_header_says_what_tarfile_would_say(key: str, extension: str, size_bytes: int) -> None:
    name = f"{key}.{extension}"
    ours, theirs = ustar_header(name, size_bytes), tarfile_header(name, size_bytes)
    parsed, wanted = (tarfile.TarInfo.frombuf(block, "ascii", "strict") for block in (ours, theirs))
    said, meant = (info.get_info() for info in (parsed, wanted))
    assert {**said, "chksum": 0} == {**meant, "chksum": 0}
    assert (parsed.isreg(), parsed.mtime, parsed.uid, parsed.gid, parsed.mode) == (True, 0, 0, 0, 0o644)
    assert len(ours) == len(theirs) == BLOCK_BYTES
    # The one difference that POSIX leaves open: device numbers of a plain file as zeros or as nothing.
    assert ours[:148] == theirs[:148]
    assert ours[156:329] == theirs[156:329]


@pytest.mark.parametrize(("name", "size_bytes"), [("a" * 101, 1), ("a.cls", -1), ("a.cls", MAX_MEMBER_BYTES + 1)])
def test_what_ustar_cannot_hold_is_refused(name: str, size_bytes: int) -> None:
    with pytest.raises(ValueError, match="ustar"):
        ustar_header(name, size_bytes)


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "../a", "é", "a" * 91, "a\n", "a\0"])
def test_keys_are_plain(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        label_member(key, 0)


@pytest.mark.parametrize("label", [-1, 10**8])
def test_labels_have_eight_digits(label: int) -> None:
    with pytest.raises(ValueError, match="label"):
        label_member("a", label)


@given(LAYOUTS, KEYS, st.integers(0, 10**8 - 1), st.integers(0, 2**32))
def test_packed_records_have_one_length_and_aligned_pixels(
    layout: PackedLayout, key: str, label: int, seed: int
) -> None:
    pixels = random_pixels(seed, height=layout.height, width=layout.width, channels=layout.channels)
    record = layout.pack(key=key, label=label, image_HWC=pixels)
    assert len(record) == layout.record_bytes
    assert layout.record_bytes % 512 == 0
    assert layout.pixel_offset % 64 == 0
    assert record[layout.pixel_offset : layout.pixel_offset + layout.pixel_bytes] == pixels.tobytes()
    with tarfile.open(fileobj=io.BytesIO(record + END_OF_ARCHIVE), mode="r:") as archive:
        label_of, image_of = archive.getmembers()
        assert (label_of.name, image_of.name) == (f"{key}.cls", f"{key}.{layout.extension}")
        label_stream, image_stream = archive.extractfile(label_of), archive.extractfile(image_of)
        assert label_stream is not None
        assert image_stream is not None
        assert int(label_stream.read()) == label
        picture = np.asarray(Image.open(image_stream))
    assert np.array_equal(picture.reshape(pixels.shape), pixels)


@pytest.mark.parametrize(("height", "width", "channels"), [(0, 4, 3), (4, 65_536, 3), (4, 4, 2), (4, 4, 4)])
def test_impossible_geometry_is_refused(height: int, width: int, channels: int) -> None:
    with pytest.raises(ValueError, match="wanted"):
        PackedLayout(height=height, width=width, channels=channels)


def test_the_largest_picture_still_has_a_header_of_64_bytes() -> None:
    assert len(PackedLayout(height=65_535, width=65_535, channels=3).image_header) == 64
    assert len(PackedLayout(height=1, width=1, channels=1).image_header) == 64


@pytest.mark.parametrize("shape", [(4, 4), (4, 5, 3), (4, 4, 1)])
def test_pixels_of_another_shape_or_type_are_refused(shape: tuple[int, ...]) -> None:
    layout = PackedLayout(height=4, width=4, channels=3)
    with pytest.raises(ValueError, match="uint8 wanted"):
        layout.pack(key="a", label=0, image_HWC=np.zeros(shape, dtype=np.uint8))
    with pytest.raises(ValueError, match="uint8 wanted"):
        layout.pack(key="a", label=0, image_HWC=np.zeros((4, 4, 3), dtype=np.float32))


def test_encoded_records_take_known_images_only() -> None:
    assert len(pack_encoded(key="a", label=1, image=bytes(513), extension="jpg")) == 3 * 512 + 1024
    with pytest.raises(ValueError, match="extension"):
        pack_encoded(key="a", label=1, image=b"", extension="gif")


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command here")
@pytest.mark.parametrize("channels", [1, 3])
def test_the_tar_command_lists_and_extracts_what_pillow_opens(tmp_path: Path, channels: int) -> None:
    layout = PackedLayout(height=5, width=7, channels=channels)
    data_set = write_packed_set(tmp_path / "set", shard_sizes={"train": [3]}, layout=layout)
    shard = data_set.split("train").shards[0]
    listed = subprocess.run(["tar", "tvf", shard.path], capture_output=True, text=True, check=True)
    assert listed.stderr == ""
    names = [line.split()[-1] for line in listed.stdout.splitlines()]
    assert names == [f"{row:09d}.{extension}" for row in range(3) for extension in ("cls", layout.extension)]
    assert all(line.startswith("-rw-r--r-- 0/0 ") for line in listed.stdout.splitlines())
    subprocess.run(["tar", "xf", shard.path, "-C", tmp_path], check=True)
    for row, index_row in enumerate(read_index(shard.index_path, num_samples=3)):
        extracted = tmp_path / f"{row:09d}.{layout.extension}"
        assert extracted.read_bytes() == stored_image(shard.path, index_row)
        picture = np.asarray(Image.open(extracted))
        assert np.array_equal(picture.reshape(5, 7, channels), random_pixels(row, height=5, width=7, channels=channels))
        assert int((tmp_path / f"{row:09d}.cls").read_bytes()) == row % 3
