from __future__ import annotations

import io
import logging
import random
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as HubImage

from data_prep.source_config import Imagenet1kSourceConfig
from data_prep.sources import open_source
from data_prep.sources.base import Source, Task
from data_prep.sources.imagenet1k import open_imagenet1k
from imagenet_sets import (
    DEVKIT,
    KIT_ORDER,
    NAMES,
    SHARED_IMAGENET,
    WORDS,
    TinyImagenet1k,
    devkit,
    listed,
    picture,
    tar_bytes,
)
from pipeline.shards.errors import DamageError, UserError

TINY = TinyImagenet1k.make()
TRAIN = {
    f"{class_id}/{name}": (class_id, images[name]) for class_id, images in TINY.train.items() for name in sorted(images)
}
VAL = dict(TINY.val)


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def class_folders(root: Path) -> Path:
    """The tree that many make of the archives: class folders below train and val."""
    files = {
        f"train/{class_id}/{name}": content
        for class_id, images in TINY.train.items()
        for name, content in images.items()
    }
    return write(root, files | {f"val/{class_id}/{name}": content for name, (class_id, content) in TINY.val.items()})


FORMS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "archives": (TINY.write_archives, ""),
    "above ILSVRC": (TINY.write_tree, ""),
    "ILSVRC": (TINY.write_tree, "ILSVRC"),
    "CLS-LOC": (TINY.write_tree, "ILSVRC/Data/CLS-LOC"),
    "zip": (TINY.write_zip, ""),
    "class folders": (class_folders, ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_keys_classes_and_bytes_in_the_same_order(tmp_path: Path, form: str) -> None:
    make, root = FORMS[form]
    make(tmp_path)
    source = open_source(Imagenet1kSourceConfig(root=str(tmp_path / root)), resolution=None)
    assert (source.name, source.task, source.native_shape) == ("ImageNet-1k", Task.classification, None)
    assert source.splits == ("train", "val")
    assert source.class_ids == tuple(WORDS)
    assert source.classes == (NAMES if form != "class folders" else tuple(WORDS))
    for split, expected in (("train", TRAIN), ("val", VAL)):
        found = listed(source, split)
        assert found == expected
        assert list(found) == list(expected)


HUB_NAMES = ("tench, Tinca tinca", "crane", "Shetland sheepdog", "crane bird")


def write_hub(root: Path) -> Path:
    """Write the files of the hub's ILSVRC/imagenet-1k with Hugging Face's own library: one split shuffled, one bare."""
    features = Features({"image": HubImage(), "label": ClassLabel(names=list(HUB_NAMES))})
    train = [(f"{key[10:-5]}_{class_id}.JPEG", class_id, content) for key, (class_id, content) in TRAIN.items()]
    val = [(f"{name[:-5]}_{class_id}.JPEG", class_id, content) for name, (class_id, content) in VAL.items()]
    splits = {"train-00000-of-00002": train[7:], "train-00001-of-00002": train[:7], "validation-00000-of-00001": val}
    splits |= {"test-00000-of-00001": [("ILSVRC2012_test_00000001.JPEG", "", picture(1))]}
    for name, rows in splits.items():
        table = {
            "image": [{"bytes": content, "path": path} for path, _, content in rows],
            "label": [sorted(WORDS).index(class_id) if class_id else -1 for _, class_id, _ in rows],
        }
        (root / "data").mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(table, features=features).to_parquet(root / "data" / f"{name}.parquet")
    return root


@pytest.mark.parametrize("with_lists", [False, True])
def test_parquet_shards_of_the_hub_have_the_same_classes_and_images(tmp_path: Path, with_lists: bool) -> None:
    write_hub(tmp_path)
    if with_lists:
        write(tmp_path, {"LOC_synset_mapping.txt": TINY.mapping().encode()})
    source = open_imagenet1k(str(tmp_path))
    assert (source.name, source.task, source.splits) == ("ImageNet-1k", Task.classification, ("train", "val"))
    assert source.classes == (NAMES if with_lists else HUB_NAMES)
    assert source.class_ids == (tuple(WORDS) if with_lists else None)
    for split, expected in (("train", TRAIN), ("val", VAL)):
        found = []
        for items in source.list_items(split):
            for path, offset, size_bytes, label in zip(
                items.paths, items.offsets, items.sizes_bytes, items.labels, strict=True
            ):
                content = source.read(path=path, offset=int(offset), size_bytes=int(size_bytes))
                found.append((tuple(WORDS)[int(label)], content))
        assert sorted(found) == sorted(expected.values())


def test_parquet_of_another_collection_does_not_take_imagenets_names(tmp_path: Path) -> None:
    write(write_hub(tmp_path), {"LOC_synset_mapping.txt": b"n01440764 tench\n"})
    with pytest.raises(UserError, match="has 4 classes, 1 wanted"):
        list(open_imagenet1k(str(tmp_path)).list_items("train"))


def test_order_is_the_collections_own_not_the_archives(tmp_path: Path) -> None:
    shuffle = random.Random(7).sample
    train = {f"{class_id}.tar": tar_bytes(dict(shuffle(sorted(TINY.train[class_id].items()), 3))) for class_id in WORDS}
    val = {f"./ILSVRC2012_img_val/{name}": content for name, (_, content) in shuffle(sorted(TINY.val.items()), 5)}
    TINY.write_archives(tmp_path)
    write(
        tmp_path, {"ILSVRC2012_img_train.tar": tar_bytes({f"./{n}": c for n, c in shuffle(sorted(train.items()), 4)})}
    )
    write(tmp_path, {"ILSVRC2012_img_val.tar": tar_bytes(val)})
    source = open_imagenet1k(str(tmp_path))
    assert list(listed(source, "train").items()) == list(TRAIN.items())
    assert list(listed(source, "val").items()) == list(VAL.items())


def test_the_real_archives_list_as_tarfile_reads_them() -> None:
    if not SHARED_IMAGENET.is_dir():
        pytest.skip("shared/data is not here")
    source = open_imagenet1k(str(SHARED_IMAGENET))
    mapping = (SHARED_IMAGENET / "meta" / "LOC_synset_mapping.txt").read_text().splitlines()
    assert source.class_ids == tuple(line[:9] for line in mapping)
    assert [name.removesuffix(f" ({i})") for name, i in zip(source.classes, source.class_ids, strict=True)] == [
        line[10:] for line in mapping
    ]
    assert (source.classes[0], source.classes[134], source.classes[517]) == (
        "tench, Tinca tinca",
        "crane (n02012849)",
        "crane (n03126707)",
    )
    expected = {}
    with tarfile.open(SHARED_IMAGENET / "ILSVRC2012_img_train.tar") as outer:
        for member in outer:
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                for image in inner:
                    stream = inner.extractfile(image)
                    assert stream is not None
                    class_id = member.name.removesuffix(".tar")
                    expected[f"{class_id}/{image.name}"] = class_id, stream.read()
    assert len(expected) == 230
    assert listed(source, "train") == expected
    with tarfile.open(SHARED_IMAGENET / "ILSVRC2012_img_val.tar") as flat:
        sizes = {member.name: member.size for member in flat}
    (items,) = source.list_items("val")
    assert dict(zip(items.source_keys, items.sizes_bytes.tolist(), strict=True)) == sizes
    assert items.source_keys == sorted(sizes)


def test_a_cut_keeps_the_class_numbers_of_the_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    TINY.write_archives(tmp_path)
    write(tmp_path, {"ILSVRC2012_img_train.tar": TINY.train_tar(["n03126707", "n02012849"])})
    source = open_imagenet1k(str(tmp_path))
    assert source.class_ids == tuple(WORDS)
    (items,) = source.list_items("train")
    np.testing.assert_array_equal(items.labels, [1, 1, 1, 3, 3, 3])
    assert "train has images of 2 of the 4 classes" in caplog.text


def test_without_lists_the_classes_are_the_ones_found(tmp_path: Path) -> None:
    write(tmp_path, {"ILSVRC2012_img_train.tar": TINY.train_tar(["n03126707", "n02012849"])})
    source = open_imagenet1k(str(tmp_path))
    assert (source.splits, source.class_ids) == (("train",), ("n02012849", "n03126707"))
    assert source.classes == source.class_ids
    (items,) = source.list_items("train")
    np.testing.assert_array_equal(items.labels, [0, 0, 0, 1, 1, 1])


def test_classes_of_a_solution_file_count_where_nothing_lists_them(tmp_path: Path) -> None:
    write(
        tmp_path, {"ILSVRC2012_img_train.tar": TINY.train_tar(["n03126707"]), "ILSVRC2012_img_val.tar": TINY.val_tar()}
    )
    write(tmp_path, {"LOC_val_solution.csv": TINY.solution().encode()})
    source = open_imagenet1k(str(tmp_path))
    assert source.class_ids == tuple(WORDS)
    assert listed(source, "val") == VAL


def test_val_alone_is_enough(tmp_path: Path) -> None:
    TINY.write_archives(tmp_path)
    (tmp_path / "ILSVRC2012_img_train.tar").unlink()
    source = open_imagenet1k(str(tmp_path))
    assert source.splits == ("val",)
    assert source.classes == NAMES
    assert listed(source, "val") == VAL


def test_what_is_no_image_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = {
        "n01440764_1.JPEG": picture(1),
        "readme.txt": b"x",
        "._n01440764_1.JPEG": b"x",
        "n01440764_2.JPEG": picture(2),
    }
    write(tmp_path, {"ILSVRC2012_img_train.tar": tar_bytes({"n01440764.tar": tar_bytes(images), ".hidden": b""})})
    (items,) = open_imagenet1k(str(tmp_path)).list_items("train")
    assert items.source_keys == ["n01440764/n01440764_1.JPEG", "n01440764/n01440764_2.JPEG"]
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        f"{tmp_path}: left out: 1 files that are no images by their extension (txt: 1)"
    ]


def test_an_empty_class_tar_has_no_images_and_its_class_stays(tmp_path: Path) -> None:
    tars = {"n01440764.tar": tar_bytes({}), "n02012849.tar": tar_bytes(TINY.train["n02012849"])}
    write(tmp_path, {"ILSVRC2012_img_train.tar": tar_bytes(tars)})
    source = open_imagenet1k(str(tmp_path))
    (items,) = source.list_items("train")
    assert set(items.labels.tolist()) == {1}
    assert source.class_ids == ("n01440764", "n02012849")


@pytest.mark.parametrize("root", ["missing", "empty", "ftp"])
def test_where_nothing_is_people_learn_where_to_get_it_and_what_to_type(tmp_path: Path, root: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        open_imagenet1k(str(tmp_path / root))
    text = str(caught.value)
    assert "\n" not in text
    for wanted in (
        "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar (with ILSVRC2012_devkit_t12.tar.gz), ILSVRC/Data/CLS-LOC",
        "imagenet-object-localization-challenge.zip",
        "free account",
        "https://image-net.org/download-images",
        "https://www.kaggle.com/competitions/imagenet-object-localization-challenge",
        f"kaggle competitions download -c imagenet-object-localization-challenge -p {tmp_path / root}`",
        "https://huggingface.co/datasets/ILSVRC/imagenet-1k",
        f"hf download ILSVRC/imagenet-1k --repo-type dataset --local-dir {tmp_path / root}`",
        f'then type: make prepare-data ARGS="source=imagenet1k source.root={tmp_path / root} out=data/imagenet1k-64',
        "no such folder" if root != "empty" else "no ImageNet-1k in it",
    ):
        assert wanted in text


def test_the_command_to_type_survives_a_blank_in_the_roots_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source.root='.*/my images' out="):
        open_imagenet1k(str(tmp_path / "my images"))


def test_a_missing_val_split_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, {"ILSVRC2012_img_train.tar": TINY.train_tar()})
    list_all(open_imagenet1k(str(tmp_path)))
    assert "there is no ILSVRC2012_img_val.tar, nor another form of it: no split val" in caplog.text


def outer_tar(name: str, content: bytes) -> dict[str, bytes]:
    return {"ILSVRC2012_img_train.tar": tar_bytes({"n01440764.tar": tar_bytes(TINY.train["n01440764"]), name: content})}


def link_tar(kind: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("n02012849_1.JPEG")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return stream.getvalue()


def list_all(source: Source) -> None:
    for split in source.splits:
        for _ in source.list_items(split):
            pass


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (outer_tar("n02012849.tar", b"<html>sign in first</html>".ljust(2000)), "ILSVRC2012_img_train.tar, byte"),
        (outer_tar("n02012849.tar", tar_bytes(TINY.train["n02012849"])[:2048]), "ILSVRC2012_img_train.tar, byte"),
        (outer_tar("n02012849.tar", tar_bytes({"../../x.JPEG": b"x"})), "leads out of the archive"),
        (outer_tar("n02012849.tar", tar_bytes({"/etc/x.JPEG": b"x"})), "leads out of the archive"),
        (outer_tar("n02012849.tar", link_tar(tarfile.SYMTYPE)), "refused"),
        (outer_tar("n02012849.tar", link_tar(tarfile.LNKTYPE)), "refused"),
        (outer_tar("n02012849.tar", link_tar(tarfile.CHRTYPE)), "refused"),
        (outer_tar("sub/n01440764.tar", tar_bytes({})), "class n01440764 has two tars"),
        (outer_tar("cat.tar", tar_bytes({})), r"cat.tar is no class tar, as in n01440764.tar"),
        (outer_tar("n01440764_1.JPEG", picture(1)), r"n01440764_1.JPEG is no class tar"),
        ({"ILSVRC2012_img_train.tar": tar_bytes({})}, "holds no class tars"),
        ({"ILSVRC2012_img_train.tar": b""}, "cut short|no class tars|byte 0"),
        ({"ILSVRC2012_img_train.tar": TINY.train_tar()[:20_480]}, "ILSVRC2012_img_train.tar, byte"),
        ({"ILSVRC2012_img_val.tar": TINY.val_tar()}, "5 validation images and no list"),
        (
            {"ILSVRC2012_img_val.tar": TINY.val_tar(), f"{DEVKIT}.tar.gz": devkit([1, 2, 3])},
            "3 labels for 5 validation images",
        ),
        (
            {"ILSVRC2012_img_train.tar": TINY.train_tar(), "LOC_synset_mapping.txt": b"n01440764 tench\n"},
            r"train has class n02012849, which the list of 1 classes .* does not name \(3 such\)",
        ),
    ],
)
def test_archives_that_are_not_what_they_should_be_are_refused_by_name(
    tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    source = open_imagenet1k(str(write(tmp_path, files)))
    with pytest.raises(UserError, match=reason) as caught:
        list_all(source)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_that_comes_twice_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("n01440764_1.JPEG"))
    write(tmp_path, {"ILSVRC2012_img_train.tar": tar_bytes({"n01440764.tar": stream.getvalue()})})
    with pytest.raises(DamageError, match=r"holds n01440764/n01440764_1.JPEG twice"):
        list(open_imagenet1k(str(tmp_path)).list_items("train"))


def test_a_train_tar_of_a_million_classes_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.sources.class_tars.MAX_SYNSETS", 3)
    TINY.write_archives(tmp_path)
    with pytest.raises(UserError, match=r"ILSVRC2012_img_train.tar: more than 3 class tars"):
        list(open_imagenet1k(str(tmp_path)).list_items("train"))


def test_reading_a_changed_archive_or_leaving_the_root_is_refused(tmp_path: Path) -> None:
    source = open_imagenet1k(str(TINY.write_archives(tmp_path / "root")))
    with pytest.raises(DamageError, match=r"ILSVRC2012_img_val.tar: ends at byte"):
        source.read(path="ILSVRC2012_img_val.tar", offset=10**9, size_bytes=100)
    for path in ("../secret", "/etc/passwd", "a/../../secret"):
        with pytest.raises(UserError, match="no name of a file in a store"):
            source.read(path=path, offset=0, size_bytes=10)


def test_a_fresh_source_reads_what_another_listed(tmp_path: Path) -> None:
    """A worker opens the source anew and gets rows from the plan; it lists nothing."""
    for form in ("archives", "CLS-LOC"):
        make, root = FORMS[form]
        make(tmp_path / form)
        (items,) = open_imagenet1k(str(tmp_path / form / root)).list_items("val")
        fresh = open_imagenet1k(str(tmp_path / form / root))
        content = fresh.read(path=items.paths[2], offset=int(items.offsets[2]), size_bytes=int(items.sizes_bytes[2]))
        assert content == VAL[items.source_keys[2]][1]


def test_the_kits_numbers_are_used_not_taken_for_class_numbers(tmp_path: Path) -> None:
    (items,) = open_imagenet1k(str(TINY.write_archives(tmp_path))).list_items("val")
    np.testing.assert_array_equal(items.labels, [sorted(KIT_ORDER).index(KIT_ORDER[n - 1]) for n in TINY.truth()])
    assert items.labels.tolist() != [number - 1 for number in TINY.truth()]
    assert re.fullmatch(r"ILSVRC2012_val_\d{8}.JPEG", items.source_keys[0])
