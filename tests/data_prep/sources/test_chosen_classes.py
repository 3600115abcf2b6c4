"""Classes of one's choice: which items are kept, how they are numbered, and that a set of them is made and mended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.config import LocalEngineConfig
from data_prep.repair import repair
from data_prep.sources.base import Items
from data_prep.sources.chosen_classes import ChosenClasses
from data_prep.sources.synthetic import SyntheticSource
from pipeline.shards.errors import UserError
from pipeline.shards.task import Task
from tiny_data import prepare_pictures, rows_of, tree, write_pictures


class WordNet:
    """Four classes with ids, in two tables, the second without class 2."""

    name = "words"
    task = Task.classification
    classes = ("tench", "crane", "goldfish", "crane (bird)")
    class_ids = ("n01", "n02", "n03", "n04")
    splits = ("train",)
    native_shape = None

    def list_items(self, split: str) -> Any:
        for labels in ([2, 0, 3, 2], [0, 1, 3]):
            yield Items(
                labels=np.array(labels),
                source_keys=[f"{label}/{number}" for number, label in enumerate(labels)],
                paths=["a.tar"] * len(labels),
                offsets=np.arange(len(labels)),
                sizes_bytes=np.full(len(labels), 9),
                boxes=np.arange(4 * len(labels), dtype=np.int32).reshape(-1, 4),
                details=[f"{{{number}}}" for number in range(len(labels))],
            )

    def read(self, *, path: str, offset: int, size_bytes: int) -> bytes:
        return f"{path} {offset}".encode()


def test_items_of_the_chosen_classes_are_kept_with_all_their_columns() -> None:
    source = ChosenClasses(WordNet(), names=["goldfish", "n02"])
    assert (source.classes, source.class_ids) == (("goldfish", "crane"), ("n03", "n02"))
    first, second = source.list_items("train")
    assert (list(first.labels), first.source_keys, first.offsets.tolist()) == ([0, 0], ["2/0", "2/3"], [0, 3])
    assert first.boxes is not None
    assert first.boxes[:, 0].tolist() == [0, 12]
    assert first.details == ["{0}", "{3}"]
    assert (list(second.labels), second.source_keys) == ([1], ["1/1"])
    assert source.read(path="a.tar", offset=3, size_bytes=9) == b"a.tar 3"


def test_a_table_without_a_chosen_class_is_left_out() -> None:
    tables = [*ChosenClasses(WordNet(), names=["n03"]).list_items("train")]
    assert [len(items) for items in tables] == [2]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["n01", "pike"], "classes: 'pike' is no class of words; there are tench, crane, goldfish"),
        (["n01", "tench"], "classes=n01,tench: one of them is named twice"),
    ],
)
def test_what_cannot_be_chosen_is_told(names: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        ChosenClasses(WordNet(), names=names)


def test_of_many_classes_ten_are_told() -> None:
    source = SyntheticSource(samples=20, val_samples=0, classes=20, channels=1, seed=0, resolution=8)
    with pytest.raises(UserError, match=r"class-0009, \.\.\.$"):
        ChosenClasses(source, names=["x"])


def test_items_with_several_labels_are_refused() -> None:
    source = WordNet()
    source.task = Task.multilabel
    with pytest.raises(UserError, match="one label an item, words has others"):
        ChosenClasses(source, names=["tench"])


def test_a_set_of_two_classes_is_made_and_mended(tmp_path: Path) -> None:
    options = ("layout.resolution=8", "source.val_frac=0")
    write_pictures(tmp_path / "pets", num_each=3, classes=("cat", "7", "owl"))
    two = prepare_pictures(tmp_path / "pets", tmp_path / "two", *options, "classes=[owl,7]")
    assert two.classes == ("owl", "7")
    listed = [(row["label"], bytes(row["source_key"]).decode().split("/")[0]) for _, row in rows_of(two, "train")]
    assert sorted(listed) == [(0, "owl")] * 3 + [(1, "7")] * 3
    # Typed again it is there already; with other classes it is another set.
    prepare_pictures(tmp_path / "pets", tmp_path / "two", *options, "classes=[owl,7]")
    with pytest.raises(UserError, match="was begun with classes="):
        prepare_pictures(tmp_path / "pets", tmp_path / "two", *options)
    before = tree(tmp_path / "two")
    two.split("train").shards[0].path.write_bytes(b"damaged")
    assert repair(str(tmp_path / "two"), root=None, engine=LocalEngineConfig(workers=1)) == 1
    assert tree(tmp_path / "two") == before
