from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.sources import parquet_files
from data_prep.sources.base import Rejected
from data_prep.sources.parquet import ParquetSource, open_parquet
from pipeline.shards.errors import UserError
from pipeline.shards.task import Task
from served import served

NAMES = ["tench, Tinca tinca", "goldfish", "émeu"]


def content_of(number: int) -> bytes:
    return b"image %d " % number * (1 + number % 7)


def write_hub(path: Path, numbers: range, *, features: Features | None = None, labels: list[Any] | None = None) -> None:
    """Write a file with Hugging Face's own library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {
        "image": [{"bytes": content_of(number), "path": f"../../{number}.jpg"} for number in numbers],
        "label": labels or [number % 3 for number in numbers],
    }
    features = features or Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    Dataset.from_dict(rows, features=features).to_parquet(str(path), batch_size=10)


def write_plain(path: Path, *, row_group_size: int | None = None, compression: str = "snappy", **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size, compression=compression)


def listed(source: ParquetSource) -> dict[str, list[tuple[str, Any, bytes]]]:
    """Return (source key, class name or names, bytes) of each item by split."""
    found: dict[str, list[tuple[str, Any, bytes]]] = {}
    for split in source.splits:
        found[split] = []
        for items in source.list_items(split):
            for key, path, offset, size_bytes, label in zip(
                items.source_keys, items.paths, items.offsets, items.sizes_bytes, items.labels, strict=True
            ):
                names = [source.classes[n] for n in label] if isinstance(label, list) else source.classes[label]
                content = source.read(path=path, offset=int(offset), size_bytes=int(size_bytes))
                found[split].append((key, names, content))
    return found


def test_files_of_the_hub_give_their_rows_by_split(tmp_path: Path) -> None:
    write_hub(tmp_path / "data/train-00000-of-00002.parquet", range(25))
    write_hub(tmp_path / "data/train-00001-of-00002.parquet", range(25, 31))
    write_hub(tmp_path / "data/validation-00000-of-00001.parquet", range(100, 103))
    source = open_parquet(str(tmp_path))
    assert (source.name, source.task, source.native_shape) == (tmp_path.name, Task.classification, None)
    assert source.classes == tuple(NAMES)
    found = listed(source)
    assert [(key, name) for key, name, _ in found["train"]] == [
        (f"data/train-0000{n // 25}-of-00002.parquet#{n % 25}", NAMES[n % 3]) for n in range(31)
    ]
    assert [content for _, _, content in found["train"]] == [content_of(number) for number in range(31)]
    assert [content for _, _, content in found["val"]] == [content_of(number) for number in range(100, 103)]


def test_the_sizes_add_up_to_the_images(tmp_path: Path) -> None:
    write_hub(tmp_path / "train.parquet", range(1000))
    (items,) = open_parquet(str(tmp_path)).list_items("train")
    true_bytes = sum(len(content_of(number)) for number in range(1000))
    assert true_bytes < items.sizes_bytes.sum() < 1.2 * true_bytes  # beside 4 bytes of length each


def test_a_test_split_without_labels_is_none_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_hub(tmp_path / "train-0.parquet", range(5))
    write_hub(tmp_path / "test-0.parquet", range(5), labels=[-1] * 5)
    assert open_parquet(str(tmp_path)).splits == ("train",)
    assert "no split test" in caplog.text


def test_rows_without_a_label_or_an_image_are_rejected(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"a", "path": "x"}, {"bytes": None, "path": "/etc/passwd"}, None, {"bytes": b"d"}])
    write_plain(tmp_path / "t.parquet", image=image, label=pa.array([0, 1, 1, None]))
    source = open_parquet(str(tmp_path))
    (items,) = source.list_items("train")
    assert np.asarray(items.labels).tolist() == [0, 1, 1, 0]
    rows = list(zip(items.paths, items.offsets, strict=True))
    assert source.read(path=rows[0][0], offset=0, size_bytes=0) == b"a"
    for row, reason in ((1, "no image bytes"), (2, "no image bytes"), (3, "no label")):
        with pytest.raises(Rejected, match=reason):
            source.read(path=rows[row][0], offset=int(rows[row][1]), size_bytes=0)


@pytest.mark.parametrize(
    ("labels", "classes", "names"),
    [
        (pa.array(["dog", "cat", "dog"]), ("cat", "dog"), ["dog", "cat", "dog"]),
        (pa.array(["10", "9", "10"], pa.large_string()), ("9", "10"), ["10", "9", "10"]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b"), ["b", "a", "b"]),
        (pa.array([3, 0, 1], pa.uint8()), ("0", "1", "2", "3"), ["3", "0", "1"]),
        (pa.array([["b", "a", "b"], [], ["b"]]), ("a", "b"), [["a", "b"], [], ["b"]]),
        (pa.array([[2, 0], [], [2, 2]], pa.list_(pa.int32())), ("0", "1", "2"), [["0", "2"], [], ["2"]]),
    ],
)
def test_plain_columns_may_hold_names_numbers_or_lists(
    tmp_path: Path, labels: pa.Array, classes: tuple[str, ...], names: list[Any]
) -> None:
    write_plain(tmp_path / "t.parquet", jpg=[b"x", b"y", b"z"], cls=labels, row_group_size=2)
    source = open_parquet(str(tmp_path))
    assert source.classes == classes
    assert source.task is (Task.multilabel if isinstance(names[0], list) else Task.classification)
    assert listed(source) == {
        "train": [(f"t.parquet#{row}", names[row], content) for row, content in enumerate((b"x", b"y", b"z"))]
    }


def test_lists_of_class_labels_have_the_features_names(tmp_path: Path) -> None:
    features = Features({"image": Image(), "label": List(ClassLabel(names=NAMES)), "id": Value("string")})
    rows = {"image": [{"bytes": b"1", "path": None}] * 2, "label": [[2, 0], []], "id": ["a", "b"]}
    Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "train.parquet"))
    source = open_parquet(str(tmp_path))
    assert source.classes == tuple(NAMES)
    assert [names for _, names, _ in listed(source)["train"]] == [[NAMES[0], NAMES[2]], []]


def test_columns_are_chosen_by_option_where_several_fit(tmp_path: Path) -> None:
    features = Features({"img": Image(), "fine": ClassLabel(names=["a", "b"]), "coarse": ClassLabel(names=["c"])})
    rows = {"img": [{"bytes": b"1", "path": None}], "fine": [1], "coarse": [0]}
    Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(UserError, match=r"choose one with source\.label_column, coarse, fine"):
        _ = open_parquet(str(tmp_path)).classes
    assert open_parquet(str(tmp_path), label_column="coarse").classes == ("c",)
    assert open_parquet(str(tmp_path), label_column="fine").classes == ("a", "b")
    with pytest.raises(UserError, match=r"source\.image_column=fine: no such column"):
        _ = open_parquet(str(tmp_path), image_column="fine", label_column="fine").classes


def test_other_class_names_may_be_given_for_as_many_classes(tmp_path: Path) -> None:
    write_hub(tmp_path / "train.parquet", range(5))
    source = open_parquet(str(tmp_path), name="Three", classes=["x", "y", "z"], class_ids=["n1", "n2", "n3"])
    assert (source.name, source.classes, source.class_ids) == ("Three", ("x", "y", "z"), ("n1", "n2", "n3"))
    with pytest.raises(UserError, match="has 3 classes, 2 wanted"):
        _ = open_parquet(str(tmp_path), classes=["x", "y"]).classes


def test_a_label_that_is_no_class_is_named(tmp_path: Path) -> None:
    write_plain(tmp_path / "train.parquet", image=[b"x", b"y"], label=[0, 2])
    with pytest.raises(UserError, match=r"train\.parquet: row 1: label 2: one of the 2 classes wanted"):
        list(open_parquet(str(tmp_path), classes=["a", "b"]).list_items("train"))
    write_plain(tmp_path / "train.parquet", image=[b"x", b"y"], label=[0, 100_000])
    with pytest.raises(UserError, match="class number 100000"):
        _ = open_parquet(str(tmp_path)).classes
    write_plain(tmp_path / "train.parquet", image=[b"x", b"y"], label=["a", "b\nc"])
    with pytest.raises(UserError, match=r"label 'b\\nc' is no class name"):
        _ = open_parquet(str(tmp_path)).classes


@pytest.mark.slow
def test_a_million_names_are_refused(tmp_path: Path) -> None:
    features = Features({"image": Image(), "label": ClassLabel(names=[str(number) for number in range(100_001)])})
    write_hub(tmp_path / "train.parquet", range(3), features=features)
    with pytest.raises(UserError, match="more than 100,000 classes"):
        _ = open_parquet(str(tmp_path)).classes


def test_a_file_with_other_columns_is_named(tmp_path: Path) -> None:
    write_plain(tmp_path / "train-0.parquet", image=[b"x"], label=["a"])
    write_plain(tmp_path / "train-1.parquet", picture=[b"x"], label=["a"])
    with pytest.raises(UserError, match=r"train-1\.parquet: has no columns image and label as the others"):
        list(open_parquet(str(tmp_path)).list_items("train"))


def test_files_of_no_split_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_plain(tmp_path / "train-0.parquet", image=[b"x"], label=["a"])
    write_plain(tmp_path / "other.parquet", image=[b"x"], label=["b"])
    source = open_parquet(str(tmp_path))
    assert source.classes == ("a",)
    assert "1 files of no split left out, such as other.parquet" in caplog.text


def test_a_folder_without_parquet_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Parquet files there"):
        open_parquet(str(tmp_path))


def test_too_large_a_row_group_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plain(tmp_path / "train.parquet", image=[b"x" * 1000, b"y" * 1000], label=["a", "b"], compression="gzip")
    monkeypatch.setattr(parquet_files, "MAX_GROUP_BYTES", 500)
    with pytest.raises(UserError, match="write the file anew with smaller row groups"):
        open_parquet(str(tmp_path)).read(path="train.parquet", offset=0, size_bytes=0)


def test_images_that_cannot_be_had_alone_are_read_by_row_groups_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plain(
        tmp_path / "train.parquet",
        image=[content_of(n) for n in range(100)],
        label=["a"] * 100,
        row_group_size=9,
        compression="zstd",
    )
    source = open_parquet(str(tmp_path))
    groups: list[int] = []
    read_images = parquet_files.OpenFiles._read_images

    def counted(self: Any, path: str, file: Any, number: int, columns: Any) -> Any:
        groups.append(number)
        return read_images(self, path, file, number, columns)

    monkeypatch.setattr(parquet_files.OpenFiles, "_read_images", counted)
    for row in range(0, 100, 3):
        assert source.read(path="train.parquet", offset=row, size_bytes=0) == content_of(row)
    assert groups == list(range(12))


def test_threads_may_read_at_once_from_a_server(tmp_path: Path) -> None:
    write_hub(tmp_path / "train.parquet", range(60))
    with served(tmp_path) as url:
        source = open_parquet(f"{url}/train.parquet")
        found: dict[int, bytes] = {}

        def read(row: int) -> None:
            found[row] = source.read(path="train.parquet", offset=row, size_bytes=0)

        threads = [threading.Thread(target=read, args=(row,)) for row in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {row: content_of(row) for row in range(60)}


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 3000), value=st.integers(0, 255), cut=st.none() | st.integers(0, 3000))
def test_any_damage_ends_in_items_or_a_one_line_error(tmp_path: Path, at: int, value: int, cut: int | None) -> None:
    whole = tmp_path / "whole"
    if not whole.exists():
        write_hub(tmp_path / "made.parquet", range(12))
        (tmp_path / "made.parquet").rename(whole)
    content = bytearray(whole.read_bytes())
    content[at % len(content)] = value
    (tmp_path / "train.parquet").write_bytes(content[: None if cut is None else cut % len(content)])
    told = ""
    try:
        source = open_parquet(str(tmp_path / "train.parquet"))
        for items in source.list_items("train"):
            assert all(0 <= label < len(source.classes) for label in items.labels if isinstance(label, int))
            for path, offset in zip(items.paths, items.offsets, strict=True):
                source.read(path=path, offset=int(offset), size_bytes=0)
    except (UserError, Rejected) as error:
        told = str(error)
    assert "\n" not in told
