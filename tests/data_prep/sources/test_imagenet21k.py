from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.source_config import Imagenet21kSourceConfig
from data_prep.sources import open_source
from data_prep.sources.base import MAX_BATCH_ITEMS, Task
from data_prep.sources.class_spool import ClassSpool
from data_prep.sources.class_tars import Image
from data_prep.sources.imagenet21k import Imagenet21kSource, open_imagenet21k
from imagenet_sets import listed, picture, tar_bytes
from pipeline.shards.errors import DamageError, UserError
from tiny_data import prepare_here

# Images a class; the second is too small for the usual cut, the third for a held-out image.
SIZES = {"n00004475": 30, "n00005787": 3, "n00006024": 9, "n00006484": 21}
IMAGES = {
    class_id: {f"{class_id}_{number}.JPEG": f"{class_id}/{number}".encode() for number in range(size)}
    for class_id, size in SIZES.items()
}
WORDS = "n00004475 organism, being\nn00005787 benthos\nn00006024 heterotroph\nn00006484 cell\n"
Writer = Callable[[Path], Path]


def class_tars(*, prefix: str = "") -> dict[str, bytes]:
    shuffled = random.Random(5).sample(sorted(IMAGES), len(IMAGES))
    return {f"{prefix}{class_id}.tar": tar_bytes(IMAGES[class_id]) for class_id in shuffled}


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


FORMS: dict[str, Writer] = {
    "folder": lambda root: write(root, class_tars()),
    "folder below": lambda root: write(root, class_tars(prefix="winter21_whole/")),
    "tar": lambda root: write(root, {"fall11_whole.tar": tar_bytes(class_tars())}),
    "tar.gz": lambda root: write(root, {"winter21_whole.tar.gz": gzip.compress(tar_bytes(class_tars(prefix="./w/")))}),
    "named tar": lambda root: write(root, {"mine.tar": tar_bytes(class_tars())}) / "mine.tar",
    "named tgz": lambda root: write(root, {"mine.tgz": gzip.compress(tar_bytes(class_tars()))}) / "mine.tgz",
}


def opened(root: Path, *, min_images: int = 1, val_per_class: int = 0) -> Imagenet21kSource:
    return open_imagenet21k(str(root), min_images=min_images, val_per_class=val_per_class)


def expected(*class_ids: str) -> dict[str, tuple[str, bytes]]:
    return {f"{c}/{name}": (c, IMAGES[c][name]) for c in class_ids for name in sorted(IMAGES[c])}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_lists_all_classes_by_id_and_images_by_name(tmp_path: Path, form: str) -> None:
    root = FORMS[form](tmp_path)
    source = open_source(Imagenet21kSourceConfig(root=str(root), val_per_class=0), resolution=None)
    assert (source.name, source.task, source.splits) == ("ImageNet-21k", Task.classification, ("train",))
    assert source.class_ids == source.classes == tuple(SIZES)
    found = listed(source, "train")
    assert found == expected(*SIZES)
    assert list(found) == list(expected(*SIZES))


@pytest.mark.parametrize("form", FORMS)
def test_a_fresh_source_reads_what_another_listed(tmp_path: Path, form: str) -> None:
    root = FORMS[form](tmp_path)
    (items,) = opened(root).list_items("train")
    content = opened(root).read(path=items.paths[7], offset=int(items.offsets[7]), size_bytes=int(items.sizes_bytes[7]))
    assert content == expected(*SIZES)[items.source_keys[7]][1]


def test_the_index_of_a_packed_tar_lies_beside_it_and_is_made_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = FORMS["tar.gz"](tmp_path)
    first = listed(opened(root), "train")
    index = root / "winter21_whole.tar.gz.index"
    before = index.stat().st_mtime_ns, index.read_bytes()
    assert caplog.text.count(f"making {index}") == 1
    assert listed(opened(root), "train") == first
    assert caplog.text.count(f"making {index}") == 1
    assert (index.stat().st_mtime_ns, index.read_bytes()) == before


def test_the_index_goes_to_the_users_cache_where_the_archive_cannot_have_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("os.access", lambda *_: False)
    root = FORMS["tar.gz"](tmp_path / "in")
    assert listed(opened(root), "train") == expected(*SIZES)
    assert [path.name for path in root.iterdir()] == ["winter21_whole.tar.gz"]
    (index,) = (tmp_path / "home/.cache/tarmac").iterdir()
    assert index.name.endswith("-winter21_whole.tar.gz.index")


@pytest.mark.parametrize(
    ("min_images", "kept", "told"),
    [
        (1, 4, ""),
        (4, 3, "left out: 1 classes with fewer than 4 images (3 images); 3 classes stay"),
        (10, 2, "left out: 2 classes with fewer than 10 images (12 images); 2 classes stay"),
    ],
)
def test_small_classes_are_left_out_on_request_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, min_images: int, kept: int, told: str
) -> None:
    source = opened(FORMS["folder"](tmp_path), min_images=min_images)
    stay = [class_id for class_id, size in SIZES.items() if size >= min_images]
    assert len(stay) == kept
    assert source.class_ids == tuple(stay)
    (items,) = source.list_items("train")
    np.testing.assert_array_equal(items.labels, np.repeat(range(kept), [SIZES[class_id] for class_id in stay]))
    assert listed(source, "train") == expected(*stay)
    assert [record.getMessage() for record in caplog.records] == ([told] if told else [])


def test_where_no_class_is_large_enough_the_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no class has source.min_images=500 images; choose fewer"):
        _ = opened(FORMS["folder"](tmp_path), min_images=500).splits


@pytest.mark.parametrize(("val_per_class", "held_out"), [(50, [3, 0, 0, 2]), (2, [2, 0, 0, 2]), (1, [1, 0, 0, 1])])
def test_val_takes_the_wanted_number_but_at_most_a_tenth_of_a_class(
    tmp_path: Path, val_per_class: int, held_out: list[int]
) -> None:
    source = opened(FORMS["folder"](tmp_path), val_per_class=val_per_class)
    assert source.splits == ("train", "val")
    train, val = listed(source, "train"), listed(source, "val")
    assert train.keys().isdisjoint(val)
    assert train | val == expected(*SIZES)
    assert [sum(class_id == c for class_id, _ in val.values()) for c in SIZES] == held_out
    assert list(val) == [key for key in expected(*SIZES) if key in val]


def test_which_images_are_held_out_depends_on_their_names_alone(tmp_path: Path) -> None:
    first = opened(FORMS["folder"](tmp_path / "a"), val_per_class=50, min_images=1)
    second = opened(FORMS["tar"](tmp_path / "b"), val_per_class=50, min_images=10)
    assert listed(first, "val") == listed(second, "val")
    third = opened(FORMS["folder"](tmp_path / "a"), val_per_class=1)
    assert listed(third, "val").keys() < listed(first, "val").keys()
    assert list(listed(first, "val")) != list(expected("n00004475"))[:3] + list(expected("n00006484"))[:2]


@pytest.mark.parametrize("min_images", [0, -1])
def test_impossible_options_are_refused(min_images: int) -> None:
    with pytest.raises(ValueError, match=f"source.min_images={min_images}"):
        Imagenet21kSourceConfig(min_images=min_images)


@pytest.mark.parametrize(
    "lists",
    [
        {"words.txt": WORDS.replace(" ", "\t", 1).encode()},
        {"LOC_synset_mapping.txt": WORDS.encode()},
        {
            "imagenet21k_wordnet_ids.txt": "".join(f"{c}\n" for c in SIZES).encode(),
            "imagenet21k_wordnet_lemmas.txt": b"organism, being\nbenthos\nheterotroph\ncell\n",
        },
    ],
)
@pytest.mark.parametrize("form", ["folder", "tar.gz"])
def test_words_beside_the_tars_name_the_classes(tmp_path: Path, form: str, lists: dict[str, bytes]) -> None:
    source = opened(write(FORMS[form](tmp_path), lists), min_images=10)
    assert source.classes == ("organism, being", "cell")
    assert source.class_ids == ("n00004475", "n00006484")


def test_where_nothing_is_people_learn_where_to_get_it_and_what_to_type(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "none", tmp_path / "winter21_whole.tar.gz"):
        with pytest.raises(UserError) as caught:
            _ = opened(root).splits
        for wanted in (
            f"source.root={root}: no ImageNet-21k",
            "n00004475.tar",
            "winter21_whole.tar.gz, winter21_whole.tar, fall11_whole.tar",
            "free account",
            "https://image-net.org/download-images",
            f'make prepare-data ARGS="source=imagenet21k source.root={root} source.min_images=500',
        ):
            assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"n00004475.tar": b"<html>404</html>".ljust(1000)}, "n00004475.tar, byte 0"),
        ({"n00004475.tar": tar_bytes(IMAGES["n00004475"])[:5000]}, "n00004475.tar, byte"),
        ({"n00004475.tar": tar_bytes({"../n00004475_1.JPEG": b"x"})}, "leads out of the archive"),
        ({"n00004475.tar": tar_bytes({}), "more/n00004475.tar": tar_bytes({})}, "class n00004475 has two tars"),
        ({"fall11_whole.tar": tar_bytes({"n00004475.tar": b"no tar" * 1000})}, "fall11_whole.tar, byte"),
        ({"fall11_whole.tar": tar_bytes({"n00004475_1.JPEG": picture(1)})}, "is no class tar"),
        ({"winter21_whole.tar.gz": b"<html>sign in</html>"}, "winter21_whole.tar.gz"),
        ({"winter21_whole.tar.gz": gzip.compress(tar_bytes(class_tars()))[:-50]}, "winter21_whole.tar.gz"),
    ],
)
def test_tars_that_are_not_what_they_should_be_are_refused_by_name(
    tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    write(tmp_path, files)
    with pytest.raises(UserError, match=reason) as caught:
        _ = opened(tmp_path).splits
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_more_images_than_a_table_holds_come_in_several(tmp_path: Path) -> None:
    sizes = {"n00004475": 40_000, "n00005787": 40_000}
    for class_id, size in sizes.items():
        write(tmp_path, {f"{class_id}.tar": tar_bytes({f"{class_id}_{number}.JPEG": b"" for number in range(size)})})
    tables = list(opened(tmp_path).list_items("train"))
    assert [len(items) for items in tables] == [MAX_BATCH_ITEMS, 80_000 - MAX_BATCH_ITEMS]
    assert np.bincount(np.concatenate([items.labels for items in tables])).tolist() == [40_000, 40_000]


SPOOLED = st.tuples(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), st.integers(0, 2**62))


@given(st.lists(st.lists(SPOOLED, max_size=5), max_size=5), st.data())
def test_the_spool_gives_back_what_it_took(lists: list[list[tuple[str, int]]], data: st.DataObject) -> None:
    spool = ClassSpool()
    kept = [
        [Image(key, f"{number}.tar", offset, offset // 2) for key, offset in images]
        for number, images in enumerate(lists)
    ]
    numbers = [spool.add(images, path=f"{number}.tar") for number, images in enumerate(kept)]
    for number, images in sorted(zip(numbers, kept, strict=True), reverse=True):
        start, end = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 6))
        assert spool.images(number, start=start, end=end) == images[start:end]


def test_the_whole_preparation_makes_a_data_set_of_the_classes_that_stay(tmp_path: Path) -> None:
    files = {
        f"{class_id}.tar": tar_bytes({f"{class_id}_{row}.JPEG": picture(row) for row in range(size)})
        for class_id, size in SIZES.items()
    }
    write(tmp_path / "in", files | {"words.txt": WORDS.encode()})
    options = ("source=imagenet21k", f"source.root={tmp_path / 'in'}", "source.min_images=10", "layout.resolution=8")
    data_set = prepare_here(tmp_path / "set", *options)
    assert (data_set.classes, data_set.class_ids) == (("organism, being", "cell"), ("n00004475", "n00006484"))
    assert {name: split.num_samples for name, split in data_set.splits.items()} == {"train": 46, "val": 5}


def test_a_broken_list_of_ids_is_refused(tmp_path: Path) -> None:
    write(FORMS["folder"](tmp_path), {"words.txt": b"n00004475 organism\ncat\n"})
    with pytest.raises(DamageError, match=r"words.txt: line 2: 'cat'"):
        _ = opened(tmp_path).classes
