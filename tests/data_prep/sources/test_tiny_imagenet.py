from __future__ import annotations

import io
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.source_config import TinyImagenetSourceConfig
from data_prep.sources import open_source
from data_prep.sources.base import Task
from data_prep.sources.tiny_imagenet import open_tiny_imagenet, parse_val_labels
from imagenet_sets import listed, picture
from pipeline.shards.errors import DamageError, UserError
from tiny_data import prepare_here

FOLDER = "tiny-imagenet-200"
# In the order of the genuine wnids.txt, which is not sorted.
IDS = ("n02124075", "n04067472", "n01443537")
WORDS = "n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\nn04067472\treel\n"
SHOWN = ("n04067472", "n01443537", "n01443537", "n02124075")


def files() -> dict[str, bytes]:
    """The genuine layout: files by their path in the zip."""
    found = {"wnids.txt": "".join(f"{class_id}\n" for class_id in IDS).encode(), "words.txt": WORDS.encode()}
    for row, class_id in enumerate(IDS):
        found[f"train/{class_id}/{class_id}_boxes.txt"] = f"{class_id}_0.JPEG\t0\t10\t63\t58\n".encode()
        for number in (0, 2, 10):
            found[f"train/{class_id}/images/{class_id}_{number}.JPEG"] = picture(10 * row + number)
    lines = [f"val_{number}.JPEG\t{class_id}\t0\t32\t44\t62\n" for number, class_id in enumerate(SHOWN)]
    found["val/val_annotations.txt"] = "".join(lines).encode()
    found |= {f"val/images/val_{number}.JPEG": picture(100 + number) for number in range(len(SHOWN))}
    found["test/images/test_0.JPEG"] = picture(7)
    return {f"{FOLDER}/{name}": content for name, content in found.items()}


FILES = files()
TRAIN = {
    f"{class_id}/{class_id}_{number}.JPEG": (
        class_id,
        FILES[f"{FOLDER}/train/{class_id}/images/{class_id}_{number}.JPEG"],
    )
    for class_id in sorted(IDS)
    for number in (0, 10, 2)
}
VAL = {f"val_{n}.JPEG": (class_id, FILES[f"{FOLDER}/val/images/val_{n}.JPEG"]) for n, class_id in enumerate(SHOWN)}


def write_zip(root: Path, contents: dict[str, bytes] = FILES) -> Path:
    root.mkdir(exist_ok=True)
    with zipfile.ZipFile(root / f"{FOLDER}.zip", "w") as archive:
        for name, content in random.Random(3).sample(sorted(contents.items()), len(contents)):
            kind = zipfile.ZIP_STORED if name.endswith("JPEG") else zipfile.ZIP_DEFLATED
            archive.writestr(name, content, compress_type=kind)
    return root


def write_folder(root: Path, contents: dict[str, bytes] = FILES) -> Path:
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


FORMS: dict[str, Callable[[Path], Path]] = {
    "zip": write_zip,
    "folder above": write_folder,
    "folder": lambda root: write_folder(root) / FOLDER,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_lists_classes_by_sorted_id_and_reads_every_image(tmp_path: Path, form: str) -> None:
    source = open_source(TinyImagenetSourceConfig(root=str(FORMS[form](tmp_path))), resolution=None)
    assert (source.name, source.task, source.splits) == ("Tiny ImageNet", Task.classification, ("train", "val"))
    assert source.class_ids == tuple(sorted(IDS))
    assert source.classes == ("goldfish, Carassius auratus", "Egyptian cat", "reel")
    for split, expected in (("train", TRAIN), ("val", VAL)):
        found = listed(source, split)
        assert found == expected
        assert list(found) == list(expected)


def test_a_fresh_source_reads_what_another_listed(tmp_path: Path) -> None:
    root = str(write_zip(tmp_path))
    (items,) = open_tiny_imagenet(root).list_items("val")
    content = open_tiny_imagenet(root).read(
        path=items.paths[1], offset=int(items.offsets[1]), size_bytes=int(items.sizes_bytes[1])
    )
    assert content == VAL["val_1.JPEG"][1]


def test_without_words_the_ids_name_the_classes(tmp_path: Path) -> None:
    write_folder(tmp_path, {name: content for name, content in FILES.items() if "words" not in name})
    source = open_tiny_imagenet(str(tmp_path))
    assert source.classes == source.class_ids


def test_where_nothing_is_people_learn_where_to_get_it_and_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_tiny_imagenet(str(tmp_path))
    for wanted in (
        "looked for tiny-imagenet-200.zip, tiny-imagenet-200/wnids.txt",
        f"`curl --create-dirs --output-dir {tmp_path} -LO http://cs231n.stanford.edu/tiny-imagenet-200.zip`",
        f'make prepare-data ARGS="source=tiny_imagenet source.root={tmp_path} out=data/tiny-imagenet"',
    ):
        assert wanted in str(caught.value)


def changed(name: str, content: bytes | None) -> dict[str, bytes]:
    """The files with one changed, added or taken away."""
    rest = {key: value for key, value in FILES.items() if key != f"{FOLDER}/{name}"}
    return rest if content is None else rest | {f"{FOLDER}/{name}": content}


@pytest.mark.parametrize("write", [write_zip, write_folder])
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("wnids.txt", b"cat\n", "wnids.txt: line 1: 'cat'; a WordNet id wanted"),
        ("wnids.txt", b"n01443537\nn01443537\n", "wnids.txt: 2 lines, 1 classes"),
        ("wnids.txt", b"", "wnids.txt: 0 lines"),
        ("wnids.txt", b"n01443537\n", "lies in the folder of no class of wnids.txt"),
        ("wnids.txt", b"\xff\xfe", "wnids.txt: byte 0 is not UTF-8"),
        ("words.txt", b"x", "words.txt: line 1"),
        ("train/n09999999/images/n09999999_0.JPEG", b"x", "train/n09999999/n09999999_0.JPEG lies in the folder of no"),
        ("val/val_annotations.txt", None, "val/val_annotations.txt"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn01443537\n", "1 lines for 4 validation images"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn09999999\n", "line 1: 'val_0.JPEG.tn09999999'"),
        ("val/images/val_0.JPEG", None, "4 lines for 3 validation images"),
        ("val/images/val_4.JPEG", b"x", "4 lines for 5 validation images"),
        ("val/val_9.JPEG", b"x", "4 lines for 5 validation images"),
    ],
)
def test_what_is_not_of_the_layout_is_refused_by_name(
    tmp_path: Path, write: Callable[[Path, dict[str, bytes]], Path], name: str, content: bytes | None, reason: str
) -> None:
    source = open_tiny_imagenet(str(write(tmp_path, changed(name, content))))
    with pytest.raises(UserError, match=reason) as caught:
        [list(source.list_items(split)) for split in source.splits if source.classes]
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_cut_zip_or_one_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path) / f"{FOLDER}.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamageError, match=f"{FOLDER}.zip"):
        list(open_tiny_imagenet(str(tmp_path)).list_items("train"))
    with warnings.catch_warnings(), zipfile.ZipFile(io.BytesIO(whole)) as original:
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(archive, "w") as twice:
            for info in [*original.infolist(), original.getinfo(f"{FOLDER}/wnids.txt")]:
                twice.writestr(info.filename, original.read(info))
    with pytest.raises(DamageError, match=rf"holds {FOLDER}/wnids.txt twice|twice"):
        list(open_tiny_imagenet(str(tmp_path)).list_items("train"))


@given(st.text(max_size=80))
def test_any_annotations_are_parsed_or_refused(text: str) -> None:
    for given_text in (text, f"val_0.JPEG\tn1\t{text}", f"{text}\tn1\t0"):
        try:
            labels = parse_val_labels(given_text, numbers={"n1": 0}, where="val")
        except DamageError as error:
            message = str(error)
        else:
            assert set(labels.values()) <= {0}
            continue
        assert message.startswith("val: ")
        assert "\n" not in message


def test_the_whole_preparation_makes_a_data_set(tmp_path: Path) -> None:
    data_set = prepare_here(
        tmp_path / "set", "source=tiny_imagenet", f"source.root={write_zip(tmp_path / 'in')}", "layout.resolution=8"
    )
    assert data_set.class_ids == tuple(sorted(IDS))
    assert {name: split.num_samples for name, split in data_set.splits.items()} == {"train": 9, "val": 4}
