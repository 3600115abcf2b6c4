from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.manifest import DATA_SET_FILE, MANIFEST_FILE, DataSet, read_data_set
from pipeline.shards.record import PackedLayout
from tiny_data import copy_of, write_packed_set

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_packed_set(
        tmp_path_factory.mktemp("good") / "set",
        shard_sizes={"train": [2, 1], "val": [1]},
        layout=PackedLayout(height=2, width=2, channels=3),
    )


@pytest.fixture
def root(good: DataSet, tmp_path: Path) -> Path:
    return copy_of(good, tmp_path / "set")


def sealed(content: dict[str, Any]) -> bytes:
    """Seal anything, also what our own writer refuses: NaN, lone surrogates."""
    before, after = json.dumps({**content, "checksum": ""}, indent=1).encode()[:-3], b'"\n}\n'
    return before + hashlib.sha256(before).hexdigest().encode() + after


def change_data_set(root: Path, change: Change) -> None:
    """Change dataset.json and seal it again, as a hostile writer would."""
    content = json.loads((root / DATA_SET_FILE).read_bytes())
    del content["checksum"]
    change(content)
    (root / DATA_SET_FILE).write_bytes(sealed(content))


def change_manifest(root: Path, change: Change) -> None:
    """Change train/manifest.json and seal everything above it again."""
    path = root / "train" / MANIFEST_FILE
    content = json.loads(path.read_bytes())
    change(content)
    seal_manifest(root, json.dumps(content).encode())


def seal_manifest(root: Path, raw: bytes) -> None:
    (root / "train" / MANIFEST_FILE).write_bytes(raw)
    digest = hashlib.sha256(raw).hexdigest()
    change_data_set(root, lambda content: content["splits"]["train"].update(manifest_sha256=digest))


def put(*path: str | int, to: Any) -> Change:
    """Return a change of one field, named by the path to it."""

    def change(content: dict[str, Any]) -> None:
        target: Any = content
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = to

    return change


def drop(*path: str | int) -> Change:
    def change(content: dict[str, Any]) -> None:
        target: Any = content
        for step in path[:-1]:
            target = target[step]
        del target[path[-1]]

    return change


DATA_SET_LIES: dict[str, Change] = {
    "no name": drop("name"),
    "name is no text": put("name", to=3),
    "name that is no Unicode": put("name", to="\udc00"),
    "unknown task": put("task", to="segmentation"),
    "classes are a number": put("classes", to=10),
    "a class is no text": put("classes", to=["a", None, "c"]),
    "no layout": drop("layout"),
    "layout is a list": put("layout", to=[]),
    "unknown layout": put("layout", "kind", to="packed2"),
    "height is text": put("layout", "height", to="2"),
    "height is true": put("layout", "height", to=True),
    "height is a float": put("layout", "height", to=2.0),
    "no height at all": put("layout", "height", to=0),
    "two channels": put("layout", "channels", to=2),
    "record length that does not follow": put("layout", "record_bytes", to=2048 + 512),
    "pixel offset that does not follow": put("layout", "pixel_offset", to=1536),
    "splits are a list": put("splits", to=[]),
    "split that leads out": put("splits", "..", to={"samples": 3, "manifest_sha256": "0" * 64}),
    "split with a slash": put("splits", "train/../train", to={"samples": 3, "manifest_sha256": "0" * 64}),
    "split without a folder": put("splits", "test", to={"samples": 3, "manifest_sha256": "0" * 64}),
    "split is a number": put("splits", "train", to=3),
    "another number of samples": put("splits", "train", "samples", to=4),
    "checksum of another manifest": put("splits", "train", "manifest_sha256", to="0" * 64),
    "checksum is no text": put("splits", "train", "manifest_sha256", to=None),
    "statistics of text": put("statistics", to={"mean": ["a"] * 3, "std": [1, 1, 1]}),
    "statistics of two channels": put("statistics", to={"mean": [1, 2], "std": [1, 1]}),
    "statistics out of range": put("statistics", to={"mean": [1, 2, 256], "std": [1, 1, 1]}),
    "statistics are text": put("statistics", to="mean"),
    "rejected is a number": put("rejected", to=0),
    "version 0": put("format_version", to=0),
    "version is text": put("format_version", to="1"),
    "version is true": put("format_version", to=True),
    "version is a float": put("format_version", to=1.0),
    "no version": drop("format_version"),
}
ROW = ("shardlist", 0)
MANIFEST_LIES: dict[str, Change] = {
    "shardlist is missing": drop("shardlist"),
    "shardlist is a number": put("shardlist", to=3),
    "a row is text": put("shardlist", 0, to="shard-000000.tar"),
    "url that leads out": put(*ROW, "url", to="../../secret.tar"),
    "absolute url": put(*ROW, "url", to="/etc/passwd"),
    "hidden url": put(*ROW, "url", to=".shard.tar"),
    "url is a number": put(*ROW, "url", to=7),
    "url with a line break": put(*ROW, "url", to="a\n"),
    "url of a server": put(*ROW, "url", to="http://example.org/a.tar"),
    "no url": drop(*ROW, "url"),
    "sidecar url that leads out": put(*ROW, "index", "url", to="../train/shard-000000.idx.npy"),
    "no index": drop(*ROW, "index"),
    "index is text": put(*ROW, "index", to="shard-000000.idx.npy"),
    "nsamples is text": put(*ROW, "nsamples", to="2"),
    "nsamples is a float": put(*ROW, "nsamples", to=2.0),
    "nsamples is true": put(*ROW, "nsamples", to=True),
    "nsamples is negative": put(*ROW, "nsamples", to=-2),
    "nsamples is nought": put(*ROW, "nsamples", to=0),
    "nsamples is null": put(*ROW, "nsamples", to=None),
    "nsamples beyond the file": put(*ROW, "nsamples", to=2**50),
    "nsamples beyond everything": put(*ROW, "nsamples", to=10**40),
    "nsamples is a list": put(*ROW, "nsamples", to=[2]),
    "filesize is negative": put(*ROW, "filesize", to=-1),
    "filesize that records do not fill": put(*ROW, "filesize", to=2 * 2048 + 1024 + 512),
    "sidecar filesize is text": put(*ROW, "index", "filesize", to="1"),
    "sha256 is too short": put(*ROW, "sha256", to="00"),
    "sha256 is a number": put(*ROW, "sha256", to=0),
    "a shard listed twice": lambda content: content["shardlist"].__setitem__(1, content["shardlist"][0]),
    "another split": put("split", to="val"),
    "no split": drop("split"),
    "version 0": put("format_version", to=0),
    "no version": drop("format_version"),
}


@pytest.mark.parametrize("change", DATA_SET_LIES.values(), ids=DATA_SET_LIES.keys())
def test_a_sealed_dataset_json_of_another_form_is_damage(root: Path, change: Change) -> None:
    change_data_set(root, change)
    with pytest.raises(DamageError, match=str(root)):
        read_data_set(root)


@pytest.mark.parametrize("change", MANIFEST_LIES.values(), ids=MANIFEST_LIES.keys())
def test_a_sealed_manifest_of_another_form_is_damage(root: Path, change: Change) -> None:
    change_manifest(root, change)
    with pytest.raises(DamageError, match=str(root)):
        read_data_set(root)


def test_the_helpers_of_these_tests_change_nothing_by_themselves(root: Path, good: DataSet) -> None:
    change_data_set(root, lambda _: None)
    assert read_data_set(root).classes == good.classes
    change_manifest(root, lambda _: None)
    assert read_data_set(root).split("val").num_samples == good.split("val").num_samples


BOMBS = {
    "deep lists": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 1_000_000,
    "long number": b'{"format_version": ' + b"9" * 1_000_000 + b"}",
    "NaN": b'{"format_version": NaN}',
    "Infinity": b'{"format_version": 1, "a": -Infinity}',
    "a list": b"[]",
    "a number": b"1",
    "nothing": b"",
    "UTF-16": '{"format_version": 1}'.encode("utf-16"),
    "not Unicode": b'{"format_version": 1, "a": "\xff"}',
    "no JSON": b"{'format_version': 1}",
}


@pytest.mark.parametrize("raw", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_are_damage(root: Path, raw: bytes) -> None:
    seal_manifest(root, raw)
    with pytest.raises(DamageError, match=MANIFEST_FILE):
        read_data_set(root)
    (root / DATA_SET_FILE).write_bytes(raw)
    with pytest.raises(DamageError, match=DATA_SET_FILE):
        read_data_set(root)


def become_newer(content: dict[str, Any]) -> None:
    content.clear()
    content.update(format_version=3, shape="unknown to this version")


def test_a_newer_version_is_told_from_damage(root: Path) -> None:
    change_manifest(root, put("format_version", to=2))
    with pytest.raises(UserError, match=r"manifest.json: format version 2, this Tarmac reads up to 1.*upgrade") as told:
        read_data_set(root)
    assert not isinstance(told.value, DamageError)
    change_data_set(root, become_newer)
    with pytest.raises(UserError, match=r"dataset.json: format version 3") as told:
        read_data_set(root)
    assert not isinstance(told.value, DamageError)


@pytest.mark.parametrize("name", [DATA_SET_FILE, f"train/{MANIFEST_FILE}"])
def test_a_version_edited_by_hand_is_damage_that_tells_the_version(root: Path, name: str) -> None:
    path = root / name
    path.write_bytes(path.read_bytes().replace(b'"format_version": 1', b'"format_version": 9'))
    with pytest.raises(DamageError, match=f"{name}: its checksum does not fit.*format version 9"):
        read_data_set(root)


def test_no_data_set_is_told_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; make the data set with `make prepare-data"):
        read_data_set(tmp_path / "nothing")
    with pytest.raises(UserError, match="no finished data set"):
        read_data_set(tmp_path)


def test_an_unknown_split_is_told_with_those_that_exist(good: DataSet) -> None:
    with pytest.raises(UserError, match="no split 'test', only train, val"):
        good.split("test")


@given(st.integers(0, 10_000), st.integers(1, 255), st.sampled_from([DATA_SET_FILE, f"train/{MANIFEST_FILE}"]))
def test_one_changed_byte_is_damage(good: DataSet, place: int, flip: int, name: str) -> None:
    path = good.root / name
    before = path.read_bytes()
    changed = bytearray(before)
    changed[place % len(before)] ^= flip
    try:
        path.write_bytes(changed)
        with pytest.raises(DamageError):
            read_data_set(good.root)
    finally:
        path.write_bytes(before)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["name", "classes", "layout", "splits", "statistics", "rejected", "format_version"]


@given(JSON, st.sampled_from(FIELDS))
def test_any_json_in_any_field_is_read_or_an_error_of_the_user(good: DataSet, value: Any, field: str) -> None:
    path = good.root / DATA_SET_FILE
    before = path.read_bytes()
    content = {**json.loads(before), field: value}
    try:
        del content["checksum"]
        path.write_bytes(sealed(content))
        try:
            read_data_set(good.root)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
    finally:
        path.write_bytes(before)
