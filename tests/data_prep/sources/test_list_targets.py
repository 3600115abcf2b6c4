"""Lists of images with numbers to predict: what is written in the list is what is stored, or the line is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.sources.list_entries import jsonl_entries
from data_prep.sources.lists import ListSource, open_list
from data_prep.verify import main as verify_main
from pipeline.shards.errors import UserError
from pipeline.shards.task import Task
from tiny_data import SMALL_SHARDS, prepare_here, random_pixels, rows_of, save_pixels

Rows = list[dict[str, Any]]


def write_list(folder: Path, rows: Rows) -> str:
    for number, row in enumerate(rows):
        save_pixels(folder / row["path"], random_pixels(number, height=8, width=8))
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def opened(path: str, *, classes: str | None = None) -> ListSource:
    return open_list(path, entries=jsonl_entries, images=None, classes=classes, val_frac=0.0)


@pytest.mark.parametrize("layout", ["packed", "encoded"])
def test_targets_are_stored_as_they_are_listed_whatever_the_order_of_names(tmp_path: Path, layout: str) -> None:
    rows: Rows = [
        {
            "path": f"{number}.png",
            "targets": {"age": number + 0.25, "µ": -number} if number % 2 else {"µ": -number, "age": number + 0.25},
            "split": "val" if number > 6 else "train",
        }
        for number in range(1, 10)
    ]
    options = ["layout=encoded"] if layout == "encoded" else ["layout.resolution=8"]
    options += ["source=jsonl", f"source.root={write_list(tmp_path / 'faces', rows)}", SMALL_SHARDS]
    data = prepare_here(tmp_path / "out", *options)
    assert (data.task, data.classes) == (Task.regression, ("age", "µ"))
    for split, numbers in (("train", range(1, 7)), ("val", range(7, 10))):
        found = {bytes(row["source_key"]).decode(): row["targets"].tolist() for _, row in rows_of(data, split)}
        assert found == {f"{n}.png#{n}": [n + 0.25, -n] for n in numbers}
    assert verify_main([f"path={tmp_path / 'out'}"]) == 0


def test_a_share_is_held_out_where_the_list_names_no_splits(tmp_path: Path) -> None:
    rows: Rows = [{"path": f"{number}.png", "targets": {"x": number}} for number in range(20)]
    source = open_list(write_list(tmp_path, rows), entries=jsonl_entries, images=None, classes=None, val_frac=0.1)
    counts = {split: sum(map(len, source.list_items(split))) for split in source.splits}
    assert counts == {"train": 18, "val": 2}
    (items,) = source.list_items("val")
    assert np.asarray(items.labels).dtype == np.float32


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ({"targets": {"age": 1}}, "not the targets of the first line, age, height"),
        ({"targets": {"age": 1, "height": 2, "more": 3}}, "not the targets of the first line"),
        ({"label": "cat"}, "every line `labels`, or `targets`"),
        ({"targets": {"age": 1, "height": True}}, "an object of numbers"),
        ({"targets": {"age": 1, "height": "2"}}, "an object of numbers"),
        ({"targets": {"age": 1, "height": float("nan")}}, "an object of numbers"),
        ({"targets": {"age": 1, "height": 1e39}}, "an object of numbers"),
        ({"targets": {}}, "an object of numbers"),
        ({"targets": [1, 2]}, "an object of numbers"),
        ({"targets": {"age": 1, "height": 2}, "label": "cat"}, 'one of "label", "labels" and "targets"'),
    ],
)
def test_a_line_that_is_not_like_the_first_is_named(tmp_path: Path, second: dict[str, Any], told: str) -> None:
    rows: Rows = [{"path": "1.png", "targets": {"age": 1, "height": 2}}, {"path": "2.png", **second}]
    source = opened(write_list(tmp_path, rows))
    with pytest.raises(UserError, match="line 2: ") as caught:
        list(source.list_items("train"))
    assert told in str(caught.value)


def test_names_of_classes_are_refused_beside_targets(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n")
    path = write_list(tmp_path, [{"path": "1.png", "targets": {"age": 1}}])
    with pytest.raises(UserError, match="leave source"):
        _ = opened(path, classes=str(tmp_path / "names.txt")).classes
