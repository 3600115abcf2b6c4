"""The card of a regression: what it says of targets, against numpy, and no word of classes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from data_prep.card.facts import TargetFacts
from data_prep.card.gather import gather_facts
from data_prep.card.page import make_card
from data_prep.card.target_sums import TargetSums
from pipeline.storage import open_store
from regression_data import random_samples, write_regression_set


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_sums_over_shards_give_what_numpy_gives_of_all(mean: float) -> None:
    values = (np.random.default_rng(0).normal(size=(70, 3)) * [0.01, 1, 30] + mean).astype(np.float32)
    sums = TargetSums(3)
    for part in np.split(values, [1, 30, 31]):
        sums.add(part)
    exact = values.astype(np.float64)
    for number, found in enumerate(sums.facts()):
        column = exact[:, number]
        assert (found.least, found.most) == (column.min(), column.max())
        assert found.mean == pytest.approx(column.mean(), rel=1e-12)
        assert found.std == pytest.approx(column.std(), rel=1e-9)


def test_the_card_tells_targets_and_no_classes(tmp_path: Path) -> None:
    samples = random_samples({"train": 45, "val": 7})
    pixels, targets = samples["train"]
    pixels[44], targets[44] = pixels[0], targets[0] + 1  # an image with two answers
    data = write_regression_set(tmp_path / "plane", samples)
    facts = gather_facts(data, store=open_store(str(data.root)))
    assert [split.targets for split in facts.splits] == [
        tuple(
            TargetFacts(
                least=column.min(),
                mean=pytest.approx(column.mean()),
                std=pytest.approx(column.std()),
                most=column.max(),
            )
            for column in samples[name][1].astype(np.float64).T
        )
        for name in ("train", "val")
    ]
    shown = [sample for sample in facts.samples if sample.split == "val"]
    assert shown
    assert all(sample.targets == tuple(samples["val"][1][sample.id].tolist()) for sample in shown)
    text = re.sub(r"<[^>]+>", " ", make_card(facts).partition("<body>")[2])
    assert "45 train and 7 val images, 2 targets each" in text
    assert "1 group of equal images with different targets" in text
    assert f"height-1 {samples['val'][1][0, 1]:.4g}" in text
    assert "Targets" in text
    assert not re.search(r"class", text, re.IGNORECASE)


def test_zero_and_minus_zero_are_one_target(tmp_path: Path) -> None:
    samples = random_samples({"train": 45})
    pixels, targets = samples["train"]
    pixels[44], targets[0], targets[44] = pixels[0], [0.0, 2.0], [-0.0, 2.0]
    data = write_regression_set(tmp_path / "plane", samples)
    duplicates = gather_facts(data, store=open_store(str(data.root))).duplicates
    assert duplicates is not None
    assert (duplicates.num_groups, duplicates.num_conflicting) == (1, 0)


def test_of_many_targets_four_are_told_with_a_picture(tmp_path: Path) -> None:
    data = write_regression_set(tmp_path / "plane", random_samples({"train": 5}, num_targets=6))
    page = make_card(gather_facts(data, store=open_store(str(data.root))))
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == 5
    assert all(re.fullmatch(r"(height-[0-3] [^ ]+,? ){4}and 2 more", caption) for caption in captions)
