"""Classes named by WordNet: ids such as n01440764, and the words that people know them by.

    words = parse_words("n01440764 tench, Tinca tinca\\n", where="LOC_synset_mapping.txt")
    class_names(("n01440764",), words)              # ("tench, Tinca tinca",)
    class_names(("n02012849", "n03126707"), {"n02012849": "crane", "n03126707": "crane"})
                                                    # ("crane (n02012849)", "crane (n03126707)")

The field numbers classes by their sorted WordNet ids; every source here does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.shards.errors import DamageError, UserError

# All nouns of WordNet 3.0 are 82,115 synsets; words.txt lists each of them.
MAX_SYNSETS = 100_000
MAX_TEXT_BYTES = 32 << 20
# Files of "id words" lines, each known under the name that its publisher gave it.
WORDS_FILES = ("LOC_synset_mapping.txt", "words.txt", "imagenet_synset_to_lemma.txt", "synset_words.txt")
# A pair of files with one line a class: ids in one, words in the other.
IDS_FILE, LEMMAS_FILE = "imagenet21k_wordnet_ids.txt", "imagenet21k_wordnet_lemmas.txt"

_WORDNET_ID = re.compile(r"n\d{8}")


class Lists(Protocol):
    """Where list files lie: a store, or the inside of an archive."""

    @property
    def location(self) -> str:
        """The place, as it is shown to people."""

    def size_of(self, name: str) -> int | None:
        """Return a file's size in bytes, None where there is no such file."""

    def read_bytes(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole file. Raises DamageError where it is longer than `max_bytes`."""


def is_wordnet_id(text: str) -> bool:
    """Tell whether `text` is a noun's WordNet id: an n and eight digits."""
    return _WORDNET_ID.fullmatch(text) is not None and text.isascii()


def class_names(ids: Sequence[str], words: Mapping[str, str]) -> tuple[str, ...]:
    """Return a distinct name for each class: its words, its id where there are none.

    Words that several of the classes share get the id behind them, in each of these classes.
    """
    names = [words.get(class_id) or class_id for class_id in ids]
    counts = Counter(names)
    return tuple(
        f"{name} ({class_id})" if counts[name] > 1 else name for name, class_id in zip(names, ids, strict=True)
    )


def parse_words(text: str, *, where: str) -> dict[str, str]:
    """Return words by WordNet id from lines of an id, a blank or a tab, and words.

    Raises:
        DamageError: a line of another form, an id that comes twice, or too many lines.
    """
    words: dict[str, str] = {}
    for number, line in enumerate(lines_of(text, where=where), start=1):
        class_id, _, rest = line.replace("\t", " ", 1).partition(" ")
        if not is_wordnet_id(class_id) or not rest.strip():
            raise DamageError(f"{where}: line {number}: {line[:80]!r}; a WordNet id and words wanted")
        if class_id in words:
            raise DamageError(f"{where}: line {number}: {class_id} stands there twice")
        words[class_id] = checked_words(rest, where=f"{where}: line {number}")
    return words


def checked_words(words: str, *, where: str) -> str:
    """Return words with single blanks between them.

    Raises:
        DamageError: signs that cannot be printed.
    """
    words = " ".join(words.split())
    if not words.isprintable():
        raise DamageError(f"{where}: {words[:80]!r} has signs that cannot be printed")
    return words


def lines_of(text: str, *, where: str, max_lines: int = MAX_SYNSETS) -> list[str]:
    """Return the lines of a list file, without line ends; empty lines at its end do not count.

    Raises:
        DamageError: more than `max_lines` of them.
    """
    lines = [line.removesuffix("\r") for line in text.rstrip().split("\n", max_lines)] if text.strip() else []
    if len(lines) > max_lines:
        raise DamageError(f"{where}: more than {max_lines:,} lines")
    return lines


def read_text(store: Lists, name: str, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return a text file of a store.

    Raises:
        UserError: it is not there.
        DamageError: it is too long or not UTF-8.
    """
    return decoded(store.read_bytes(name, max_bytes=max_bytes), where=f"{store.location}/{name}")


def decoded(content: bytes, *, where: str) -> str:
    """Return the text of UTF-8 bytes, without a byte-order mark. Raises DamageError where they are none."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamageError(f"{where}: byte {error.start} is not UTF-8") from None


def find_words(store: Lists) -> tuple[str, dict[str, str]] | None:
    """Return the first list of words in a store's top folder, as (file name, words by id), or None."""
    for name in WORDS_FILES:
        if store.size_of(name) is not None:
            return name, parse_words(read_text(store, name), where=f"{store.location}/{name}")
    if store.size_of(LEMMAS_FILE) is None:
        return None
    where = f"{store.location}/{LEMMAS_FILE}"
    if store.size_of(IDS_FILE) is None:
        raise UserError(f"{where}: has no ids; put {IDS_FILE} beside it, or take the file away")
    ids = lines_of(read_text(store, IDS_FILE), where=f"{store.location}/{IDS_FILE}")
    lemmas = lines_of(read_text(store, LEMMAS_FILE), where=where)
    if len(ids) != len(lemmas):
        raise DamageError(f"{where}: {len(lemmas):,} lines, {len(ids):,} in {IDS_FILE}")
    joined = "\n".join(f"{class_id} {words.replace('_', ' ')}" for class_id, words in zip(ids, lemmas, strict=True))
    return LEMMAS_FILE, parse_words(joined, where=f"{where} with {IDS_FILE}")
