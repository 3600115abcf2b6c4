"""Duplicates against brute force: every pair of stored images compared byte for byte."""

from __future__ import annotations

import itertools
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from card_sets import Elsewhere, encoded_image, stored_set, write_set
from hypothesis import given
from hypothesis import strategies as st

import data_prep.card.duplicates as duplicates_module
from data_prep.card.duplicates import (
    Duplicates,
    candidate_keys,
    derived_crcs,
    equal_runs,
    find_duplicates,
    repeated,
)
from data_prep.card.stored_set import StoredSet, publish_content_crcs
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.index import read_index
from pipeline.shards.manifest import DataSet, read_data_set
from pipeline.shards.record import PackedLayout
from pipeline.storage import open_store
from tiny_data import copy_of, random_pixels, rows_of, stored_image

GREY = PackedLayout(height=1, width=2, channels=1)


def images_of(data_set: DataSet) -> list[tuple[str, int, bytes]]:
    """Return (split, id, bytes of the stored image) of every sample, read the plain way."""
    return [
        (split, number, stored_image(path, row))
        for split in data_set.splits
        for number, (path, row) in enumerate(rows_of(data_set, split))
    ]


def brute_force(data_set: DataSet) -> list[list[tuple[str, int]]]:
    by_content = defaultdict(list)
    for split, number, image in images_of(data_set):
        by_content[image].append((split, number))
    return [members for members in by_content.values() if len(members) > 1]


def found_in(data_set: DataSet) -> Duplicates:
    found = find_duplicates(stored_set(data_set))
    assert found is not None
    return found


def groups_of(duplicates: Duplicates) -> list[list[tuple[str, int]]]:
    return [duplicates.group(number) for number in range(duplicates.num_groups)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """120 images of two pixels with four levels: most of them stand there several times."""
    bits = np.random.default_rng(0).integers(0, 4, size=(120, 1, 2, 1), dtype=np.uint8)
    samples = [(pixels, number % 3, f"{number}.png") for number, pixels in enumerate(bits)]
    samples += [(np.full((1, 2, 1), 9, np.uint8), 0, "alone")]
    splits = {"train": [samples[:50], samples[50:80]], "val": [samples[80:90]], "test": [samples[90:]]}
    return write_set(tmp_path_factory.mktemp("set") / "packed", splits, classes=["a", "b", "c"], packed=GREY)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Files of many lengths, some records with details before the image; every fifth image is an earlier one."""
    kinds = ("png", "jpg", "webp")
    images = [
        encoded_image(random_pixels(k, height=5 + k % 11, width=3 + k % 7), extension=kinds[k % 3]) for k in range(40)
    ]
    images = [images[k - 3] if k % 5 == 4 else image for k, image in enumerate(images)]
    samples = [(image, k % 2, "x" * (k + 1)) for k, image in enumerate(images)]
    splits = {"train": [samples[:7], samples[7:24]], "val": [samples[24:]]}
    return write_set(tmp_path_factory.mktemp("set") / "encoded", splits, classes=["a", "b"])


@pytest.fixture(params=["packed", "encoded"])
def data_set(request: pytest.FixtureRequest) -> DataSet:
    found: DataSet = request.getfixturevalue(request.param)
    return found


def test_groups_are_those_of_comparing_every_pair(data_set: DataSet) -> None:
    wanted = brute_force(data_set)
    assert len(wanted) > 5
    assert groups_of(found_in(data_set)) == wanted


def leave_crcs(data_set: DataSet, crc: Callable[[bytes], int], splits: Iterable[str]) -> None:
    """Leave checksums as preparation does, in `plan/`."""
    for split in splits:
        for shard in data_set.split(split).shards:
            rows = read_index(shard.index_path, num_samples=shard.num_samples)
            crcs = [crc(stored_image(shard.path, row)) for row in rows]
            store = open_store(str(data_set.root))
            publish_content_crcs(store, split=split, shard=shard.path.name, crcs=crcs)


@pytest.fixture
def copied(data_set: DataSet, tmp_path: Path) -> DataSet:
    return read_data_set(copy_of(data_set, tmp_path / "copy"))


def test_checksums_that_preparation_left_give_the_same(copied: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_crcs(copied, zlib.crc32, ["train"])
    assert groups_of(found_in(copied)) == brute_force(copied)
    leave_crcs(copied, zlib.crc32, copied.splits)
    monkeypatch.setattr(duplicates_module, "derived_crcs", None)
    assert groups_of(found_in(copied)) == brute_force(copied)


def test_checksums_of_another_number_are_not_used(copied: DataSet) -> None:
    leave_crcs(copied, lambda _image: 0, copied.splits)
    for path in (copied.root / "plan").iterdir():
        path.write_bytes(path.read_bytes()[:-4])
    assert groups_of(found_in(copied)) == brute_force(copied)


def test_an_image_s_checksum_follows_from_its_record_s(data_set: DataSet) -> None:
    stored = stored_set(data_set)
    found = [crc for shard in stored.shards() for crc in derived_crcs(stored, shard).tolist()]
    assert found == [zlib.crc32(image) for _, _, image in images_of(data_set)]


def test_images_are_read_for_candidates_alone(data_set: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    plain = duplicates_module.image_digests

    def spy(stored, shard, records):  # type: ignore[no-untyped-def]
        read.extend((shard.name, record) for record in records.tolist())
        return plain(stored, shard, records)

    monkeypatch.setattr(duplicates_module, "image_digests", spy)
    found_in(data_set)
    assert len(read) == len(set(read)) == sum(map(len, brute_force(data_set)))


def test_chance_pairs_of_equal_checksums_are_no_duplicates(copied: DataSet) -> None:
    leave_crcs(copied, lambda _image: 0, copied.splits)
    assert groups_of(found_in(copied)) == brute_force(copied)


def test_shards_of_a_server_are_not_fetched_for_their_checksums(copied: DataSet) -> None:
    remote = Elsewhere(copied.root)
    assert find_duplicates(StoredSet(data_set=copied, store=remote)) is None
    assert remote.read == []
    leave_crcs(copied, zlib.crc32, copied.splits)
    found = find_duplicates(StoredSet(data_set=copied, store=remote))
    assert found is not None
    assert groups_of(found) == brute_force(copied)
    assert len(remote.read) == sum(map(len, brute_force(copied)))


def test_counts_are_those_of_the_groups(data_set: DataSet) -> None:
    duplicates, groups = found_in(data_set), brute_force(data_set)
    for split in data_set.splits:
        counts = [sum(of == split for of, _ in group) for group in groups]
        assert duplicates.num_copies(split) == sum(max(0, count - 1) for count in counts)
        for other in data_set.splits:
            shared = [count for count, group in zip(counts, groups, strict=True) if any(of == other for of, _ in group)]
            assert duplicates.num_shared(split, other) == sum(shared)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 10_000])
def test_a_group_that_is_cut_keeps_one_of_each_split(data_set: DataSet, limit: int) -> None:
    duplicates = found_in(data_set)
    for number, whole in enumerate(groups_of(duplicates)):
        cut = duplicates.group(number, limit=limit)
        assert len(cut) == min(limit, len(whole))
        assert [member for member in whole if member in cut] == cut
        splits = {split for split, _ in whole}
        assert len({split for split, _ in cut}) == min(limit, len(splits))
        # What is not needed for that are the first members.
        of_splits = {next(member for member in whole if member[0] == split) for split in splits}
        others = [member for member in cut if member not in of_splits]
        assert others == [member for member in whole if member not in of_splits][: len(others)]


def test_no_duplicates_give_no_groups(tmp_path: Path) -> None:
    samples = [(np.full((1, 2, 1), k, np.uint8), 0, str(k)) for k in range(9)]
    duplicates = found_in(write_set(tmp_path, {"train": [samples]}, classes=["a"], packed=GREY))
    assert (duplicates.num_groups, duplicates.num_copies("train")) == (0, 0)
    assert duplicates.group_sizes().shape == (0, 1)


def test_several_labels_do_not_hide_duplicates(tmp_path: Path) -> None:
    layout = PackedLayout(height=1, width=2, channels=1, label_bytes=1000)
    image = np.zeros((1, 2, 1), np.uint8)
    samples = [(image, [0, 1], "a"), (image, [], "b"), (image + 1, [1], "c")]
    duplicates = found_in(write_set(tmp_path, {"train": [samples]}, classes=["a", "b"], packed=layout))
    assert groups_of(duplicates) == [[("train", 0), ("train", 1)]]


def test_a_shard_that_is_cut_or_gone_is_named(packed: DataSet, tmp_path: Path) -> None:
    samples = [(np.zeros((1, 2, 1), np.uint8), 0, "a")] * 2
    data_set = write_set(tmp_path / "set", {"train": [samples]}, classes=["a"], packed=GREY)
    path = data_set.split("train").shards[0].path
    content = path.read_bytes()
    path.write_bytes(content[:3000])
    with pytest.raises(DamageError, match=r"shard-000000\.tar: ends at byte 3000"):
        found_in(data_set)
    path.unlink()
    with pytest.raises(UserError, match=r"shard-000000\.tar: missing"):
        found_in(data_set)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**33)), max_size=50))
def test_repeated_keys_are_those_counted_twice(images: list[tuple[int, int]]) -> None:
    keys = candidate_keys(np.array([a for a, _ in images], dtype=np.uint32), np.array([b for _, b in images]))
    spelled = [(a, b % 2**32) for a, b in images]
    assert repeated(keys).tolist() == [k for k, image in enumerate(spelled) if spelled.count(image) > 1]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=40))
def test_runs_are_the_groups_of_equal_rows(rows: list[tuple[int, int]]) -> None:
    numbers = np.arange(len(rows)) * 3 + 1
    members, starts = equal_runs(numbers, np.array(rows, dtype=np.uint64).reshape(-1, 2))
    wanted: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, row in zip(numbers.tolist(), rows, strict=True):
        wanted[row].append(number)
    groups = [group for group in wanted.values() if len(group) > 1]
    assert [members[a:b].tolist() for a, b in itertools.pairwise(starts)] == groups
