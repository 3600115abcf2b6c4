"""The plan of a run, before it starts."""

from __future__ import annotations

import dataclasses
import re
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopback import listening
from pipeline.compose import compose, help_text
from pipeline.data.order import rank_slots
from pipeline.data.window import WindowOrder
from pipeline.plan import SUMMARY, make_plan
from pipeline.plan_config import PLAN_SCHEMAS
from pipeline.planning.rows import bytes_text, plan_text
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.shards.record import PackedLayout
from tiny_data import run_module, write_packed_set

COUNTS = [30, 20, 25, 30, 20, 25, 30, 20, 25, 17]


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    layout = PackedLayout(height=4, width=4, channels=3)
    return write_packed_set(tmp_path_factory.mktemp("plan") / "set", shard_sizes={"train": COUNTS}, layout=layout)


def rows_of(data_set: DataSet, *options: str) -> dict[str, tuple[str, str]]:
    config = compose("plan", PLAN_SCHEMAS, [f"data.path={data_set.root}", *options])
    return {row.name: (row.value, row.note) for section in make_plan(config) for row in section.rows}


def test_a_full_orders_plan_is_everything(data_set: DataSet) -> None:
    rows = rows_of(data_set, "batch.size=50")
    assert rows["steps per epoch"][0] == "4"
    assert rows["dropped per epoch"][0] == "42"
    total = bytes_text(sum(shard.size_bytes for shard in data_set.split("train").shards))
    assert [
        rows[name][0] for name in ("read per host and epoch", "working set per host", "smallest sensible cache")
    ] == [total] * 3
    assert float(rows["pairs of one shard in a batch"][0]) == pytest.approx(1, abs=0.2)


def test_a_window_orders_plan_is_that_of_its_batches(data_set: DataSet) -> None:
    options = ["order=window", "order.lanes=4", "order.window_chunks=1", "batch.size=24", "seed=3"]
    rows = rows_of(data_set, *options, "hosts=2", "ranks=4")
    order = WindowOrder(shard_counts=COUNTS, batch_size=24, seed=3, lanes=4, window_chunks=1)
    ends, sizes = np.cumsum(COUNTS), [shard.size_bytes for shard in data_set.split("train").shards]
    read = []
    for host in range(2):
        slots = rank_slots(order, epoch=0, first_step=0, rank=host, world_size=2)
        ids = np.concatenate([part.sample_ids for part in slots])
        read.append(sum(sizes[shard] for shard in set(np.searchsorted(ends, ids, side="right").tolist())))
    assert rows["read per host and epoch"][0] == bytes_text(max(read))
    assert rows["slots per rank"][0] == "6"
    assert re.fullmatch(r"[2-4] shards: 2 lanes, windows of 1", rows["working set per host"][1])
    assert "lanes read by two hosts" not in rows
    assert "order.lanes=6" in rows_of(data_set, *options, "hosts=3")["lanes read by two hosts"][1]


def test_a_mixtures_plan_reads_each_set_as_often_as_its_share_uses_it(data_set: DataSet, tmp_path: Path) -> None:
    layout = PackedLayout(height=4, width=4, channels=3)
    small = write_packed_set(tmp_path / "small", shard_sizes={"train": [20, 10]}, layout=layout)
    paths = f"data.paths=[{data_set.root},{small.root}]"
    rows = rows_of(data_set, paths, "data.weights=[2,1]", "batch.size=12", "hosts=2")
    steps = (sum(COUNTS) + 30) // 12
    assert rows["steps per epoch"][0] == f"{steps}"
    # Two thirds of the slots are the first set's, one third, more than there are samples, the second's.
    sizes = [sum(shard.size_bytes for shard in each.split("train").shards) for each in (data_set, small)]
    read = 8 * steps / sum(COUNTS) * sizes[0] + 4 * steps / 30 * sizes[1]
    assert rows["read per host and epoch"][0] == bytes_text(round(read))


def test_the_shuffle_can_be_left_out(data_set: DataSet) -> None:
    assert "run of one label" in rows_of(data_set, "batch.size=50")
    assert "run of one label" not in rows_of(data_set, "batch.size=50", "shuffle_samples=0")


def test_a_remote_sets_plan_is_that_of_the_folder_but_for_the_labels(data_set: DataSet) -> None:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(data_set.root))

        def log_message(self, *arguments: object) -> None:
            pass

    options = ["order=window", "batch.size=24", "order.lanes=4"]
    here = rows_of(data_set, *options)
    with listening(Handler) as url:
        there = rows_of(data_set, f"data.path={url}", *options)
    assert here.pop("run of one label")
    assert there == here


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["batch.size=300"], "batch.size=300 is over the 242 samples"),
        (["batch.size=50", "ranks=4", "hosts=2"], "batch.size=50 does not divide by 4 ranks"),
        (["batch.size=50", "order=window"], "order.lanes=8 does not divide batch.size=50"),
        (["data.train_split=tset"], "no split 'tset'"),
        (["ranks=3", "hosts=2"], "ranks=3: a multiple of hosts=2"),
        (["hosts=0"], "hosts=0: at least 1"),
        (["order.lanes=8"], r"order.lanes"),
        (["model=mlp", "model.norm=batch", "batch.size=2", "ranks=2"], "leaves one of a single sample"),
        (["model=mlp", "model.norm=batch", "batch.size=9", "batch.micro_size=4"], "leaves one of a single sample"),
    ],
)
def test_what_the_run_would_refuse_is_refused(data_set: DataSet, options: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        rows_of(data_set, *options)


def test_help_lists_every_option_with_its_meaning() -> None:
    text = help_text("plan", PLAN_SCHEMAS, summary=SUMMARY)
    for schema in PLAN_SCHEMAS.values():
        for field in dataclasses.fields(schema):
            assert field.metadata.get("help", "") in text
    assert "order=full|window" in text


def test_columns_are_aligned(data_set: DataSet) -> None:
    config = compose("plan", PLAN_SCHEMAS, [f"data.path={data_set.root}", "order=window", "batch.size=8"])
    lines = [line for line in plan_text(make_plan(config)).splitlines() if line.startswith("  ")]
    # Two spaces stand before each column, and nowhere else in a line.
    ends = {found.end() for line in lines if (found := re.match(r"  \S+(?: \S+)*  +\S+(?: \S+)?  (?=\S)", line))}
    assert len(ends) == 1


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (16_400_000_000, "16.4 GB"), (999_600, "1 MB"), (5 * 10**18, "5e+03 PB")],
)
def test_sizes_are_told_in_three_digits(size_bytes: int, text: str) -> None:
    assert bytes_text(size_bytes) == text


@pytest.mark.slow
def test_the_command_prints_a_plan_or_one_line(data_set: DataSet, tmp_path: Path) -> None:
    ended = run_module("pipeline.plan", f"data.path={data_set.root}", "batch.size=8")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "steps per epoch" in ended.stdout
    ended = run_module("pipeline.plan", f"data.path={tmp_path}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
