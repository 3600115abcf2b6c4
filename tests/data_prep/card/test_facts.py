"""The card's numbers against an independent count of the same data sets."""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from card_sets import encoded_image, facts_of, write_set
from PIL import Image

from data_prep.card.facts import CardFacts
from data_prep.card.samples import PickedIds, thumbnail
from data_prep.card.sizes import SizeHistogram
from pipeline.shards.errors import DamageError
from pipeline.shards.manifest import DataSet
from pipeline.shards.record import PackedLayout
from tiny_data import random_pixels

LAYOUT = PackedLayout(height=4, width=6, channels=3)
CLASSES = ["ant", "bee", "cat", "dog", "never"]
REJECTED = [
    *({"split": "train", "source_key": f"big/{k}", "reason": f"{k}x{k} pixels is over 9"} for k in range(60)),
    {"split": "val", "source_key": "odd", "reason": "empty file"},
    {"split": "val", "source_key": "odd too", "reason": "empty file"},
]


def pixels_of(number: int) -> np.ndarray:
    return random_pixels(number, height=4, width=6)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """100 + 30 samples; val holds train's first ten images, five of them under other labels."""
    train = [(pixels_of(k), k % 4, f"train/{k}.png") for k in range(100)]
    train[50] = (pixels_of(49), 49 % 4, "train/50.png")
    val = [(pixels_of(k if k < 10 else 1000 + k), (k + (k < 5)) % 4, f"val/{k}.png") for k in range(30)]
    return write_set(
        tmp_path_factory.mktemp("set") / "packed",
        {"train": [train[:33], train[33:34], train[34:]], "val": [val]},
        classes=CLASSES,
        packed=LAYOUT,
        rejected=REJECTED,
        statistics={"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]},
        provenance={"seed": 3, "source": {"kind": "folder", "root": "pets", "val_frac": 0.1}, "odd": [1, None]},
    )


@pytest.fixture(scope="module")
def multilabel(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Files of different sizes with 0 to 4 labels; the shards' sidecars have label columns of different widths."""
    samples = []
    for k in range(40):
        pixels = random_pixels(k, height=20 + k, width=30 + 3 * k)
        labels = [label for label in range(4) if k >> label & 1] if k < 20 else [k % 4]
        samples.append((encoded_image(pixels, extension="jpg"), labels, f"{k}.jpg"))
    samples[39] = (samples[15][0], samples[14][1], "again.jpg")
    splits = {"train": [samples[:20], samples[20:30]], "val": [samples[30:]]}
    return write_set(tmp_path_factory.mktemp("set") / "multilabel", splits, classes=CLASSES)


@pytest.fixture(scope="module")
def facts(packed: DataSet) -> CardFacts:
    return facts_of(packed)


def test_counts_are_those_of_an_independent_count(facts: CardFacts, packed: DataSet) -> None:
    train, val = facts.splits
    labels = [k % 4 for k in range(100)]
    labels[50] = 49 % 4
    assert train.class_counts == tuple(labels.count(label) for label in range(5))
    assert val.class_counts == tuple([(k + (k < 5)) % 4 for k in range(30)].count(label) for label in range(5))
    assert (train.num_samples, val.num_samples, facts.num_samples) == (100, 30, 130)
    assert (train.num_shards, val.num_shards) == (3, 1)
    assert train.label_counts == (0, 100)
    assert facts.size_bytes == sum(path.stat().st_size for path in packed.root.rglob("*.tar"))
    assert (facts.mean, facts.std, facts.channels) == ((1, 2, 3), (4, 5, 6), ("red", "green", "blue"))


def test_duplicates_are_those_that_were_planted(facts: CardFacts) -> None:
    found = facts.duplicates
    assert found.num_groups == 11
    assert found.copies == (("train", 1), ("val", 0))
    assert found.shared == (("val", "train", 10),)
    assert found.num_conflicting == 5
    leaked = [[(member.split, member.id) for member in group.members] for group in found.examples]
    assert leaked == [*([("train", k), ("val", k)] for k in range(10)), [("train", 49), ("train", 50)]]
    first = found.examples[0]
    assert (first.num_members, first.members[1].source_key, first.members[1].labels) == (2, "val/0.png", (1,))
    assert first.members[0].picture is not None


def test_rejected_items_are_counted_by_reason(facts: CardFacts) -> None:
    assert facts.rejected.num_items == 62
    assert facts.rejected.reasons == (("…x… pixels is over …", 60), ("empty file", 2))
    assert [item.source_key for item in facts.rejected.examples] == [f"big/{k}" for k in range(50)]


def test_provenance_is_flat_text(facts: CardFacts) -> None:
    assert facts.provenance == (
        ("seed", "3"),
        ("source.kind", "folder"),
        ("source.root", "pets"),
        ("source.val_frac", "0.1"),
        ("odd", "[1, null]"),
    )


def test_samples_show_their_own_pixels(facts: CardFacts) -> None:
    assert {sample.split for sample in facts.samples} == {"train", "val"}
    assert len({(sample.split, sample.id) for sample in facts.samples}) == len(facts.samples)
    for sample in facts.samples:
        assert sample.picture is not None
        number = sample.id if sample.split == "train" or sample.id < 10 else 1000 + sample.id
        shown = np.asarray(Image.open(io.BytesIO(sample.picture.content)))
        assert (shown == pixels_of(49 if (sample.split, number) == ("train", 50) else number)).all()
        assert sample.source_key == f"{sample.split}/{sample.id}.png"
    per_class = Counter(sample.labels for sample in facts.samples if sample.split == "train")
    assert per_class == {(label,): 12 for label in range(4)}


def test_several_labels_are_counted_each(multilabel: DataSet) -> None:
    facts = facts_of(multilabel)
    given = [[label for label in range(4) if k >> label & 1] if k < 20 else [k % 4] for k in range(30)]
    assert facts.splits[0].class_counts == tuple(sum(label in labels for labels in given) for label in range(5))
    assert facts.splits[0].label_counts == tuple(sum(len(labels) == k for labels in given) for k in range(5))
    assert facts.duplicates.shared == (("val", "train", 1),)
    assert facts.duplicates.num_conflicting == 1
    assert {len(sample.labels) for sample in facts.samples} >= {0, 1, 2}


def test_sizes_are_those_of_the_stored_files(multilabel: DataSet) -> None:
    sizes = SizeHistogram()
    for k in range(40):
        k = 15 if k == 39 else k
        sizes.add(30 + 3 * k, 20 + k)
    assert facts_of(multilabel).sizes_after.to_plain() == sizes.to_plain()


def test_sizes_before_are_those_of_dataset_json(packed: DataSet, tmp_path: Path) -> None:
    sizes = SizeHistogram()
    sizes.add(500, 375)
    samples = [(pixels_of(0), 0, "a")]
    data_set = write_set(tmp_path, {"train": [samples]}, classes=["a"], packed=LAYOUT, source_sizes=sizes)
    assert facts_of(data_set).sizes_before == sizes
    assert facts_of(packed).sizes_before is None


def test_facts_are_the_same_when_gathered_again(packed: DataSet, facts: CardFacts) -> None:
    assert facts_of(packed) == facts
    assert dataclasses.is_dataclass(facts)


def test_no_split_is_needed_but_one(tmp_path: Path) -> None:
    data_set = write_set(tmp_path, {"all": [[(pixels_of(0), 0, "a")]]}, classes=["a"], packed=LAYOUT)
    facts = facts_of(data_set)
    assert (facts.duplicates.shared, facts.duplicates.num_groups) == ((), 0)
    assert (facts.mean, facts.channels, facts.command) == ((), (), None)


def test_a_damaged_list_of_rejected_items_is_named(tmp_path: Path) -> None:
    data_set = write_set(tmp_path, {"all": [[(pixels_of(0), 0, "a")]]}, classes=["a"], packed=LAYOUT)
    for content in ("{", "[]\n", json.dumps({"split": "all"}) + "\n"):
        (tmp_path / "rejected.jsonl").write_text(content)
        with pytest.raises(DamageError, match=r"rejected\.jsonl"):
            facts_of(data_set)
    (tmp_path / "rejected.jsonl").unlink()
    with pytest.raises(DamageError, match=r"rejected\.jsonl: missing"):
        facts_of(data_set)


def test_any_cut_into_shards_picks_the_same_samples() -> None:
    groups = np.random.default_rng(0).integers(0, 5, size=500)
    whole = PickedIds(key=7, num_each=6)
    whole.add(groups=groups, first_id=0)
    for length in (1, 7, 499):
        cut = PickedIds(key=7, num_each=6)
        for start in range(0, 500, length):
            cut.add(groups=groups[start : start + length], first_id=start)
        assert cut.ids() == whole.ids()
    assert Counter(groups[whole.ids()].tolist()) == dict.fromkeys(range(5), 6)


def test_what_cannot_be_decoded_has_no_picture() -> None:
    whole = encoded_image(random_pixels(0, height=300, width=200), extension="jpg")
    shown = thumbnail(whole, packed=None)
    assert shown is not None
    assert (shown.width, shown.height, shown.kind) == (107, 160, "jpeg")
    assert thumbnail(whole[:900], packed=None) is None
    assert thumbnail(b"GIF89a nothing", packed=None) is None
    assert thumbnail(b"", packed=None) is None
