from __future__ import annotations

import json
import re
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources.imagenet_labels import find_labels, parse_ground_truth, parse_solution, parse_synset_labels
from data_prep.sources.wordnet import class_names, find_words, parse_words
from imagenet_sets import (
    DEVKIT,
    KIT_ORDER,
    NAMES,
    SHARED_IMAGENET,
    TRUTH,
    WORDS,
    Synset,
    TinyImagenet1k,
    devkit,
    kit_synsets,
    meta_mat,
)
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import open_store

TINY = TinyImagenet1k.make()
SHOWN = [class_id for class_id, _ in TINY.val.values()]
TRUTH_TEXT = "".join(f"{number}\n" for number in TINY.truth())


def put(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def shared_kit_order() -> list[str]:
    """Return the kit's WordNet ids in the order of its own ids: the bytes of meta.mat hold them in that order."""
    if not SHARED_IMAGENET.is_dir():
        pytest.skip("shared/data is not here")
    with tarfile.open(SHARED_IMAGENET / f"{DEVKIT}.tar.gz") as archive:
        stream = archive.extractfile(f"{DEVKIT}/data/meta.mat")
        assert stream is not None
        plain = zlib.decompress(stream.read()[136:]).replace(b"\0", b"")
    return [found.decode() for found in re.findall(rb"n\d{8}", plain)][:1000]


def test_the_kits_ids_are_not_class_numbers_and_the_true_ground_truth_agrees_with_the_real_labels(
    tmp_path: Path,
) -> None:
    """ReaL: "Are we done with ImageNet?", labels given anew by people, in sorted-synset numbers; 90.02 % agree."""
    order = shared_kit_order()
    truth = (SHARED_IMAGENET / "meta" / TRUTH).read_text()
    kit = (SHARED_IMAGENET / f"{DEVKIT}.tar.gz").read_bytes()
    put(tmp_path, {f"{DEVKIT}.tar.gz": kit})
    class_ids = find_labels(open_store(str(tmp_path))).class_ids
    assert class_ids is not None
    assert class_ids == tuple(sorted(order))
    numbers = {class_id: number for number, class_id in enumerate(class_ids)}
    ours = [numbers[class_id] for class_id in parse_ground_truth(truth, synset_ids=order, where="truth")]
    real = json.loads((SHARED_IMAGENET / "meta" / "imagenet_real_labels.json").read_text())
    judged = [(label, labels) for label, labels in zip(ours, real, strict=True) if labels]
    assert sum(label in labels for label, labels in judged) / len(judged) > 0.9
    naive = [(int(line) - 1, labels) for line, labels in zip(truth.split(), real, strict=True) if labels]
    assert sum(label in labels for label, labels in naive) / len(naive) < 0.01


def test_labels_from_the_kit_equal_those_of_kaggles_lists_for_the_images_at_hand(tmp_path: Path) -> None:
    order = shared_kit_order()
    kit = find_labels(open_store(str(SHARED_IMAGENET)))
    with tarfile.open(SHARED_IMAGENET / f"{DEVKIT}.tar.gz") as archive:
        stream = archive.extractfile(f"{DEVKIT}/data/{TRUTH}")
        assert stream is not None
        truth = [int(line) for line in stream.read().split()]
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(truth) + 1)]
    lines = [f"{name[:-5]},{order[number - 1]} 1 2 3 4 " for name, number in zip(names, truth, strict=True)]
    mapping = (SHARED_IMAGENET / "meta" / "LOC_synset_mapping.txt").read_text()
    solution = "ImageId,PredictionString\n" + "\n".join(lines) + "\n"
    put(tmp_path, {"LOC_synset_mapping.txt": mapping, "LOC_val_solution.csv": solution})
    kaggle = find_labels(open_store(str(tmp_path)))
    assert kit.class_ids == kaggle.class_ids == tuple(line[:9] for line in mapping.splitlines())
    assert kit.ids_of(names) == kaggle.ids_of(names)
    assert kit.class_ids is not None
    assert kaggle.class_ids is not None
    assert class_names(kit.class_ids, kit.words) == class_names(kaggle.class_ids, kaggle.words)


@pytest.mark.parametrize(
    "files",
    [
        {f"{DEVKIT}.tar.gz": devkit(TINY.truth())},
        {
            f"{DEVKIT}/data/meta.mat": meta_mat(kit_synsets()),
            f"{DEVKIT}/data/{TRUTH}": "\n".join(map(str, TINY.truth())),
        },
        {"data/meta.mat": meta_mat(kit_synsets()), f"data/{TRUTH}": TRUTH_TEXT.replace("\n", "\r\n")},
        {"LOC_synset_mapping.txt": TINY.mapping(), "LOC_val_solution.csv": TINY.solution()},
        {"synset_words.txt": TINY.mapping(), "imagenet_2012_validation_synset_labels.txt": "\n".join(SHOWN) + "\n"},
    ],
    ids=["kit", "unpacked kit", "root is the kit", "kaggle", "plain lists"],
)
def test_every_list_says_the_same(tmp_path: Path, files: dict[str, bytes | str]) -> None:
    labels = find_labels(open_store(str(put(tmp_path, files))))
    assert labels.class_ids == tuple(WORDS)
    assert class_names(labels.class_ids, labels.words) == NAMES
    names = list(TINY.val)
    assert labels.ids_of(names) == SHOWN
    assert labels.ids_of(reversed(names)) == SHOWN[::-1]


def test_no_list_at_all_knows_no_classes_and_asks_for_one_when_labels_are_wanted(tmp_path: Path) -> None:
    labels = find_labels(open_store(str(tmp_path)))
    assert (labels.class_ids, labels.words) == (None, {})
    with pytest.raises(UserError, match=r"5 validation images and no list .* put ILSVRC2012_devkit_t12"):
        labels.ids_of(TINY.val)


def test_the_kits_numbers_without_the_kit_are_refused(tmp_path: Path) -> None:
    put(tmp_path, {TRUTH: "1\n2\n", "LOC_synset_mapping.txt": TINY.mapping()})
    with pytest.raises(UserError, match=r"its numbers are the development kit's own.* put ILSVRC2012_devkit_t12"):
        find_labels(open_store(str(tmp_path)))


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        ([1, 2, 3, 4], "4 labels for 5 validation images"),
        ([1, 2, 3, 4, 1, 2], "6 labels for 5 validation images"),
        ([1, 2, 0, 4, 1], "line 3: '0'; an id from 1 to 4 wanted"),
        ([1, 2, 5, 4, 1], "line 3: '5'; an id from 1 to 4 wanted"),
        ([1, 2, "", 4, 1], "line 3: ''"),
        ([1, 2, -1, 4, 1], "line 3: '-1'"),
        ([1, 2, "٣", 4, 1], "line 3: '٣'"),
        ([1, 2, "9" * 5000, 4, 1], "line 3: '9999999"),
        ([1, 2, "n01440764", 4, 1], "line 3: 'n01440764'"),
        ([], "empty"),
    ],
)
def test_a_ground_truth_of_another_length_or_with_other_ids_is_refused(
    tmp_path: Path, truth: list[int | str], reason: str
) -> None:
    put(tmp_path, {f"{DEVKIT}.tar.gz": devkit(truth)})
    with pytest.raises(DamageError, match=rf"{DEVKIT}.tar.gz: {TRUTH}: {re.escape(reason)}"):
        find_labels(open_store(str(tmp_path))).ids_of(TINY.val)


def test_a_validation_image_with_no_line_or_no_number_is_refused(tmp_path: Path) -> None:
    store = open_store(str(put(tmp_path, {f"{DEVKIT}.tar.gz": devkit([1, 2])})))
    with pytest.raises(DamageError, match=r"lines for images 1 to 2, none for ILSVRC2012_val_00000003.JPEG"):
        find_labels(store).ids_of(["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000003.JPEG"])
    with pytest.raises(UserError, match=r"cat.JPEG: no name of a validation image"):
        find_labels(store).ids_of(["ILSVRC2012_val_00000001.JPEG", "cat.JPEG"])
    store = open_store(str(put(tmp_path / "b", {"LOC_val_solution.csv": TINY.solution()})))
    with pytest.raises(DamageError, match=r"has no line for the validation image ILSVRC2012_val_00000009.JPEG"):
        find_labels(store).ids_of(["ILSVRC2012_val_00000009.JPEG"])


@pytest.mark.parametrize(
    ("synsets", "reason"),
    [
        ([Synset(1, "n01440764", "a"), Synset(1, "n02012849", "b")], "stands there twice"),
        ([Synset(1, "n01440764", "a"), Synset(3, "n02012849", "b")], "are not 1, 2, ..."),
        ([Synset(1, "n01440764", "a"), Synset(2, "n01440764", "b")], "are not 1, 2, ..."),
        ([Synset(1, "../etc", "a")], "is no WordNet id"),
        ([Synset(1, "n01440764", "a\x1b[31m")], "cannot be printed"),
        ([Synset(1, "n01440764", "a", children=2)], "has no classes"),
        ([], "has no classes"),
    ],
)
def test_a_meta_file_of_nonsense_is_refused(tmp_path: Path, synsets: list[Synset], reason: str) -> None:
    put(tmp_path, {f"{DEVKIT}.tar.gz": devkit([1], meta=meta_mat(synsets))})
    with pytest.raises(DamageError, match=rf"{DEVKIT}.tar.gz: meta.mat: .*{reason}"):
        find_labels(open_store(str(tmp_path)))


def test_a_damaged_kit_names_its_file(tmp_path: Path) -> None:
    whole = devkit(TINY.truth())
    for damaged in (whole[:-20], whole[: len(whole) // 2], b"<html>sign in</html>", b""):
        put(tmp_path, {f"{DEVKIT}.tar.gz": damaged})
        with pytest.raises(UserError, match=rf"{DEVKIT}.tar.gz: "):
            find_labels(open_store(str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: ImageId,PredictionString wanted"),
        ("ImageId,PredictionString\n", "no lines"),
        ("a,n01440764 1 2 3 4\n", "line 1: ImageId"),
        ("ImageId,PredictionString\na,n01440764 1 2 3 4\na,n01440764 1 2 3 4\n", "line 3: a comes twice"),
        ("ImageId,PredictionString\na,n01440764 1 2 3 4 n02012849 1 2 3 4\n", "line 2: 'a,n01440764"),
        ("ImageId,PredictionString\na,\n", "line 2: 'a,'"),
        ("ImageId,PredictionString\na,b,c\n", "line 2: 'a,b,c'"),
        ("ImageId,PredictionString\na,cat 1 2 3 4\n", "line 2: 'a,cat 1 2 3 4'"),
        ('ImageId,PredictionString\n"' + "a" * 200_000, "line 2: field larger than field limit"),
    ],
)
def test_a_solution_file_of_another_form_is_refused(text: str, reason: str) -> None:
    with pytest.raises(DamageError, match=rf"^LOC: {re.escape(reason)}"):
        parse_solution(text, where="LOC")


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_solution, parse_synset_labels, parse_words):
        for given_text in (text, "ImageId,PredictionString\n" + text, "n01440764 " + text):
            try:
                parse(given_text, where="list")
            except DamageError as error:
                message = str(error)
            else:
                continue
            assert message.startswith("list: ")
            assert "\n" not in message


def test_a_list_with_a_class_that_the_mapping_does_not_have_is_refused(tmp_path: Path) -> None:
    put(tmp_path, {"LOC_synset_mapping.txt": "n01440764 tench\n", "LOC_val_solution.csv": TINY.solution()})
    with pytest.raises(DamageError, match=r"LOC_val_solution.csv: class n02012849 is not in the list .*\(3 such\)"):
        find_labels(open_store(str(tmp_path)))


@pytest.mark.parametrize(
    "line", ["n01440764", "tench n01440764", "n1 tench", "n01440764 ", "ｎ01440764 tench", "n0144０764 x"]
)
def test_a_words_line_of_another_form_is_refused(line: str) -> None:
    with pytest.raises(DamageError, match=r"^words.txt: line 2: .*; a WordNet id and words wanted"):
        parse_words(f"n02012849 crane\n{line}\nn03126707 crane\n", where="words.txt")


def test_a_list_of_a_million_lines_is_refused() -> None:
    with pytest.raises(DamageError, match=r"^words.txt: more than 100,000 lines"):
        parse_words("".join(f"n{number:08d} x\n" for number in range(1_000_000)), where="words.txt")


def test_words_may_come_as_a_pair_of_files(tmp_path: Path) -> None:
    put(tmp_path, {"imagenet21k_wordnet_ids.txt": "n00004475\nn00005787\n"})
    put(tmp_path, {"imagenet21k_wordnet_lemmas.txt": "organism,_being\nbenthos\n"})
    assert find_words(open_store(str(tmp_path))) == (
        "imagenet21k_wordnet_lemmas.txt",
        {"n00004475": "organism, being", "n00005787": "benthos"},
    )
    put(tmp_path, {"imagenet21k_wordnet_lemmas.txt": "organism,_being\n"})
    with pytest.raises(DamageError, match=r"1 lines, 2 in imagenet21k_wordnet_ids.txt"):
        find_words(open_store(str(tmp_path)))


@given(st.dictionaries(st.sampled_from([*WORDS, "n1", "n2"]), st.sampled_from(["crane", "tench", "n02012849", ""])))
def test_class_names_are_distinct_and_carry_their_words(words: dict[str, str]) -> None:
    names = class_names(tuple(WORDS), words)
    assert len(set(names)) == len(names)
    assert all(name.startswith(words.get(class_id) or class_id) for name, class_id in zip(names, WORDS, strict=True))


def test_the_order_of_the_kit_differs_from_the_sorted_one_here_too() -> None:
    assert list(KIT_ORDER) != sorted(KIT_ORDER)
