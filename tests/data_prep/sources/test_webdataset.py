from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext, group_by_keys

from data_prep.archives.tar import TarMember
from data_prep.sources.base import Rejected
from data_prep.sources.webdataset import WebDatasetSource, open_webdataset
from data_prep.sources.webdataset_samples import samples_of
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.task import Task
from served import served

Sample = dict[str, Any]


def write_tar(path: Path, samples: list[Sample]) -> None:
    """Write a tar with the library's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), encoder=_encode) as writer:
        for sample in samples:
            writer.write(sample)


def _encode(sample: Sample) -> Sample:
    return {
        name: json.dumps(value).encode() if name == "json" else value if _is_plain(name, value) else str(value).encode()
        for name, value in sample.items()
    }


def _is_plain(name: str, value: Any) -> bool:
    return name == "__key__" or isinstance(value, bytes)


def write_members(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def opened(root: str | Path, **options: Any) -> WebDatasetSource:
    defaults = {"train": "*train*", "val": "*val*", "label_field": "label", "classes": None}
    return open_webdataset(str(root), **(defaults | options))


def listed(source: WebDatasetSource, split: str = "train") -> list[tuple[str, Any, bytes | str]]:
    """Return (source key, class name or names, bytes or the reason of a rejection) of each item."""
    found: list[tuple[str, Any, bytes | str]] = []
    for items in source.list_items(split):
        columns = (items.source_keys, items.paths, items.offsets, items.sizes_bytes, items.labels)
        for key, path, offset, size_bytes, label in zip(*columns, strict=True):
            names = [source.classes[n] for n in label] if isinstance(label, list) else source.classes[label]
            try:
                found.append((key, names, source.read(path=path, offset=int(offset), size_bytes=int(size_bytes))))
            except Rejected as error:
                found.append((key, names, str(error)))
    return found


def image(number: int) -> bytes:
    return b"image %d " % number * (number % 100)


def test_tars_of_the_library_give_their_samples_by_split(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("val", 1000)):
        for tar in range(2):
            numbers = range(start + 10 * tar, start + 10 * tar + 10)
            samples = [{"__key__": f"d{n % 3}/{n:06d}", "jpg": image(n), "cls": n % 3} for n in numbers]
            write_tar(tmp_path / f"{split}/{tar:03d}.tar", samples)
    source = opened(tmp_path)
    assert (source.name, source.task, source.splits) == (tmp_path.name, Task.classification, ("train", "val"))
    assert source.classes == ("0", "1", "2")
    for split, start in (("train", 0), ("val", 1000)):
        assert listed(source, split) == [
            (f"{split}/{n % 1000 // 10:03d}.tar/d{n % 3}/{n:06d}", str(n % 3), image(n))
            for n in range(start, start + 20)
        ]


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png", "webp", "JPEG", "PNG"])
def test_images_of_every_kind_are_found_in_any_case(tmp_path: Path, extension: str) -> None:
    write_members(tmp_path / "a.tar", [(f"x.{extension}", b"image"), ("x.cls", b"0")])
    assert listed(opened(tmp_path)) == [("a.tar/x", "0", b"image")]


@pytest.mark.parametrize(
    ("labels", "classes", "names"),
    [
        ([{"cls": "0000007"}, {"cls": "2\n"}], tuple(map(str, range(8))), ["7", "2"]),
        ([{"json": {"label": 1}}, {"json": {"label": 0}}], ("0", "1"), ["1", "0"]),
        ([{"json": {"label": "dog"}}, {"json": {"label": "cat"}}], ("cat", "dog"), ["dog", "cat"]),
        ([{"txt": "dog\n"}, {"txt": " émeu"}], ("dog", "émeu"), ["dog", "émeu"]),
        ([{"cls": 1, "json": {"label": 5}, "txt": "x"}, {"json": {"label": 0}, "txt": "x"}], ("0", "1"), ["1", "0"]),
        ([{"json": {"width": 3}, "txt": "x"}, {"json": {"label": None}, "txt": "y"}], ("x", "y"), ["x", "y"]),
        ([{"json": {"label": [2, 0, 2]}}, {"json": {"label": []}}], ("0", "1", "2"), [["0", "2"], []]),
        ([{"json": {"label": ["b", "a"]}}, {"json": {"label": ["b"]}}], ("a", "b"), [["a", "b"], ["b"]]),
    ],
)
def test_labels_may_stand_in_any_of_three_members(
    tmp_path: Path, labels: list[Sample], classes: tuple[str, ...], names: list[Any]
) -> None:
    write_tar(tmp_path / "a.tar", [{"__key__": f"{n}", "jpg": b"x", **label} for n, label in enumerate(labels)])
    source = opened(tmp_path)
    assert source.classes == classes
    assert source.task is (Task.multilabel if isinstance(names[0], list) else Task.classification)
    assert [found for _, found, _ in listed(source)] == names


def test_the_field_and_the_class_names_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("tench\ngoldfish\n")
    samples = [
        {"__key__": f"{n}", "png": b"x", "json": {"y": y, "label": 9}} for n, y in enumerate(["goldfish", 0, "1"])
    ]
    write_tar(tmp_path / "a.tar", samples)
    source = opened(tmp_path, label_field="y", classes=str(tmp_path / "names.txt"))
    assert source.classes == ("tench", "goldfish")
    assert [name for _, name, _ in listed(source)] == ["goldfish", "tench", "goldfish"]
    with pytest.raises(UserError, match=r"a\.tar: '0': label '9' is no class"):
        listed(opened(tmp_path, classes=str(tmp_path / "names.txt")))


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ({"cls": 0}, "no image in the sample"),
        ({"txt2": "x", "cls": 0}, "no image in the sample"),
        ({"jpg": b"x"}, "no label in the sample"),
        ({"jpg": b"x", "json": {"other": 1}}, "no label in the sample"),
        ({"jpg": b"x", "cls": b""}, "label is none"),
        ({"jpg": b"x", "cls": b"\xff"}, "label is none"),
        ({"jpg": b"x", "cls": b"a\nb"}, "label is none"),
        ({"jpg": b"x", "txt": b"x" * 5000}, "label is none"),
        ({"jpg": b"x", "json": {"label": True}}, "label is none"),
        ({"jpg": b"x", "json": {"label": 1.5}}, "label is none"),
        ({"jpg": b"x", "json": {"label": -1}}, "label is none"),
        ({"jpg": b"x", "json": {"label": [0]}}, "one label where the first has a list"),
    ],
)
def test_a_sample_without_image_or_label_is_rejected_with_its_reason(
    tmp_path: Path, sample: Sample, reason: str
) -> None:
    good = {"__key__": "good", "jpg": b"good", "cls": 0}
    write_tar(tmp_path / "a.tar", [good, {"__key__": "bad", **sample}])
    found = listed(opened(tmp_path))
    assert found[0] == ("a.tar/good", "0", b"good")
    assert found[1][0] == "a.tar/bad"
    assert reason in str(found[1][2])


def test_a_json_that_is_none_is_a_reason_too(tmp_path: Path) -> None:
    members = [
        ("1.jpg", b"x"),
        ("1.cls", b"0"),
        ("2.jpg", b"x"),
        ("2.json", b"{"),
        ("3.jpg", b"x"),
        ("3.json", b"[" * 99_999),
    ]
    write_members(tmp_path / "a.tar", members)
    assert ["label is none" in str(content) for _, _, content in listed(opened(tmp_path))] == [False, True, True]


def test_captions_are_not_taken_for_a_hundred_thousand_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.sources.webdataset.MAX_CLASSES", 5)
    write_tar(tmp_path / "a.tar", [{"__key__": f"{n}", "jpg": b"x", "txt": f"picture {n}"} for n in range(6)])
    with pytest.raises(UserError, match="more than 5 different labels; refused: are they captions"):
        _ = opened(tmp_path).classes


def test_patterns_choose_the_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a-1", "a-2", "b-1", "c-1"):
        write_tar(tmp_path / f"{name}.tar", [{"__key__": name, "jpg": b"x", "cls": 0}])
    source = opened(tmp_path, train="a-*", val="b*")
    assert [key for key, _, _ in listed(source, "train")] == ["a-1.tar/a-1", "a-2.tar/a-2"]
    assert [key for key, _, _ in listed(source, "val")] == ["b-1.tar/b-1"]
    assert "1 tars that fit neither a-* nor b* left out" in caplog.text
    assert opened(tmp_path).splits == ("train",)
    assert len(listed(opened(tmp_path))) == 4
    assert "all 4 are train" in caplog.text
    with pytest.raises(UserError, match=r"a-1\.tar fits source\.train=a-\* and source\.val=\*"):
        opened(tmp_path, train="a-*", val="*")


@pytest.mark.slow
def test_tars_may_be_named_by_braces_on_a_server(tmp_path: Path) -> None:
    for number in range(3):
        samples = [{"__key__": f"{number}-{n}", "jpg": image(n), "cls": n} for n in range(20)]
        write_tar(tmp_path / f"train-{number:02d}.tar", samples)
    with served(tmp_path) as url:
        remote = listed(opened(f"{url}/train-{{00..02}}.tar"))
    assert remote == listed(opened(tmp_path))
    assert len(remote) == 60


def test_a_key_that_comes_back_or_a_member_that_stands_twice_is_named(tmp_path: Path) -> None:
    write_members(tmp_path / "a.tar", [("1.jpg", b""), ("1.cls", b"0"), ("2.jpg", b""), ("1.png", b"")])
    with pytest.raises(DamageError, match=r"a\.tar: the members of '1' do not stand beside each other"):
        listed(opened(tmp_path))
    write_members(tmp_path / "a.tar", [("1.jpg", b""), ("1.JPG", b"")])
    with pytest.raises(DamageError, match=r"a\.tar: '1\.JPG' stands there twice"):
        listed(opened(tmp_path))


def test_nothing_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tars there"):
        opened(tmp_path)
    write_tar(tmp_path / "a.tar", [{"__key__": "1", "jpg": b"x"}])
    with pytest.raises(UserError, match="no sample with a label"):
        _ = opened(tmp_path).task


names = st.lists(st.text("ab./_", min_size=1, max_size=6), max_size=12)


@given(names)
def test_members_are_grouped_as_the_library_groups_them(found: list[str]) -> None:
    """But for what it takes twice, which is refused here, and hidden files, which have no key here."""
    members = [TarMember(name, number, 0) for number, name in enumerate(found)]
    try:
        samples = list(samples_of(members, where="a.tar"))
    except DamageError:
        stems = [(name.rpartition("/")[0], name.rpartition("/")[2].partition(".")) for name in found]
        kept = [(folder, stem, extension) for folder, (stem, dot, extension) in stems if stem and dot]
        keys = [(folder, stem) for folder, stem, _ in kept]
        runs = [key for number, key in enumerate(keys) if number == 0 or keys[number - 1] != key]
        assert len(set(kept)) < len(kept) or len(set(runs)) < len(runs)
        return
    seen = [
        name for name in found if base_plus_ext(name)[0] is not None and not name.rpartition("/")[2].startswith(".")
    ]
    stream = [{"fname": name, "data": name.encode(), "__url__": "a.tar"} for name in seen]
    theirs = [
        {key: value.decode() for key, value in sample.items() if key not in ("__key__", "__url__")}
        for sample in group_by_keys(iter(stream))
    ]
    ours = [{extension: member.name for extension, member in sample.members.items()} for sample in samples]
    assert ours == theirs
