"""The classes of ImageNet-1k and the labels of its validation images, from the lists that its publishers hand out.

    labels = find_labels(open_store("imagenet"))
    labels.class_ids[0]                                     # "n01440764": classes are the sorted WordNet ids
    labels.ids_of(["ILSVRC2012_val_00000001.JPEG"])         # ["n01751748"]

Classes come from the development kit's `meta.mat`, else from `LOC_synset_mapping.txt`. Validation labels come from the
kit's ground truth, else from `LOC_val_solution.csv`, else from `imagenet_2012_validation_synset_labels.txt`. Mind the
ground truth: its numbers are the kit's own ids, 1 to 1,000, which are not the sorted class numbers plus one. They mean
nothing without `meta.mat`, and taken for class numbers they give labels that look right and are noise.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from data_prep.sources.bounded import read_tar_gz
from data_prep.sources.mat5 import read_struct_rows
from data_prep.sources.wordnet import Lists, checked_words, decoded, find_words, is_wordnet_id, lines_of, read_text
from pipeline.shards.errors import DamageError, UserError

DEVKIT = "ILSVRC2012_devkit_t12"
DEVKIT_ARCHIVE = f"{DEVKIT}.tar.gz"
META_FILE = "data/meta.mat"
GROUND_TRUTH_FILE = "ILSVRC2012_validation_ground_truth.txt"
SOLUTION_FILE = "LOC_val_solution.csv"
SYNSET_LABELS_FILE = "imagenet_2012_validation_synset_labels.txt"
# The genuine kit has 2.6 MB, its meta.mat about 1 MB.
MAX_DEVKIT_BYTES = 64 << 20
MAX_META_BYTES = 32 << 20
MAX_TRUTH_BYTES = 16 << 20
MAX_VAL_IMAGES = 1_000_000

_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What the lists say.

    Attributes:
        place: the folder that was looked in, for errors.
        where: the list that the validation labels come from, for errors; "" where there is none.
        class_ids: sorted WordNet ids of all classes; None where no list says which there are.
        words: words for people, by WordNet id.
        by_number: WordNet ids of the validation images 1, 2, ... in turn; empty where `by_name` says it.
        by_name: WordNet ids by the validation image's name, without its extension.
    """

    place: str
    where: str = ""
    class_ids: tuple[str, ...] | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    by_number: tuple[str, ...] = ()
    by_name: Mapping[str, str] = field(default_factory=dict)

    def ids_of(self, names: Iterable[str]) -> list[str]:
        """Return the WordNet id of each validation image, by file names without folders.

        Raises:
            DamageError: a list by number has another length than there are images, or an image is in no list.
            UserError: there is no list, or one by number and a name without one.
        """
        names = list(names)
        if not self.where:
            raise UserError(
                f"{self.place}: {len(names):,} validation images and no list that says what they show;"
                f" put {DEVKIT_ARCHIVE} (https://image-net.org/download-images, with an account) or Kaggle's"
                f" {SOLUTION_FILE} beside them"
            )
        if self.by_number and len(self.by_number) != len(names):
            raise DamageError(f"{self.where}: {len(self.by_number):,} labels for {len(names):,} validation images")
        return [self._id_of(name) for name in names]

    def _id_of(self, name: str) -> str:
        stem = name.rpartition(".")[0]
        if not self.by_number:
            if stem not in self.by_name:
                raise DamageError(f"{self.where}: has no line for the validation image {name}")
            return self.by_name[stem]
        matched = _VAL_NAME.fullmatch(stem)
        if matched is None:
            raise UserError(f"{name}: no name of a validation image, as in ILSVRC2012_val_00000001.JPEG")
        number = int(matched[1])
        if not 1 <= number <= len(self.by_number):
            raise DamageError(f"{self.where}: has lines for images 1 to {len(self.by_number):,}, none for {name}")
        return self.by_number[number - 1]


def find_labels(store: Lists) -> Labels:
    """Return what the lists in a store's top folder say; an empty answer where there are none.

    Raises:
        UserError: a ground truth in the kit's own ids, without the kit.
        DamageError: a list is not of its form, or names a class that the list of classes does not have.
    """
    place = store.location
    devkit = _find_devkit(store)
    listed = find_words(store)
    words: dict[str, str] = dict(listed[1]) if listed else {}
    class_ids: tuple[str, ...] | None = None
    if devkit is not None:
        synsets = parse_meta(devkit.meta, where=f"{devkit.where}: meta.mat")
        class_ids = tuple(sorted(class_id for class_id, _ in synsets))
        words |= dict(synsets)
        if devkit.ground_truth is not None:
            where = f"{devkit.where}: {GROUND_TRUTH_FILE}"
            ids = parse_ground_truth(devkit.ground_truth, synset_ids=[class_id for class_id, _ in synsets], where=where)
            return Labels(place=place, where=where, class_ids=class_ids, words=words, by_number=ids)
    elif listed and listed[0] in ("LOC_synset_mapping.txt", "synset_words.txt"):  # these list the classes, no others
        class_ids = tuple(sorted(words))
    where = f"{place}/{SOLUTION_FILE}"
    if store.size_of(SOLUTION_FILE) is not None:
        by_name = parse_solution(read_text(store, SOLUTION_FILE), where=where)
        _check_known(by_name.values(), class_ids=class_ids, where=where)
        return Labels(place=place, where=where, class_ids=class_ids, words=words, by_name=by_name)
    where = f"{place}/{SYNSET_LABELS_FILE}"
    if store.size_of(SYNSET_LABELS_FILE) is not None:
        ids = parse_synset_labels(read_text(store, SYNSET_LABELS_FILE), where=where)
        _check_known(ids, class_ids=class_ids, where=where)
        return Labels(place=place, where=where, class_ids=class_ids, words=words, by_number=ids)
    if store.size_of(GROUND_TRUTH_FILE) is not None:
        raise UserError(
            f"{place}/{GROUND_TRUTH_FILE}: its numbers are the development kit's own, which only its meta.mat"
            f" explains; put {DEVKIT_ARCHIVE} or {SOLUTION_FILE} beside it"
        )
    return Labels(place=place, class_ids=class_ids, words=words)


def parse_meta(content: bytes, *, where: str) -> list[tuple[str, str]]:
    """Return (WordNet id, words) of the development kit's classes, in the order of the kit's own ids 1, 2, ...

    `meta.mat` also lists the inner nodes of the tree above the classes; these have children, and higher ids.

    Raises:
        DamageError: not such a file, or ids that are not 1, 2, ... without a gap.
    """
    fields = ("num_children", "ILSVRC2012_ID", "WNID", "words")
    leaves: dict[int, tuple[str, str]] = {}
    for num_children, number, class_id, words in read_struct_rows(
        content, variable="synsets", fields=fields, where=where
    ):
        if num_children != 0:
            continue
        if not isinstance(number, int) or not isinstance(class_id, str) or not isinstance(words, str):
            raise DamageError(f"{where}: a class of id {number!r}, {class_id!r}, {words!r}; get the file again")
        if not is_wordnet_id(class_id) or number in leaves:
            raise DamageError(f"{where}: {class_id!r} with id {number} is no WordNet id, or that id stands there twice")
        leaves[number] = class_id, checked_words(words, where=where)
    if sorted(leaves) != list(range(1, len(leaves) + 1)) or len({class_id for class_id, _ in leaves.values()}) != len(
        leaves
    ):
        raise DamageError(f"{where}: the ids of its {len(leaves):,} classes are not 1, 2, ... with a class each")
    if not leaves:
        raise DamageError(f"{where}: has no classes; get the file again")
    return [leaves[number] for number in range(1, len(leaves) + 1)]


def parse_ground_truth(text: str, *, synset_ids: list[str], where: str) -> tuple[str, ...]:
    """Return the WordNet id of each validation image from lines of the kit's own ids.

    Args:
        text: one id a line, 1 to the number of classes.
        synset_ids: WordNet ids in the order of the kit's own ids.
        where: the file, for errors.

    Raises:
        DamageError: a line that is no such id, or no line at all.
    """
    ids = []
    for number, line in enumerate(lines_of(text, where=where, max_lines=MAX_VAL_IMAGES), start=1):
        digits = line.strip()
        if not (digits.isascii() and digits.isdigit() and len(digits) < 10 and 1 <= int(digits) <= len(synset_ids)):
            raise DamageError(f"{where}: line {number}: {line[:40]!r}; an id from 1 to {len(synset_ids):,} wanted")
        ids.append(synset_ids[int(digits) - 1])
    if not ids:
        raise DamageError(f"{where}: empty")
    return tuple(ids)


def parse_synset_labels(text: str, *, where: str) -> tuple[str, ...]:
    """Return the WordNet id of each validation image from one id a line. Raises DamageError for other lines."""
    ids = [line.strip() for line in lines_of(text, where=where, max_lines=MAX_VAL_IMAGES)]
    for number, class_id in enumerate(ids, start=1):
        if not is_wordnet_id(class_id):
            raise DamageError(f"{where}: line {number}: {class_id[:40]!r}; a WordNet id wanted")
    if not ids:
        raise DamageError(f"{where}: empty")
    return tuple(ids)


def parse_solution(text: str, *, where: str) -> dict[str, str]:
    """Return the WordNet id by image name from Kaggle's csv: `ILSVRC2012_val_00048981,n03995372 85 1 499 272`.

    The numbers are boxes of the class's objects; an image's boxes are all of its one class.

    Raises:
        DamageError: another head line, a line of another form, or an image that comes twice.
    """
    if len(text) > csv.field_size_limit() and "\n" not in text[: csv.field_size_limit()]:
        raise DamageError(f"{where}: no lines")
    rows = csv.reader(io.StringIO(text))
    by_name: dict[str, str] = {}
    try:
        if next(rows, None) != ["ImageId", "PredictionString"]:
            raise DamageError(f"{where}: line 1: ImageId,PredictionString wanted")
        for row in rows:
            name, prediction = row if len(row) == 2 else ("", "")
            classes = set(prediction.split()[::5])
            if not name or len(classes) != 1 or not all(map(is_wordnet_id, classes)):
                raise DamageError(
                    f"{where}: line {rows.line_num}: {','.join(row)[:80]!r}; an image and its class wanted"
                )
            if name in by_name or len(by_name) == MAX_VAL_IMAGES:
                raise DamageError(
                    f"{where}: line {rows.line_num}: {name[:80]} comes twice, or there are too many lines"
                )
            by_name[name] = classes.pop()
    except csv.Error as error:
        raise DamageError(f"{where}: line {rows.line_num}: {error}") from None
    if not by_name:
        raise DamageError(f"{where}: no lines")
    return by_name


def _check_known(ids: Iterable[str], *, class_ids: tuple[str, ...] | None, where: str) -> None:
    unknown = sorted(set(ids).difference(class_ids)) if class_ids is not None else []
    if unknown:
        raise DamageError(f"{where}: class {unknown[0]} is not in the list of classes ({len(unknown)} such)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Devkit:
    where: str
    meta: bytes
    ground_truth: str | None


def _find_devkit(store: Lists) -> _Devkit | None:
    """Return the development kit's two files, from its archive or from where it was unpacked."""
    if store.size_of(DEVKIT_ARCHIVE) is not None:
        where = f"{store.location}/{DEVKIT_ARCHIVE}"
        meta, truth = f"{DEVKIT}/{META_FILE}", f"{DEVKIT}/data/{GROUND_TRUTH_FILE}"
        packed = store.read_bytes(DEVKIT_ARCHIVE, max_bytes=MAX_DEVKIT_BYTES)
        found = read_tar_gz(where, {meta: MAX_META_BYTES, truth: MAX_TRUTH_BYTES}, content=packed)
        return _Devkit(where=where, meta=found[meta], ground_truth=decoded(found[truth], where=f"{where}: {truth}"))
    for folder in (f"{DEVKIT}/", ""):
        if store.size_of(folder + META_FILE) is None:
            continue
        truth_file = f"{folder}data/{GROUND_TRUTH_FILE}"
        return _Devkit(
            where=f"{store.location}/{folder}data",
            meta=store.read_bytes(folder + META_FILE, max_bytes=MAX_META_BYTES),
            ground_truth=read_text(store, truth_file) if store.size_of(truth_file) is not None else None,
        )
    return None
