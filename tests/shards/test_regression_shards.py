"""Targets in shards: stored exactly, readable by others, and held against each other where they stand twice."""

from __future__ import annotations

import json
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards.check import find_damage, find_malformed
from pipeline.shards.errors import DamageError
from pipeline.shards.index import check_index, encode_index, index_dtype, make_index, read_index
from pipeline.shards.manifest import DATA_SET_FILE, DataSet, publish_data_set, read_data_set
from pipeline.shards.publish import publish_into
from pipeline.shards.record import PackedLayout, Targets, json_member, label_object, targets_bytes
from pipeline.shards.task import Task
from regression_data import random_samples, write_regression_set

SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return write_regression_set(tmp_path / "plane", random_samples({"train": 25, "val": 5}))


@given(values=st.lists(SINGLES, min_size=1, max_size=5))
def test_every_float32_comes_back_from_the_member_and_from_the_sidecar(values: list[float]) -> None:
    targets = Targets(tuple(values))
    member = json_member("0", label_object(targets), size_bytes=1024)
    assert json.loads(member[512 : 512 + 1024])["targets"] == values
    assert len(member[512 : 512 + 1024].rstrip()) == targets_bytes(values)
    (row,) = make_index([(0,) * 7], labels=[targets], source_keys=[b"a"])
    assert row["targets"].tolist() == values


@pytest.mark.parametrize("values", [(), (float("nan"),), (float("inf"),), (0.1,), (1e300,), (0.5, float("-inf"))])
def test_targets_that_float32_does_not_hold_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="float32"):
        Targets(values)


def test_numpy_and_tar_read_targets_without_our_code(data: DataSet) -> None:
    (_, targets), shards = random_samples({"train": 25})["train"], data.split("train").shards
    found = np.concatenate([np.load(shard.index_path, allow_pickle=False)["targets"] for shard in shards])
    assert found.dtype == np.float32
    assert np.array_equal(found, targets)
    with tarfile.open(shards[1].path) as tar:
        stream = tar.extractfile("000000022.json")
        assert stream is not None
        assert json.load(stream) == {"targets": targets[22].tolist()}


def test_a_sound_set_has_no_fault(data: DataSet) -> None:
    for split in data.splits.values():
        for shard in split.shards:
            assert [*find_damage(data, shard), *find_malformed(data, shard)] == []


def test_targets_that_differ_between_record_and_sidecar_are_found(data: DataSet, tmp_path: Path) -> None:
    shard = data.split("val").shards[0]
    rows = np.array(read_index(shard.index_path, num_samples=5))
    rows["targets"][3, 1] += 0.5
    shard.index_path.write_bytes(encode_index(rows))
    (fault,) = find_malformed(data, shard)
    assert "record 3" in fault
    assert "its targets are" in fault


def test_a_truth_value_in_a_record_is_no_target(tmp_path: Path) -> None:
    pixels, targets = random_samples({"val": 1})["val"]
    data = write_regression_set(tmp_path / "ones", {"val": (pixels, np.ones_like(targets))})
    shard = data.split("val").shards[0]
    content = shard.path.read_bytes().replace(b'{"targets":[1.0,1.0]} ', b'{"targets":[true,1.0]}')
    shard.path.write_bytes(content)
    rows = np.array(read_index(shard.index_path, num_samples=1))
    rows["crc32"] = zlib.crc32(content[: int(rows["record_bytes"][0])])
    shard.index_path.write_bytes(encode_index(rows))
    (fault,) = find_malformed(data, shard)
    assert "its targets are [True, 1.0], the sidecar says [1.0, 1.0]" in fault


@pytest.mark.parametrize(("num_targets", "is_taken"), [(0, False), (10_000, True), (10_001, False)])
def test_a_set_names_as_many_targets_as_a_sidecar_can_hold(data: DataSet, num_targets: int, is_taken: bool) -> None:
    content = json.loads((data.root / DATA_SET_FILE).read_bytes())
    content["classes"] = [str(number) for number in range(num_targets)]
    publish_data_set(publish_into(data.root), content)
    if is_taken:
        assert read_data_set(data.root).num_classes == num_targets
    else:
        with pytest.raises(DamageError, match=f"{num_targets} targets a sample: 1 to 10000 wanted"):
            read_data_set(data.root)


@pytest.mark.parametrize(("value", "wanted"), [(np.nan, "record 2"), (np.inf, "record 2")])
def test_a_sidecars_target_that_is_not_finite_is_damage(data: DataSet, value: float, wanted: str) -> None:
    shard = data.split("val").shards[0]
    rows = np.array(read_index(shard.index_path, num_samples=5))
    rows["targets"][2, 0] = value
    with pytest.raises(DamageError, match=f"{wanted} has a target that is not finite"):
        check_index(shard.index_path, rows, shard_bytes=shard.size_bytes, num_classes=2, packed=None, task=data.task)


def test_another_number_of_targets_than_the_set_names_is_damage(data: DataSet) -> None:
    shard = data.split("val").shards[0]
    rows = read_index(shard.index_path, num_samples=5)
    with pytest.raises(DamageError, match="2 targets a sample, 3 wanted"):
        check_index(shard.index_path, rows, shard_bytes=shard.size_bytes, num_classes=3, packed=None, task=data.task)


@pytest.mark.parametrize("task", [Task.classification, Task.multilabel])
def test_targets_are_not_the_labels_of_another_task(data: DataSet, task: Task) -> None:
    shard = data.split("val").shards[0]
    rows = read_index(shard.index_path, num_samples=5)
    with pytest.raises(DamageError, match=f"not those of task {task}"):
        check_index(shard.index_path, rows, shard_bytes=shard.size_bytes, num_classes=2, packed=None, task=task)


def test_a_number_of_targets_out_of_range_is_refused(tmp_path: Path) -> None:
    for number in (0, 10_001):
        with pytest.raises(ValueError, match="targets a sample"):
            index_dtype(source_key_bytes=1, num_targets=number)
    path = tmp_path / "a.idx.npy"
    good = encode_index(np.zeros(1, dtype=index_dtype(source_key_bytes=1, num_targets=9_999)))
    path.write_bytes(good.replace(b"(9999,)", b"(99999,)").replace(b"  \n", b" \n", 1))
    with pytest.raises(DamageError, match="99999 targets a sample"):
        read_index(path, num_samples=1)


def test_a_label_of_another_kind_than_the_layouts_is_refused() -> None:
    image = np.zeros((1, 1, 1), dtype=np.uint8)
    with pytest.raises(ValueError, match="label_bytes"):
        PackedLayout(height=1, width=1, channels=1).pack(key="0", label=Targets((1.0,)), image_HWC=image)
