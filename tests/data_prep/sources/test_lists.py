from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources.base import MAX_BATCH_ITEMS, Rejected
from data_prep.sources.classes import MAX_CLASSES
from data_prep.sources.folder import open_folder
from data_prep.sources.list_entries import Entry, csv_entries, jsonl_entries
from data_prep.sources.lists import ListSource, open_list, survey
from pipeline.shards.errors import UserError
from pipeline.shards.task import Task
from served import served

Rows = list[dict[str, Any]]


def write_list(folder: Path, rows: Rows, *, kind: str, files: bool = True) -> str:
    """Write a list with Python's own writers, and the files that it names, each holding its own path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"list.{kind}"
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows if files else []:
        (folder / row["path"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / row["path"]).write_bytes(row["path"].encode())
    return str(path)


def opened(path: str, *, images: str | None = None, classes: str | None = None, val_frac: float = 0.0) -> ListSource:
    entries = csv_entries if path.endswith("csv") else jsonl_entries
    return open_list(path, entries=entries, images=images, classes=classes, val_frac=val_frac)


def listed(source: ListSource) -> dict[str, list[tuple[str, Any]]]:
    """Return (path, class name or names) of each item by split; each is read and holds its own path."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for split in source.splits:
        found[split] = []
        keys: list[str] = []
        for items in source.list_items(split):
            keys += items.source_keys
            for path, label, size_bytes in zip(items.paths, items.labels, items.sizes_bytes, strict=True):
                assert source.read(path=path, offset=0, size_bytes=int(size_bytes)) == path.encode()
                names = [source.classes[n] for n in label] if isinstance(label, list) else source.classes[label]
                found[split].append((path, names))
        assert len(set(keys)) == len(keys)
        assert [key.rpartition("#")[0] for key in keys] == [path for path, _ in found[split]]
    return found


ROWS = [{"path": f"a/{number} é,\n.jpg", "label": ["cat", 'do"g', "émeu"][number % 3]} for number in range(20)]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_list_gives_its_images_in_its_order(tmp_path: Path, kind: str) -> None:
    source = opened(write_list(tmp_path, ROWS, kind=kind))
    assert (source.name, source.task, source.classes) == ("list", Task.classification, ("cat", 'do"g', "émeu"))
    assert listed(source) == {"train": [(row["path"], row["label"]) for row in ROWS]}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_splits_are_those_that_the_list_names(tmp_path: Path, kind: str) -> None:
    names = ["test", "val", "train", "validation"]
    rows = [{**row, "split": names[number % 4]} for number, row in enumerate(ROWS)]
    source = opened(write_list(tmp_path, rows, kind=kind), val_frac=0.5)
    assert source.splits == ("train", "val", "test")
    expected = {
        split: [(row["path"], row["label"]) for row in rows if row["split"] in same]
        for split, same in {"train": ["train"], "val": ["val", "validation"], "test": ["test"]}.items()
    }
    assert listed(source) == expected


def test_columns_may_stand_in_any_order_among_others_after_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes("\ufeffwidth, Label ,PATH\r\n3,cat,1.jpg\r\n\r\n4,dog,./2.jpg\r\n".encode())
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    assert listed(opened(str(path))) == {"train": [("1.jpg", "cat"), ("2.jpg", "dog")]}


def test_json_lines_may_have_several_labels_and_boxes(tmp_path: Path) -> None:
    rows: Rows = [
        {"path": "1.jpg", "labels": ["dog", "cat", "dog"], "box": [0, 1, 2, 3]},
        {"path": "1.jpg", "labels": [], "box": [4, 5, 6, 7]},
    ]
    source = opened(write_list(tmp_path, rows, kind="jsonl"))
    assert source.task is Task.multilabel
    (items,) = source.list_items("train")
    assert items.labels == [[0, 1], []]
    assert source.classes == ("cat", "dog")
    assert items.boxes is not None
    assert items.boxes.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert items.source_keys == ["1.jpg#1", "1.jpg#2"]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "100"], ("9", "10", "100")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["b", "B", "é"], ("B", "b", "é")),
    ],
)
def test_labels_are_sorted_as_numbers_where_all_are(
    tmp_path: Path, labels: list[str], classes: tuple[str, ...]
) -> None:
    rows = [{"path": f"{number}.jpg", "label": label} for number, label in enumerate(labels)]
    source = opened(write_list(tmp_path, rows, kind="csv"))
    assert source.classes == classes
    assert [name for _, name in listed(source)["train"]] == labels


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_class_file_gives_names_and_labels_may_be_its_numbers(tmp_path: Path, kind: str) -> None:
    (tmp_path / "names.txt").write_text("zebra\ncat\n7\n", encoding="utf-8")
    rows = [{"path": f"{number}.jpg", "label": label} for number, label in enumerate(["cat", "0", "2", "7", "zebra"])]
    if kind == "jsonl":
        rows[1]["label"] = 0  # type: ignore[assignment]
    source = opened(write_list(tmp_path, rows, kind=kind), classes=str(tmp_path / "names.txt"))
    assert source.classes == ("zebra", "cat", "7")
    assert [name for _, name in listed(source)["train"]] == ["cat", "zebra", "7", "7", "zebra"]


def test_a_label_outside_the_class_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\n")
    for label in ("c", "2", "-1", "01"):
        source = opened(
            write_list(tmp_path, [{"path": "1.jpg", "label": label}], kind="csv"), classes=str(tmp_path / "names.txt")
        )
        with pytest.raises(UserError, match=f"line 2: label '{label}' is no class"):
            list(source.list_items("train"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (b"", "class 0 is ''"),
        (b"a\n\nb\n", "class 1 is ''"),
        (b"a\na\n", "classes 0 and 1 are both called 'a'"),
        (b"a\xff\n", "not UTF-8"),
        (b"a\x00b\n", "class 0 is"),
        (b"".join(b"%d\n" % number for number in range(MAX_CLASSES + 1)), "more than 100,000 classes"),
    ],
)
def test_a_bad_class_file_is_refused(tmp_path: Path, names: bytes, message: str) -> None:
    (tmp_path / "names.txt").write_bytes(names)
    with pytest.raises(UserError, match=message):
        opened(write_list(tmp_path, ROWS, kind="csv"), classes=str(tmp_path / "names.txt"))


def test_a_class_file_may_have_windows_line_ends_and_no_last_one(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b'\xef\xbb\xbfcat\r\ndo"g\r\n\xc3\xa9meu')
    source = opened(write_list(tmp_path, ROWS, kind="csv"), classes=str(tmp_path / "names.txt"))
    assert source.classes == ("cat", 'do"g', "émeu")


def test_the_same_images_are_held_out_as_from_class_folders(tmp_path: Path) -> None:
    rows = [{"path": f"{name}/{number}.jpg", "label": name} for name in ("cat", "dog", "emu") for number in range(37)]
    source = opened(write_list(tmp_path, rows, kind="csv"), val_frac=0.1)
    (tmp_path / "list.csv").rename(tmp_path / "list.txt")
    folder = open_folder(tmp_path, val_frac=0.1)
    (tmp_path / "list.txt").rename(tmp_path / "list.csv")
    assert source.splits == ("train", "val")
    for split in source.splits:
        (expected,) = folder.list_items(split)
        assert sorted(path for path, _ in listed(source)[split]) == sorted(expected.paths)


def test_a_large_class_holds_out_about_the_share_and_an_image_named_twice_stays_on_one_side(tmp_path: Path) -> None:
    rows = [{"path": f"{number % 1500}.jpg", "label": "a"} for number in range(3000)]
    source = opened(write_list(tmp_path, rows, kind="csv"), val_frac=0.2)
    paths = {split: [path for items in source.list_items(split) for path in items.paths] for split in source.splits}
    assert len(paths["train"]) + len(paths["val"]) == 3000
    assert set(paths["train"]).isdisjoint(paths["val"])
    # Five standard deviations of a binomial.
    assert abs(len(set(paths["val"])) - 300) < 5 * (1500 * 0.2 * 0.8) ** 0.5


def test_the_images_may_lie_elsewhere(tmp_path: Path) -> None:
    path = write_list(tmp_path / "images", ROWS, kind="csv")
    moved = tmp_path / "lists" / "list.csv"
    moved.parent.mkdir()
    Path(path).rename(moved)
    assert len(listed(opened(str(moved), images=str(tmp_path / "images")))["train"]) == len(ROWS)
    with pytest.raises(UserError, match=r"none of the first 20 images .* source\.images=FOLDER"):
        list(opened(str(moved)).list_items("train"))


def test_a_missing_image_is_rejected_by_name_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_list(tmp_path, ROWS, kind="csv")
    (tmp_path / ROWS[3]["path"]).unlink()
    (tmp_path / ROWS[4]["path"]).unlink()
    (tmp_path / ROWS[4]["path"]).mkdir()
    source = opened(path)
    (items,) = source.list_items("train")
    assert len(items) == len(ROWS)
    assert "2 listed images of train are not there" in caplog.text
    for row in (3, 4):
        assert items.sizes_bytes[row] == 0
        with pytest.raises(Rejected, match="there is no such file"):
            source.read(path=items.paths[row], offset=0, size_bytes=0)


def test_an_image_that_changed_since_it_was_listed_is_an_error(tmp_path: Path) -> None:
    source = opened(write_list(tmp_path, [{"path": "1.jpg", "label": "a"}], kind="csv"))
    (items,) = source.list_items("train")
    (tmp_path / "1.jpg").write_bytes(b"another")
    with pytest.raises(UserError, match="no longer the 5 bytes"):
        source.read(path="1.jpg", offset=0, size_bytes=int(items.sizes_bytes[0]))


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "a//b.jpg", "", ".", "a\\b.jpg", "a\0b.jpg", "x" * 5000]
)
def test_paths_that_lead_out_are_refused(tmp_path: Path, path: str) -> None:
    source = opened(write_list(tmp_path, [{"path": path, "label": "a"}], kind="jsonl", files=False))
    with pytest.raises(UserError, match=r"line 1: path "):
        list(source.list_items("train"))


@pytest.mark.parametrize("link", ["1.jpg", "folder/1.jpg"])
def test_links_that_lead_out_are_refused_and_others_followed(tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "1.jpg").write_bytes(b"secret")
    rows = [{"path": link, "label": "a"}]
    source = opened(write_list(tmp_path / "in", rows, kind="csv", files=False))
    at = tmp_path / "in" / link.partition("/")[0]
    at.symlink_to(outside if "/" in link else outside / "1.jpg")
    with pytest.raises(UserError, match="leads out"):
        list(source.list_items("train"))
    at.unlink()
    inside = tmp_path / "in" / "real"
    inside.mkdir()
    (inside / "1.jpg").write_bytes(b"1234")
    at.symlink_to(inside if "/" in link else inside / "1.jpg")
    (items,) = source.list_items("train")
    assert items.sizes_bytes.tolist() == [4]


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("csv", b"", "first line is ''"),
        ("csv", b"1.jpg,cat\n", "first line is '1.jpg,cat'"),
        ("csv", b"path,path,label\n", "names of the columns"),
        ("csv", b"path,label\n", "lists no image"),
        ("csv", b"path,label\n1.jpg\n", "line 2: 1 columns, 2 wanted"),
        ("csv", b"path,label\n1.jpg,a,b\n", "line 2: 3 columns"),
        ("csv", b"path,label\n1.jpg,\n", "line 2: label ''"),
        ("csv", b"path,label\n1.jpg,\xff\n", "line 2: not UTF-8"),
        ("csv", b'path,label\n1.jpg,"a\n', "line 2: not CSV"),
        ("csv", b'path,label\n1.jpg,"a"b\n', "line 2: not CSV"),
        ("csv", b"path,label\n1.jpg," + b"a" * 1001, "line 2: label 'aaa"),
        ("csv", b"path,label\n1.jpg," + b"a" * 200_000, "line 2: not CSV"),
        ("csv", b"path,label\n1.jpg," + b"a" * 2_000_000, "line 2: longer than"),
        ("csv", b"path,label,split\n1.jpg,a,\n", "line 2: split ''"),
        ("csv", b"path,label,split\n1.jpg,a,../x\n", "line 2: split"),
        ("csv", b"path,label\n" + b"".join(b"1.jpg,%d\n" % n for n in range(MAX_CLASSES + 1)), "100,000 different"),
        ("csv", b"path,label,split\n" + b"".join(b"1.jpg,a,s%d\n" % n for n in range(101)), "100 different splits"),
        ("jsonl", b"", "lists no image"),
        ("jsonl", b"{", "line 1: not JSON"),
        ("jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("jsonl", b"[1]", "line 1: an object"),
        ("jsonl", b'{"path": "1"}', "line 1: an object"),
        ("jsonl", b'{"path": "1", "label": 1, "labels": []}', "line 1: an object"),
        ("jsonl", b'{"label": 1}', "line 1: path None"),
        ("jsonl", b'{"path": "\\ud800", "label": 1}', "line 1: path"),
        ("jsonl", b'{"path": "1", "label": "\\ud800"}', "line 1: label"),
        ("jsonl", b'{"path": "1", "label": true}', "line 1: label True"),
        ("jsonl", b'{"path": "1", "label": 1.5}', "line 1: label 1.5"),
        ("jsonl", b'{"path": "1", "label": null}', "line 1: label None"),
        ("jsonl", b'{"path": "1", "labels": "ab"}', "line 1: labels 'ab'"),
        ("jsonl", b'{"path": "1", "labels": [[]]}', "line 1: label "),
        ("jsonl", b'{"path": "1", "label": 1, "split": 3}', "line 1: split 3"),
        ("jsonl", b'{"path": "1", "label": 1, "box": [1, 2, 3]}', "line 1: box"),
        ("jsonl", b'{"path": "1", "label": 1, "box": [1, 2, 3, 0]}', "line 1: box"),
        ("jsonl", b'{"path": "1", "label": 1, "box": [-1, 2, 3, 3]}', "line 1: box"),
        ("jsonl", b'{"path": "1", "label": 1, "box": [1, 2, 3.5, NaN]}', "line 1: box"),
        ("jsonl", b'{"path": "1", "label": 1, "box": [1, 2, 3, 99999999999]}', "line 1: box"),
        ("jsonl", b'{"path": "1", "label": 1}\n{"path": "1", "labels": []}', "line 2: every line"),
        ("jsonl", b'{"path": "1", "label": 1}\n{"path": "1", "label": 2, "split": "val"}', "line 2: a split"),
        ("jsonl", b'{"path": "1", "label": 1}\n{"path": "1", "label": 2, "box": [0,0,1,1]}', "line 2: a split, and a"),
    ],
)
def test_each_fault_is_named_with_its_line(tmp_path: Path, kind: str, content: bytes, message: str) -> None:
    (tmp_path / f"list.{kind}").write_bytes(content)
    with pytest.raises(UserError, match=message):
        _ = opened(str(tmp_path / f"list.{kind}")).task, opened(str(tmp_path / f"list.{kind}")).splits


def test_a_missing_list_says_what_is_wanted(tmp_path: Path) -> None:
    for root in (str(tmp_path / "no.csv"), str(tmp_path) + "/", str(tmp_path)):
        with pytest.raises(UserError, match=r"no such file; a list of images is wanted, as path,label"):
            opened(root)


@settings(max_examples=1000)
@given(content=st.binary(max_size=80) | st.text(alphabet='{}[]",:01pathlbe\n\r\\u #', max_size=80).map(str.encode))
def test_strangers_lists_end_in_entries_or_in_one_line_errors(content: bytes) -> None:
    told: list[str] = []
    for prefix, entries in ((b"path,label\n", csv_entries), (b"path,label,split\n", csv_entries), (b"", jsonl_entries)):
        try:
            for entry in entries(io.BytesIO(prefix + content), where="a.list"):
                assert entry.path
                assert ".." not in entry.path.split("/")
        except UserError as error:
            told.append(str(error))
    assert all(message.startswith("a.list: ") and "\n" not in message for message in told)


@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="/\\.\0"), min_size=1),
            st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), min_size=1),
        ),
        min_size=1,
    )
)
def test_csv_entries_are_the_rows_that_pythons_writer_wrote(rows: list[tuple[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([("path", "label"), *rows])
    entries = csv_entries(io.BytesIO(text.getvalue().encode()), where="a.csv")
    assert [(entry.path, entry.labels) for entry in entries] == rows


def test_a_list_and_its_images_may_lie_on_a_server(tmp_path: Path) -> None:
    write_list(tmp_path / "d", [{"path": "a/1.jpg", "label": "x"}, {"path": "a/2.jpg", "label": "y"}], kind="csv")
    (tmp_path / "d/a/2.jpg").unlink()
    with served(tmp_path) as url:
        source = opened(f"{url}/d/list.csv")
        (items,) = source.list_items("train")
        assert items.sizes_bytes.tolist() == [7, 0]
        assert source.read(path="a/1.jpg", offset=0, size_bytes=7) == b"a/1.jpg"
        with pytest.raises(Rejected, match="no such file"):
            source.read(path="a/2.jpg", offset=0, size_bytes=0)


@pytest.mark.slow
def test_long_lists_come_in_bounded_tables(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"1")
    num_lines = MAX_BATCH_ITEMS + 10
    (tmp_path / "list.csv").write_bytes(b"path,label\n" + b"1.jpg,a\n" * num_lines)
    assert [len(items) for items in opened(str(tmp_path / "list.csv")).list_items("train")] == [MAX_BATCH_ITEMS, 10]


def test_the_first_reading_takes_no_memory_that_grows_with_the_list() -> None:
    def peak_bytes(num_lines: int) -> int:
        entries = (
            Entry(line=line, path=f"{line}.jpg", labels=str(line % 10), split=None, box=None)
            for line in range(num_lines)
        )
        tracemalloc.start()
        try:
            survey(entries, val_frac=0.1, where="a.csv")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # Of three, since what other threads let go of late counts too.
    assert min(peak_bytes(60_000) for _ in range(3)) < 1.1 * peak_bytes(20_000)
