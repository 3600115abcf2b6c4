"""The page: what it shows, what it never lets through, how large it gets."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from card_sets import facts_of, write_set
from hypothesis import given
from hypothesis import strategies as st

from data_prep.card.__main__ import main
from data_prep.card.charts import linear_ticks, log_ticks
from data_prep.card.facts import CardFacts, DuplicateGroup, RejectedFacts, RejectedItem, SplitFacts
from data_prep.card.page import make_card, write_card
from data_prep.card.sizes import SizeHistogram
from data_prep.card.text import escaped, percent, short
from pipeline.shards.publish import publish_into
from pipeline.shards.record import PackedLayout
from pipeline.shards.task import Task
from tiny_data import random_pixels, run_module

LAYOUT = PackedLayout(height=64, width=64, channels=3)
MAX_CARD_BYTES = 5_000_000
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><b>&amp;",
    "a\u202egpj.exe",
    "nul\x00bell\x07",
    "]]>--><!--",
    "javascript:alert(1)//{{7*7}}",
)
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Collects tags, attributes and visible text; a tag that is not closed in order is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> CardFacts:
    train = [(random_pixels(k, height=64, width=64), k % 3, f"train/{k}.png") for k in range(30)]
    sizes = SizeHistogram()
    for width, height in ((500, 375), (375, 500), (40, 1000)):
        sizes.add(width, height)
    data_set = write_set(
        tmp_path_factory.mktemp("set"),
        {"train": [train], "val": [train[:4] + train[:1]]},
        classes=["ant", "bee", "cat"],
        packed=LAYOUT,
        name="insects and a cat",
        rejected=[{"split": "train", "source_key": "odd.png", "reason": "empty file"}],
        provenance={"seed": 3, "source": {"kind": "folder", "root": "pets"}, "layout": {"kind": "packed"}},
        statistics={"mean": [10.0, 20.0, 30.0], "std": [51.0, 51.0, 51.0]},
        source_sizes=sizes,
    )
    return facts_of(data_set)


def many_classes(facts: CardFacts, num_classes: int) -> CardFacts:
    """Return the same facts with many classes, all with names and keys as long as they may be."""
    counts = np.random.default_rng(0).integers(0, 3000, size=(2, num_classes)).tolist()
    splits = tuple(replace(split, class_counts=tuple(row)) for split, row in zip(facts.splits, counts, strict=True))
    names = tuple(f"{label}, " + "long name " * 400 for label in range(num_classes))
    samples = tuple(
        replace(sample, labels=(k * 31 % num_classes,), source_key="k" * 4096)
        for k, sample in enumerate(facts.samples * 4)
    )
    return replace(
        facts,
        classes=names,
        class_ids=tuple(f"n{label:08d}" for label in range(num_classes)),
        splits=splits,
        samples=samples,
        rejected=RejectedFacts(
            num_items=10**6,
            reasons=tuple(("reason " * 600 + str(k), 5) for k in range(1000)),
            examples=(RejectedItem(split="train", source_key="k" * 4096, reason="reason " * 600),) * 50,
        ),
    )


def test_the_numbers_stand_there(facts: CardFacts) -> None:
    text = Page(make_card(facts)).text
    for wanted in (
        "insects and a cat",
        "30 train and 5 val images, one of 3 classes each, stored as colour pixels, 64 × 64 in tar shards.",
        "5 of 5 val samples (100 %) are also in train: leakage",
        "1 item of the source left out",
        "train : 10 samples of each class.",
        "3 images: widths 40 to 500, heights 375 to 1,000 pixels. The median shorter side is 362–430 pixels.",
        "1 image (33.3 %) had a shorter side under 64 pixels in the source and was enlarged.",
        "All 35 images: 64 × 64 pixels.",
        "red 10.00 51.00 0.0392 0.2000",
        "odd.png empty file",
        "train 0 · ant · train/0.png val 0 · ant · train/0.png val 4 · ant · train/0.png",
        "python -m data_prep source=folder source.root=pets layout=packed seed=3 max_rejected=1 out=FOLDER",
    ):
        assert wanted in text, wanted


def test_every_picture_is_in_the_file(facts: CardFacts) -> None:
    page = Page(make_card(facts))
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert len(sources) == len(facts.samples) + len(facts.duplicates.examples)
    assert all(source.startswith("data:image/") for source in sources)
    assert all(value for tag, name, value in page.attributes if name == "alt")


def test_nothing_outside_is_asked_for_and_no_script_is_there(facts: CardFacts) -> None:
    card = make_card(facts)
    page = Page(card)
    assert not page.tags & {"script", "iframe", "object", "embed", "form", "base", "audio", "video"}
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("href", "src"):
            assert value.startswith(("#", "data:")), value
    assert "url(" not in card
    assert "@import" not in card
    assert re.findall(r"https?:", card) == []
    assert "default-src 'none'" in card


def worded(facts: CardFacts, text: str) -> CardFacts:
    """Return facts in which every string that comes from the data is `text`."""
    sample = replace(facts.samples[0], split=text, source_key=text)
    return replace(
        facts,
        name=text,
        classes=(text,) * 3,
        class_ids=(text + "!",) * 3,
        splits=tuple(replace(split, name=text) for split in facts.splits),
        samples=tuple(replace(shown, source_key=text, split=text) for shown in facts.samples),
        duplicates=replace(
            facts.duplicates,
            examples=(DuplicateGroup(num_members=2, members=(sample, sample)),),
            copies=((text, 1),),
            shared=((text, text, 1),),
        ),
        rejected=RejectedFacts(
            num_items=1, reasons=((text, 1),), examples=(RejectedItem(split=text, source_key=text, reason=text),)
        ),
        provenance=((text, text),),
        command=text,
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_and_not_obeyed(facts: CardFacts, text: str) -> None:
    card = make_card(worded(facts, text))
    page, harmless = Page(card), Page(make_card(worded(facts, "harmless")))
    assert page.tags == harmless.tags
    assert [row[:2] for row in page.attributes] == [row[:2] for row in harmless.attributes]
    assert escaped(text) in card
    assert not set(card) & set("\x00\x07\u202e")


@given(st.text())
def test_escaped_text_has_no_markup_and_fits(text: str) -> None:
    found = escaped(text, limit=40)
    assert not set(found) & set("<>\"'\x00\u202e\n")
    words = "".join(Page(f"<p title='{found}'>{found}</p>").words)
    assert len(words) <= 40
    if text.isascii() and text.isprintable() and len(" ".join(text.split())) <= 40:
        assert words == " ".join(text.split())
    found.encode()


def test_a_card_of_21841_classes_with_the_longest_names_is_small(facts: CardFacts) -> None:
    card = make_card(many_classes(facts, 21_841))
    assert len(card.encode()) < MAX_CARD_BYTES
    page = Page(card)
    assert "Most frequent in train" in page.text
    assert "21,841" in page.text


def test_the_least_compressible_pictures_fit_too(tmp_path: Path) -> None:
    layout = PackedLayout(height=160, width=160, channels=3)
    samples = [(random_pixels(k, height=160, width=160), 0, str(k)) for k in range(60)]
    splits = {"train": [samples], **{f"val{k}": [samples[:20]] for k in range(5)}}
    card = make_card(facts_of(write_set(tmp_path, splits, classes=["a"] * 30, packed=layout)))
    assert len(card.encode()) < MAX_CARD_BYTES


def test_several_labels_have_a_chart_of_how_many(facts: CardFacts) -> None:
    multilabel = replace(
        facts,
        task=Task.multilabel,
        splits=tuple(replace(split, label_counts=(5,) * 40) for split in facts.splits),
        samples=(
            *(replace(sample, labels=(0, 1, 2, 0, 1, 2)) for sample in facts.samples[1:]),
            replace(facts.samples[0], labels=()),
        ),
    )
    text = Page(make_card(multilabel)).text
    assert "any number of 3 classes each" in text
    assert "Classes per sample in train, 1.00 on average" in text
    assert "ant, bee, cat, ant and 2 more" in text
    assert "no label" in text


def test_duplicates_that_were_not_sought_are_not_called_absent(facts: CardFacts) -> None:
    text = Page(
        make_card(replace(facts, duplicates=None, rejected=RejectedFacts(num_items=0, reasons=(), examples=())))
    ).text
    assert "duplicate groups not sought" in text
    assert "Not sought: the shards lie in an object store" in text
    assert "No rejected items, no empty classes." in text
    assert "leakage" not in text.lower()


def test_a_plain_card_says_that_nothing_is_amiss(tmp_path: Path) -> None:
    samples = [(random_pixels(k, height=64, width=64), 0, str(k)) for k in range(3)]
    data_set = write_set(tmp_path, {"train": [samples[:2]], "val": [samples[2:]]}, classes=["a"], packed=LAYOUT)
    text = Page(make_card(facts_of(data_set))).text
    assert "No leakage between splits, no rejected items, no empty classes." in text
    assert "No stored image stands in two splits." in text
    assert "Not recorded." in text
    assert "Not measured" in text
    assert "there is no command to make it again" in text


def test_equal_facts_give_equal_bytes_wherever_the_data_set_lies(tmp_path: Path) -> None:
    samples = [(random_pixels(k, height=64, width=64), k % 2, str(k)) for k in range(9)]
    cards = []
    for name in ("here", "there/deeper"):
        data_set = write_set(tmp_path / name, {"train": [samples]}, classes=["a", "b"], packed=LAYOUT)
        write_card(publish_into(data_set.root), facts_of(data_set))
        cards.append((tmp_path / name / "card.html").read_bytes())
    assert cards[0] == cards[1]
    assert str(tmp_path).encode() not in cards[0]


def test_a_card_that_cannot_be_written_whole_leaves_the_old_one(
    facts: CardFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_card(publish_into(tmp_path), facts)
    before = (tmp_path / "card.html").read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_card(publish_into(tmp_path), replace(facts, name="other"))
    assert [path.name for path in tmp_path.iterdir()] == ["card.html"]
    assert (tmp_path / "card.html").read_bytes() == before


def test_the_command_makes_the_card_of_any_finished_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [(random_pixels(k, height=64, width=64), 0, str(k)) for k in range(3)]
    write_set(tmp_path / "set", {"train": [samples]}, classes=["a"], packed=LAYOUT)
    assert main([f"path={tmp_path / 'set'}"]) == 0
    assert capsys.readouterr().out == f"tiny: {tmp_path / 'set' / 'card.html'}\n"
    assert main(["--help"]) == 0
    assert "folder or URL prefix of the data set" in capsys.readouterr().out


def test_the_command_says_in_one_line_that_there_is_nothing(tmp_path: Path) -> None:
    ended = run_module("data_prep.card", f"path={tmp_path / 'nothing'}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


@given(st.integers(1, 10**9))
def test_ticks_are_few_round_and_reach_beyond(highest: int) -> None:
    ticks = linear_ticks(highest)
    assert ticks[0] == 0
    assert ticks[-2] < highest <= ticks[-1]
    assert 2 <= len(ticks) <= 8
    powers = log_ticks(1, highest)
    assert powers[0] == 1
    assert len(powers) <= 8


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1k"), (1500, "1.5k"), (123_456, "123k"), (14_197_122, "14.2M")]
)
def test_axes_have_short_numbers(number: int, text: str) -> None:
    assert short(number) == text


def test_shares_are_never_rounded_to_none_or_all() -> None:
    assert percent(0, 10) == "0 %"
    assert percent(10, 10) == "100 %"
    assert percent(1, 10**6) == "under 0.01 %"
    assert percent(10**6 - 1, 10**6) == "over 99.9 %"
    assert percent(1, 3) == "33.3 %"


def test_splits_without_samples_of_a_class_are_told(facts: CardFacts) -> None:
    val: SplitFacts = replace(facts.splits[1], class_counts=(5, 0, 0))
    text = Page(make_card(replace(facts, splits=(facts.splits[0], val)))).text
    assert "2 classes without a sample in val" in text
