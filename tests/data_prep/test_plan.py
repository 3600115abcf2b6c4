from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import listing as listing_module
from data_prep import plan as plan_module
from data_prep.listing import ListingWriter
from data_prep.plan import Plan, make_plan, read_planned_shard, shard_sizes, write_plan
from data_prep.sources.base import Items
from pipeline.shards.record import END_OF_ARCHIVE
from pipeline.shards.task import Task

SCRATCH = tempfile.TemporaryDirectory()
SIZES = st.lists(st.integers(1, 40).map(lambda blocks: 512 * blocks), min_size=1, max_size=200)


def make_items(sizes_bytes: list[int], *, num_classes: int = 3) -> Items:
    """Items sorted by class, as folders list them."""
    num_items = len(sizes_bytes)
    labels = np.arange(num_items) * num_classes // num_items
    return Items(
        labels=labels,
        source_keys=[f"class-{label}/{row:05d}.png" for row, label in enumerate(labels)],
        paths=[f"archive-{row % 2}.tar" for row in range(num_items)],
        offsets=np.arange(num_items) * 7,
        sizes_bytes=np.array(sizes_bytes),
    )


def plan_of(items: Items, *, seed: int = 0, split: str = "train", shard_bytes: int = 100_000) -> Plan:
    path = Path(tempfile.mkdtemp(dir=SCRATCH.name)) / "items.arrow"
    with ListingWriter(path, task=Task.classification) as writer:
        writer.add(items)
    return make_plan(writer.listing, split=split, seed=seed, record_bytes=lambda sizes: sizes, shard_bytes=shard_bytes)


def rows_of(plan: Plan) -> list[dict[str, Any]]:
    return pa.concat_tables(plan.tables()).to_pylist()


def store_plan(plan: Plan, path: Path) -> None:
    with path.open("wb") as stream:
        write_plan(plan, stream)


@given(SIZES, st.integers(-3, 2**70), st.integers(1, 300_000))
@pytest.mark.slow
def test_every_item_is_planned_exactly_once_and_keeps_its_row(sizes: list[int], seed: int, shard_bytes: int) -> None:
    items = make_items(sizes)
    plan = plan_of(items, seed=seed, shard_bytes=shard_bytes)
    planned = rows_of(plan)
    assert [row["row"] for row in planned] == list(range(len(items)))
    columns = (items.source_keys, items.labels.tolist(), items.paths, items.offsets.tolist(), sizes)
    wanted = sorted(zip(*columns, strict=True))
    names = ("source_key", "label", "path", "offset", "size_bytes")
    assert sorted(tuple(row[name] for name in names) for row in planned) == wanted
    assert (plan.shard_starts[0], plan.num_items) == (0, len(items))
    assert (np.diff(plan.shard_starts) > 0).all()


@given(SIZES, st.integers(1, 300_000))
@pytest.mark.slow
def test_no_shard_is_over_the_target_unless_one_record_is(sizes: list[int], shard_bytes: int) -> None:
    plan = plan_of(make_items(sizes), shard_bytes=shard_bytes)
    stored = np.array([row["size_bytes"] for row in rows_of(plan)])
    shards = [stored[start:end] for start, end in zip(plan.shard_starts[:-1], plan.shard_starts[1:], strict=True)]
    for records in shards:
        assert records.sum() + len(END_OF_ARCHIVE) <= max(shard_bytes, max(sizes) + len(END_OF_ARCHIVE))
    assert plan.stored_bytes == stored.sum() + len(shards) * len(END_OF_ARCHIVE)


@given(st.integers(1, 5000), st.integers(1, 40))
def test_shards_of_equal_records_differ_by_one_record_at_most(num_items: int, records_a_shard: int) -> None:
    plan = plan_of(make_items([2048] * num_items), shard_bytes=records_a_shard * 2048 + len(END_OF_ARCHIVE))
    counts = np.diff(plan.shard_starts)
    assert counts.max() - counts.min() <= 1
    assert plan.num_shards == -(-num_items // records_a_shard)


def test_a_plan_depends_on_seed_and_split_and_nothing_else() -> None:
    items = make_items([512] * 300)
    keys = [
        tuple(row["source_key"] for row in rows_of(plan_of(items, seed=seed, split=split)))
        for seed, split in ((0, "train"), (0, "train"), (1, "train"), (0, "val"))
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("shard_bytes", [20_000, 10**9])
def test_a_source_sorted_by_class_ends_up_mixed_over_all_shards(shard_bytes: int) -> None:
    """Of 3 equal classes a third of each half, within 4 standard deviations of drawing without replacement."""
    labels = np.array([row["label"] for row in rows_of(plan_of(make_items([512] * 3000), shard_bytes=shard_bytes))])
    for half in (labels[:1500], labels[1500:]):
        assert np.abs(np.bincount(half) - 500).max() < 4 * np.sqrt(1500 * (1 / 3) * (2 / 3) / 2)
    assert np.abs(np.corrcoef(labels[:-1], labels[1:])[0, 1]) < 4 / np.sqrt(3000)


@given(SIZES, st.integers(1, 100_000))
@pytest.mark.slow
def test_stored_shards_are_the_rows_of_the_table(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], shard_bytes: int
) -> None:
    plan = plan_of(make_items(sizes), shard_bytes=shard_bytes)
    path = tmp_path_factory.getbasetemp() / "train.parquet"
    store_plan(plan, path)
    stored = pq.ParquetFile(path)
    rows = rows_of(plan)
    assert shard_sizes(stored) == np.diff(plan.shard_starts).tolist()
    for number, (start, end) in enumerate(zip(plan.shard_starts[:-1], plan.shard_starts[1:], strict=True)):
        assert read_planned_shard(stored, number=number) == rows[start:end]


def test_equal_plans_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        store_plan(plan_of(make_items([512] * 50), shard_bytes=5000), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_fingerprint_tells_any_other_item_or_cut() -> None:
    plain = plan_of(make_items([512] * 9))
    assert plain.fingerprint == plan_of(make_items([512] * 9)).fingerprint
    others = [
        plan_of(make_items([512] * 10)),
        plan_of(make_items([512] * 8 + [1024])),
        plan_of(make_items([512] * 9, num_classes=2)),
        plan_of(make_items([512] * 9), shard_bytes=3000),
    ]
    assert len({plan.fingerprint for plan in (plain, *others)}) == 5


@given(SIZES, st.integers(1, 300_000), st.integers(1, 50))
@pytest.mark.slow
def test_memory_saving_pieces_do_not_show(sizes: list[int], shard_bytes: int, piece_rows: int) -> None:
    """A listing and a plan made in pieces are those made in one."""
    items = make_items(sizes)
    whole = plan_of(items, shard_bytes=shard_bytes)
    rows = rows_of(whole)
    with (
        mock.patch.object(plan_module, "PIECE_ROWS", piece_rows),
        mock.patch.object(listing_module, "MAX_BATCH_ITEMS", piece_rows),
    ):
        pieced = plan_of(items, shard_bytes=shard_bytes)
        assert rows_of(pieced) == rows
        assert pieced.shard_starts.tolist() == whole.shard_starts.tolist()


def test_several_labels_boxes_and_details_come_back(tmp_path: Path) -> None:
    items = Items(
        labels=[[], [0, 3], [2]],
        source_keys=["é", "b", "c"],
        paths=["x.zip"] * 3,
        offsets=np.arange(3),
        sizes_bytes=np.full(3, 10),
        boxes=np.arange(12, dtype=np.int32).reshape(3, 4),
        details=["{}", '{"a":1}', "{}"],
    )
    with ListingWriter(tmp_path / "items.arrow", task=Task.multilabel) as writer:
        writer.add(items)
    rows = {row["source_key"]: row for row in writer.listing.rows(np.array([2, 0, 1])).to_pylist()}
    assert list(rows) == ["c", "é", "b"]
    assert rows["b"] == {
        "labels": [0, 3],
        "source_key": "b",
        "path": "x.zip",
        "offset": 1,
        "size_bytes": 10,
        "box": [4, 5, 6, 7],
        "details": '{"a":1}',
    }
    assert writer.listing.label_bytes == 512
