"""The card that preparation itself leaves, and what it leaves for later ones."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from card_sets import Elsewhere, facts_of, stored_set

from data_prep.card.__main__ import main
from data_prep.card.gather import gather_facts
from data_prep.card.page import make_card, sealed
from data_prep.card.stored_set import CRCS_SUFFIX
from pipeline.shards.manifest import DataSet, read_data_set
from tiny_data import prepare_pictures, random_pixels, rows_of, save_pixels, stored_image, tree, write_pictures


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three classes in train and val; val holds one of train's, and one file is no picture."""
    root = tmp_path_factory.mktemp("pets")
    write_pictures(root / "train", num_each=9, size=20)
    write_pictures(root / "val", num_each=2, size=30)
    save_pixels(root / "train" / "cat" / "wide.png", random_pixels(77, height=50, width=300))
    (root / "val" / "dog" / "again.png").write_bytes((root / "train" / "dog" / "003.png").read_bytes())
    (root / "train" / "owl" / "bad.png").write_bytes(b"no picture")
    return root


@pytest.fixture(params=["packed", "encoded"])
def data_set(request: pytest.FixtureRequest, pets: Path, tmp_path: Path) -> DataSet:
    options = ("layout.resolution=16", "layout.shard_bytes=30000", "max_rejected=1")
    return prepare_pictures(pets, tmp_path / "set", f"layout={request.param}", *options)


def test_preparation_leaves_a_card_with_the_facts(data_set: DataSet) -> None:
    card, facts = (data_set.root / "card.html").read_text(), facts_of(data_set)
    assert card == sealed(make_card(facts).encode()).decode()
    assert facts.sizes_before is not None
    assert facts.sizes_before.num_images == facts.num_samples == 28 + 7
    assert (facts.sizes_before.widths, facts.sizes_before.heights) == ((20, 300), (20, 50))
    assert facts.duplicates is not None
    assert facts.duplicates.shared == (("val", "train", 1),)
    assert [item.source_key for item in facts.rejected.examples] == ["train/owl/bad.png"]
    assert facts.command is not None
    assert "layout.resolution=16" in facts.command


def test_preparation_leaves_the_checksums_of_images(data_set: DataSet) -> None:
    stored = stored_set(data_set)
    left = [stored.content_crcs(shard) for shard in stored.shards()]
    assert len(left) > len(data_set.splits)
    assert all(crcs is not None for crcs in left)
    wanted = [zlib.crc32(stored_image(*row)) for split in data_set.splits for row in rows_of(data_set, split)]
    assert np.concatenate(left).tolist() == wanted


def test_a_card_made_again_has_the_same_bytes_with_or_without_the_plan(data_set: DataSet) -> None:
    before = tree(data_set.root)
    assert main([f"path={data_set.root}"]) == 0
    assert tree(data_set.root) == before
    for path in (data_set.root / "plan").glob(f"*{CRCS_SUFFIX}"):
        path.unlink()
    (data_set.root / "card.html").unlink()
    assert main([f"path={data_set.root}"]) == 0
    assert (data_set.root / "card.html").read_bytes() == before["card.html"]


def test_a_changed_source_leaves_no_checksums_of_the_old_one(pets: Path, tmp_path: Path) -> None:
    options = ("layout.resolution=16", "layout.shard_bytes=4000", "source.val_frac=0")
    first, second = tmp_path / "first", tmp_path / "second"
    for root, num_each in ((first, 9), (second, 2)):
        write_pictures(root, num_each=num_each, size=20)
    set_of_first = prepare_pictures(first, tmp_path / "set", *options)
    (set_of_first.root / "dataset.json").unlink()
    for path in sorted(first.rglob("00[2-8].png")):
        path.unlink()
    prepare_pictures(first, tmp_path / "set", *options)
    prepare_pictures(second, tmp_path / "fresh", *options)
    names = [sorted(path.name for path in (tmp_path / name / "plan").iterdir()) for name in ("set", "fresh")]
    assert names[0] == names[1]


def test_a_data_set_behind_a_server_has_the_same_card(data_set: DataSet, tmp_path: Path) -> None:
    """As data_prep/view.py has it: a folder with the small files alone, and a store for the others."""
    view = tmp_path / "view"
    for name, content in tree(data_set.root).items():
        if name.endswith((".json", ".jsonl")) and not name.startswith("plan/"):
            (view / name).parent.mkdir(parents=True, exist_ok=True)
            (view / name).write_bytes(content)
    facts = gather_facts(read_data_set(view), store=Elsewhere(data_set.root))
    assert sealed(make_card(facts).encode()) == (data_set.root / "card.html").read_bytes()
