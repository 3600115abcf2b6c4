"""Every parser of stored or foreign bytes, fed with damaged ones: it refuses by name, or what it returns is right.

A damaged input is a whole one after a few edits (bits flipped, bytes set, pieces cut out, doubled, moved or put in).
The number of inputs a test is the profile's: 100 by default, 20,000 by `pytest tests/fuzz --hypothesis-profile=fuzz`.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources.cifar_formats import (
    PIXEL_BYTES,
    parse_binary_batch,
    parse_json_labels,
    parse_pickled_batch,
    parse_pickled_names,
    parse_text_names,
)
from data_prep.sources.idx import read_idx
from pipeline.shards.check import check_sizes, find_damage, find_malformed
from pipeline.shards.errors import UserError
from pipeline.shards.index import check_index, encode_index, index_dtype, read_index
from pipeline.shards.manifest import DATA_SET_FILE, MANIFEST_FILE, DataSet, is_sealed, read_data_set, seal
from pipeline.shards.record import PackedLayout
from pipeline.shards.task import Task
from tiny_data import write_packed_set
from tiny_sets import python2_pickle

LAYOUT = PackedLayout(height=2, width=3, channels=3)


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit; places are fractions of the length, so that it fits any input."""

    kind: str
    place: float
    other: float
    piece: bytes

    def of(self, content: bytes) -> bytes:
        start, end = sorted((int(self.place * len(content)), int(self.other * len(content))))
        match self.kind:
            case "flip" if content:
                at = min(start, len(content) - 1)
                return content[:at] + bytes([content[at] ^ (1 << (len(self.piece) % 8))]) + content[at + 1 :]
            case "overwrite":
                return content[:start] + self.piece + content[start + len(self.piece) :]
            case "insert":
                return content[:start] + self.piece + content[start:]
            case "cut out":
                return content[:start] + content[end:]
            case "cut off":
                return content[:start]
            case "double":
                return content[:end] + content[start:end] + content[end:]
            case _:
                return content[end:] + content[start:end] + content[:start]


PIECES = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.sampled_from([b"\xff" * 8, bytes(8), b"-1", b"9" * 20, b"1e999", b"NaN", b'"', b"}", b"../", b"\n", b"\0"]),
    st.integers(0, 2**64 - 1).map(lambda value: struct.pack("<Q", value)),
)
KINDS = st.sampled_from(["flip", "flip", "overwrite", "insert", "cut out", "cut off", "double", "move"])
EDITS = st.lists(st.builds(Edit, KINDS, st.floats(0, 1), st.floats(0, 1), PIECES), min_size=1, max_size=4)


def edited(content: bytes, edits: list[Edit]) -> bytes:
    for edit in edits:
        content = edit.of(content)
    return content


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_packed_set(tmp_path_factory.mktemp("fuzz") / "set", shard_sizes={"train": [3, 2]}, layout=LAYOUT)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@given(EDITS)
def test_a_damaged_sidecar_is_refused_or_points_inside_its_shard(scratch: Path, edits: list[Edit]) -> None:
    rows = np.zeros(4, dtype=index_dtype(source_key_bytes=5))
    for name, value in (("record_bytes", 2048), ("image_bytes", 82), ("height", 2), ("width", 3)):
        rows[name] = value
    rows["record_offset"] = np.arange(4) * 2048
    rows["image_offset"] = rows["record_offset"] + 1536
    check_sidecar(scratch, edited(encode_index(rows), edits), task=Task.classification)


@given(EDITS)
def test_a_damaged_sidecar_of_several_labels_is_refused_or_right(scratch: Path, edits: list[Edit]) -> None:
    rows = np.zeros(4, dtype=index_dtype(source_key_bytes=5, num_labels=3))
    rows["record_bytes"], rows["record_offset"] = 2048, np.arange(4) * 2048
    rows["image_offset"], rows["image_bytes"] = rows["record_offset"] + 1536, 82
    rows["labels"] = [[0, 1, 2], [1, -1, -1], [-1, -1, -1], [0, 2, -1]]
    check_sidecar(scratch, edited(encode_index(rows), edits), task=Task.multilabel)


@given(EDITS)
def test_a_damaged_sidecar_of_targets_is_refused_or_of_finite_numbers(scratch: Path, edits: list[Edit]) -> None:
    rows = np.zeros(4, dtype=index_dtype(source_key_bytes=5, num_targets=3))
    rows["record_bytes"], rows["record_offset"] = 2048, np.arange(4) * 2048
    rows["image_offset"], rows["image_bytes"] = rows["record_offset"] + 1536, 82
    rows["targets"] = [[0, 1, 2], [1e30, -1, 0.5], [-1, -1, -1], [0, 2, -1]]
    check_sidecar(scratch, edited(encode_index(rows), edits), task=Task.regression)


def check_sidecar(scratch: Path, content: bytes, *, task: Task) -> None:
    path = scratch / "a.idx.npy"
    path.write_bytes(content)
    try:
        rows = read_index(path, num_samples=4)
        check_index(path, rows, shard_bytes=4 * 2048, num_classes=3, packed=None, task=task)
    except UserError:
        return
    for row in rows:
        start, end = int(row["record_offset"]), int(row["record_offset"]) + int(row["record_bytes"])
        image = int(row["image_offset"]), int(row["image_offset"]) + int(row["image_bytes"])
        assert 0 <= start <= image[0] <= image[1] <= end <= 4 * 2048
        if task is Task.regression:
            assert row["targets"].shape == (3,)
            assert np.isfinite(row["targets"]).all()
            continue
        labels = [int(row["label"])] if task is Task.classification else [int(x) for x in row["labels"] if x != -1]
        assert labels == sorted(set(labels))
        assert all(0 <= label < 3 for label in labels)


@given(EDITS, st.sampled_from([DATA_SET_FILE, f"train/{MANIFEST_FILE}"]), st.booleans())
def test_a_damaged_manifest_is_refused_and_a_resealed_one_stays_in_its_folder(
    scratch: Path, whole: DataSet, edits: list[Edit], name: str, resealed: bool
) -> None:
    """Resealed: as somebody could who wants harm, so that the checks behind the checksums are reached."""
    root = scratch / "set"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(whole.root, root)
    content = edited((root / name).read_bytes(), edits)
    if content == (root / name).read_bytes():
        return
    (root / name).write_bytes(content)
    if resealed:
        try:
            reseal(root, name)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return
    try:
        data_set = read_data_set(root)
        for split in data_set.splits.values():
            check_sizes(split)
    except UserError:
        return
    assert resealed or is_sealed((root / DATA_SET_FILE).read_bytes())
    for split in data_set.splits.values():
        for shard in split.shards:
            assert shard.path.resolve().is_relative_to(root)
            assert shard.num_samples * 2048 <= shard.path.stat().st_size
            faults = [*find_damage(data_set, shard)]
            faults = faults or [*find_malformed(data_set, shard)]
            assert all(str(root) in fault for fault in faults)


def reseal(root: Path, name: str) -> None:
    import hashlib

    content = json.loads((root / DATA_SET_FILE).read_bytes())
    if name != DATA_SET_FILE:
        sha256 = hashlib.sha256((root / name).read_bytes()).hexdigest()
        content["splits"]["train"]["manifest_sha256"] = sha256
    content.pop("checksum", None)
    (root / DATA_SET_FILE).write_bytes(seal(content))


@given(EDITS)
def test_a_damaged_shard_never_passes(scratch: Path, whole: DataSet, edits: list[Edit]) -> None:
    shard = whole.split("train").shards[0]
    before = shard.path.read_bytes()
    content = edited(before, edits)
    shard.path.write_bytes(content)
    try:
        assert bool(list(find_damage(whole, shard))) == (content != before)
    finally:
        shard.path.write_bytes(before)


@given(EDITS)
def test_a_damaged_shard_whose_checksums_were_made_to_fit_is_malformed_or_equal_in_form(
    scratch: Path, whole: DataSet, edits: list[Edit]
) -> None:
    """The sidecar's own checks of records, with the CRC of the damaged bytes put into the sidecar."""
    import dataclasses
    import zlib

    shard = whole.split("train").shards[0]
    content = edited(shard.path.read_bytes(), edits)
    path, index_path = scratch / "b.tar", scratch / "b.idx.npy"
    path.write_bytes(content)
    rows = np.array(read_index(shard.index_path, num_samples=shard.num_samples))
    for row in rows:
        start = int(row["record_offset"])
        row["crc32"] = zlib.crc32(content[start : start + int(row["record_bytes"])])
    index_path.write_bytes(encode_index(rows))
    forged = dataclasses.replace(shard, path=path, index_path=index_path, size_bytes=max(len(content), 3 * 2048))
    faults = list(find_malformed(whole, forged))
    if not faults:
        assert len(content) == 3 * 2048 + 1024
        for record in range(3):
            assert content[record * 2048 + 1536 :][:64] == LAYOUT.image_header


@given(EDITS, st.sampled_from([1, 3]))
def test_damaged_idx_files_are_refused_or_of_their_size(scratch: Path, edits: list[Edit], num_dimensions: int) -> None:
    shape = (6, 4, 5)[:num_dimensions]
    header = bytes((0, 0, 8, num_dimensions)) + struct.pack(f">{num_dimensions}I", *shape)
    path = scratch / "images"
    path.write_bytes(edited(header + bytes(int(np.prod(shape))), edits))
    try:
        array = read_idx(path, num_dimensions=num_dimensions)
    except UserError:
        return
    assert array.size + len(header) == path.stat().st_size


PICKLED = python2_pickle(
    {
        b"data": np.zeros((2, PIXEL_BYTES), dtype=np.uint8),
        b"labels": [3, 4],
        b"batch_label": b"training batch 1 of 5",
        b"filenames": [b"a.png", b"b.png"],
    }
)
# The pixels are not what a parser can trip over.
PICKLE_HEAD = 200
PARSERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "binary": (
        bytes(2 * (PIXEL_BYTES + 1)),
        lambda content: parse_binary_batch(content, where="x", label_bytes=1),
    ),
    "pickle": (PICKLED, lambda content: parse_pickled_batch(content, where="x", label_field=b"labels")),
    "pickled names": (
        python2_pickle({b"fine_label_names": [b"a", b"b"], b"coarse_label_names": [b"c"]}),
        lambda content: parse_pickled_names(content, where="x"),
    ),
    "json labels": (b"[[0,1,2],[3,4]]", lambda content: parse_json_labels(content, where="x")),
    "text names": (b"a\nb\n\xc3\xa9\n", lambda content: parse_text_names(content, where="x")),
}


@pytest.mark.parametrize("name", PARSERS)
@given(edits=EDITS, head_only=st.booleans())
def test_damaged_cifar_files_are_refused_or_parsed(name: str, edits: list[Edit], head_only: bool) -> None:
    content, parse = PARSERS[name]
    cut = PICKLE_HEAD if head_only else len(content)
    damaged = edited(content[:cut], edits) + content[cut:]
    try:
        parsed = parse(damaged)
    except UserError:
        return
    assert parsed is not None


def test_the_edits_change_what_they_edit() -> None:
    """That the tests above are fed with damage at all."""
    changed = []

    @settings(max_examples=100, database=None)
    @given(EDITS)
    def count(edits: list[Edit]) -> None:
        changed.append(edited(bytes(range(200)), edits) != bytes(range(200)))

    count()
    assert sum(changed) > 0.7 * len(changed)
