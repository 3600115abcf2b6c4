"""Damage of every kind, by the hand of a hostile writer where checksums would tell at once."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.verify import EXIT_DAMAGED, find_faults, main
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.index import encode_index, read_index
from pipeline.shards.manifest import DataSet, publish_data_set, publish_manifest, read_data_set
from pipeline.shards.publish import publish_into
from pipeline.shards.record import PackedLayout
from pipeline.storage import open_store
from tiny_data import copy_of, prepare_pictures, run_module, write_packed_set, write_pictures

LAYOUT = PackedLayout(height=2, width=2, channels=3)
SHARD = "train/shard-000001.tar"
SIDECAR = "train/shard-000001.idx.npy"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("verify") / "packed"
    return write_packed_set(folder, shard_sizes={"train": [2, 2, 2], "val": [1]}, layout=LAYOUT)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("verify")
    write_pictures(folder / "pets", num_each=2, size=4, extension="jpg", classes=("cat", "dog"))
    return prepare_pictures(folder / "pets", folder / "set", "layout=encoded", "source.val_frac=0")


@pytest.fixture
def root(packed: DataSet, tmp_path: Path) -> Path:
    return copy_of(packed, tmp_path / "set")


def faults_of(root: Path) -> list[str]:
    """Return what verify would say line by line, and hold that its exit code is 1 where that is anything."""
    try:
        return list(find_faults(open_store(str(root)), read_data_set(root), num_decoded=8))
    except DamageError as error:
        return [str(error)]


def test_a_whole_data_set_has_no_fault(packed: DataSet, encoded: DataSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert faults_of(packed.root) == []
    assert faults_of(encoded.root) == []
    assert main([f"path={packed.root}"]) == 0
    assert capsys.readouterr().out == f"{packed.root}: whole: 6 train, 1 val samples\n"


REGIONS = {
    "header of the label": (0, 512, 7),
    "label": (512, 520, 1),
    "padding of the label": (520, 1024, 50),
    "header of the image": (1024, 1536, 7),
    "PPM header": (1536, 1600, 1),
    "pixels": (1600, 1612, 1),
    "padding of the pixels": (1612, 2048, 50),
}


@pytest.mark.parametrize(("start", "end", "step"), REGIONS.values(), ids=REGIONS.keys())
def test_a_flip_in_a_record_names_shard_record_and_sample(root: Path, start: int, end: int, step: int) -> None:
    path = root / SHARD
    before = path.read_bytes()
    for place in range(start, end, step):
        changed = bytearray(before)
        changed[LAYOUT.record_bytes + place] ^= 1 << place % 8
        path.write_bytes(changed)
        assert faults_of(root) == [f"{path}: record 1 is damaged, CRC-32 differs (sample train/3.png)"]


def test_a_flip_after_the_last_record_names_the_shard(root: Path) -> None:
    path = root / SHARD
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    assert faults_of(root) == [f"{path}: the shard's SHA-256 is not the manifest's"]


def files_of(root: Path) -> Iterator[Path]:
    """Yield every file of a data set but those of plan/, which docs/FORMAT.md leaves out."""
    yield from (path for path in sorted(root.rglob("*")) if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["packed", "encoded"])
def test_every_single_byte_of_every_file_counts(name: str, tmp_path: Path) -> None:
    if name == "packed":
        layout = PackedLayout(height=1, width=1, channels=1)
        root = write_packed_set(tmp_path / "set", shard_sizes={"train": [1]}, layout=layout).root
    else:
        write_pictures(tmp_path / "pets", num_each=1, size=1, classes=("cat",))
        root = prepare_pictures(tmp_path / "pets", tmp_path / "set", "layout=encoded", "source.val_frac=0").root
    num_flips = 0
    for path in files_of(root):
        before = path.read_bytes()
        # 0x20 makes another letter case, 0x03 a tab of a line break: spellings that a parser would let pass.
        # Of what is no part of the data set itself, and has one checksum, a sample.
        stride = 41 if path.name == "card.html" or path.parent.name == "plan" else 1
        for place in range(0, len(before), stride):
            flips = (0x01, 0x03, 0x20) if path.suffix == ".json" else (0x01 << place % 8,)
            for flip in flips:
                changed = bytearray(before)
                changed[place] ^= flip
                path.write_bytes(changed)
                faults = faults_of(root)
                assert faults, f"{path}: byte {place} of {len(before)} xor {flip:#x} was not found"
                assert str(path) in faults[0] or path.name == "rejected.jsonl"
                num_flips += 1
        path.write_bytes(before)
    assert faults_of(root) == []
    assert num_flips > sum(path.stat().st_size for path in root.glob("t*/*"))


def cut(name: str, length: int) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:length])


def swap(first: str, second: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        (root / first).rename(root / "aside")
        (root / second).rename(root / first)
        (root / "aside").rename(root / second)

    return change


def copied(source: str, target: str) -> Callable[[Path], object]:
    return lambda root: shutil.copyfile(root / source, root / target)


def swap_shards_and_sidecars(root: Path) -> None:
    swap(SHARD, "train/shard-000000.tar")(root)
    swap(SIDECAR, "train/shard-000000.idx.npy")(root)


def put_after_the_end(root: Path) -> None:
    (root / SHARD).write_bytes((root / SHARD).read_bytes() + b"\0")


def put_a_folder_there(root: Path) -> None:
    (root / SHARD).unlink()
    (root / SHARD).mkdir()


FIRST = "train/shard-000000"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut in a record": (cut(SHARD, 3000), f"{SHARD}: cut short: 3000 bytes"),
    "cut in a record, which": (
        cut(SHARD, 3000),
        f"{SHARD}: record 1 and all after it are cut off (sample train/3.png)",
    ),
    "cut between records": (cut(SHARD, 2048), f"{SHARD}: record 1 and all after it are cut off"),
    "cut at the end of the records": (cut(SHARD, 4096), f"{SHARD}: cut short"),
    "emptied": (cut(SHARD, 0), f"{SHARD}: record 0 and all after it are cut off"),
    "longer": (put_after_the_end, f"{SHARD}: too long: 5121 bytes"),
    "missing": (lambda root: (root / SHARD).unlink(), f"{SHARD}: the shard cannot be read (No such file"),
    "a folder": (put_a_folder_there, f"{SHARD}: the shard cannot be read"),
    "swapped": (swap(SHARD, f"{FIRST}.tar"), f"{SHARD}: record 0 is damaged"),
    "swapped with the sidecar": (swap_shards_and_sidecars, f"{SHARD}: the shard's SHA-256 is not the manifest's"),
    "sidecar of another": (copied(f"{FIRST}.idx.npy", SIDECAR), f"{SIDECAR}: the sidecar's SHA-256"),
    "sidecar missing": (lambda root: (root / SIDECAR).unlink(), "the sidecar of shard-000001.tar cannot be read"),
    "sidecar cut": (cut(SIDECAR, 200), f"{SIDECAR}: not a sidecar"),
    "extra shard": (copied(SHARD, "train/shard-000007.tar"), "train/shard-000007.tar: not in the manifest"),
    "part file": (copied(SHARD, "val/.shard-000000.tar.part"), "val/.shard-000000.tar.part: not in the manifest"),
    "manifest missing": (
        lambda root: (root / "val/manifest.json").unlink(),
        "manifest.json: the manifest is missing",
    ),
    "manifest of another split": (
        copied("val/manifest.json", "train/manifest.json"),
        "train/manifest.json: its checksum",
    ),
    "rejected missing": (lambda root: (root / "rejected.jsonl").unlink(), "rejected.jsonl: missing"),
    "rejected changed": (lambda root: (root / "rejected.jsonl").write_text("{}\n"), "rejected.jsonl: its SHA-256"),
    "newer manifest by hand": (
        lambda root: (root / "train/manifest.json").write_text('{"format_version": 2}'),
        "train/manifest.json: its checksum does not fit: damaged, or edited by hand (format version 2",
    ),
}


@pytest.mark.parametrize(("change", "fault"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_named(
    root: Path, change: Callable[[Path], object], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(root)
    assert any(fault in line for line in faults_of(root)), faults_of(root)
    assert main([f"path={root}"]) == EXIT_DAMAGED
    assert fault in capsys.readouterr().out


def rewrite(root: Path, change: Callable[[Any, bytearray], None]) -> None:
    """Change a shard's rows and bytes and set every checksum above right, as a writer with a fault would."""
    entries = []
    for row in json.loads((root / "train/manifest.json").read_bytes())["shardlist"]:
        shard, sidecar = root / "train" / row["url"], root / "train" / row["index"]["url"]
        if row["url"] == Path(SHARD).name:
            rows, content = np.array(read_index(sidecar, num_samples=2)), bytearray(shard.read_bytes())
            change(rows, content)
            sidecar.write_bytes(encode_index(rows))
            shard.write_bytes(content)
        row["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
        row["index"]["sha256"] = hashlib.sha256(sidecar.read_bytes()).hexdigest()
        entries.append(row)
    content_of = json.loads((root / "dataset.json").read_bytes())
    content_of["splits"]["train"] = publish_manifest(publish_into(root / "train"), split="train", shardlist=entries)
    del content_of["checksum"]
    publish_data_set(publish_into(root), content_of)


def crc_again(rows: Any, content: bytearray) -> None:
    for row in rows:
        start, end = int(row["record_offset"]), int(row["record_offset"] + row["record_bytes"])
        row["crc32"] = zlib.crc32(content[start:end])


def put(place: int, piece: bytes) -> Callable[[Any, bytearray], None]:
    def change(rows: Any, content: bytearray) -> None:
        content[place : place + len(piece)] = piece
        crc_again(rows, content)

    return change


def set_row(column: str, value: int) -> Callable[[Any, bytearray], None]:
    def change(rows: Any, content: bytearray) -> None:
        rows[column][1] = value

    return change


def double(rows: Any, content: bytearray) -> None:
    content[2048:4096] = content[:2048]
    rows["label"][1] = rows["label"][0]
    crc_again(rows, content)


MALFORMED: dict[str, tuple[Callable[[Any, bytearray], None], str]] = {
    "label out of range": (set_row("label", 3), f"{SIDECAR}: record 1 has label 3, there are 3 classes"),
    "another label": (set_row("label", 2), f"{SHARD}: record 1 (sample train/3.png): its label is b'00000000'"),
    "another CRC-32": (set_row("crc32", 7), f"{SHARD}: record 1 (sample train/3.png): its CRC-32 is not the sidecar's"),
    "outside the shard": (set_row("record_offset", 9999), f"{SIDECAR}: record 1 is not where it can be"),
    "a header's checksum": (put(2048 + 148, b"000000"), f"{SHARD}: record 1 (sample train/3.png): bad checksum"),
    "a link": (put(2048 + 1024 + 156, b"2"), "bad checksum"),
    "a PPM header": (put(2048 + 1536, b"P5"), "its image header is not that of the layout"),
    "a key twice": (double, "key 000000002 stands there twice"),
    "something after the last record": (put(4096, b"x"), f"{SHARD}: after its last record not 1024 zero bytes"),
}


@pytest.mark.parametrize(("change", "fault"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_writer_with_a_fault_is_found_behind_right_checksums(
    root: Path, change: Callable[[Any, bytearray], None], fault: str
) -> None:
    rewrite(root, change)
    assert any(fault in line for line in faults_of(root)), faults_of(root)


def test_rewriting_alone_makes_no_fault(root: Path) -> None:
    rewrite(root, lambda _rows, _content: None)
    assert faults_of(root) == []


def test_images_that_cannot_be_decoded_are_found_behind_right_checksums(tmp_path: Path) -> None:
    pictures = tmp_path / "pets"
    write_pictures(pictures, num_each=3, size=16, extension="jpg")
    bad = pictures / "cat" / "000.jpg"
    bad.write_bytes(bad.read_bytes()[:-100])
    options = ("layout=encoded", "layout.decode_check=false", "source.val_frac=0")
    data_set = prepare_pictures(pictures, tmp_path / "set", *options)
    (fault,) = faults_of(data_set.root)
    assert "cannot be decoded" in fault
    assert main([f"path={data_set.root}", "decode=0"]) == 0


def test_a_newer_data_set_that_is_whole_is_an_error_of_the_user(root: Path) -> None:
    publish_data_set(publish_into(root), {"format_version": 2})
    with pytest.raises(UserError, match="format version 2") as told:
        main([f"path={root}"])
    assert not isinstance(told.value, DamageError)


def test_the_command_ends_with_0_1_or_2(packed: DataSet, root: Path, tmp_path: Path) -> None:
    ended = run_module("data_prep.verify", f"path={packed.root}")
    assert (ended.returncode, ended.stderr) == (0, "")
    cut(SHARD, 2048)(root)
    ended = run_module("data_prep.verify", f"path={root}")
    assert ended.returncode == 1
    assert f"damaged: {root / SHARD}: record 1" in ended.stdout
    assert "Traceback" not in ended.stderr
    ended = run_module("data_prep.verify", f"path={tmp_path / 'nothing'}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
