"""Golden bytes. Who relies on them: readers outside this repository (docs/FORMAT.md), preparations that go on after an
update of this code, and runs that are resumed on a data set made again. A change here is a change of the format.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline.shards.keyed import make_key, random_bits
from pipeline.shards.permutation import permute
from pipeline.shards.record import PackedLayout
from regression_data import write_regression_set
from tiny_data import prepare_here, write_packed_set

KEY = 0x2B0949E7073B5707
BITS = [16590434883472601732, 14355215682979449643, 8871846971802956069]
PERMUTATION = [10, 11, 9, 5, 6, 7, 1, 3, 0, 4, 8, 2]
WRITTEN = {
    3: {
        "dataset.json": "2a20b580e3355c1e450cbf7c858fd4c5eeb98ec86f22d5cc411b3f5119fb395c",
        "rejected.jsonl": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "train/manifest.json": "5093a378bb2af7684c02c26686a1f3fcfce99c77e864fb533f02b9d482d2ea9b",
        "train/shard-000000.idx.npy": "83b2d81d9ece798249136b245dc638546ccbc96976299c9f52baf1c3163dd55a",
        "train/shard-000000.tar": "a5d1882610967aaead9eddc3dc4e4300aa276bc1e10d2a2f0f3b50ccb96cd908",
    },
    1: {
        "dataset.json": "56245320c90be4fd81c63f311c6d1ef2829f7adfa4394633159b8bec9d7c035d",
        "rejected.jsonl": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "train/manifest.json": "fa64729ef88c1fce0ffd0d0a466b35903fba753c1634cb4408aaf5e45f15a8bb",
        "train/shard-000000.idx.npy": "984c69947c3adc19354c70864bfc9ddd4016e03a60c4af7a0788e32303e8ac62",
        "train/shard-000000.tar": "d8ee7d071eacfa0a1b0d07ba644470e43c84b8775d16b94a942ca9a364c9eedd",
    },
}
# Two samples of a regression, of two targets each.
WITH_TARGETS = {
    "train/shard-000000.idx.npy": "52afe71504f5a649890673b58d8b257f5c6a3d59ced76aa4e12e47bb1fb8d9a1",
    "train/shard-000000.tar": "e07d7353496cef325a2ce2b79eb04d382e1f4e11e8fd806b091f34233bbab04a",
}
# The whole way from a source through the plan; dataset.json is left out, as it names the versions of packages.
PREPARED = {
    "train/manifest.json": "dea324953b4a2a4c4841e14037185617625ab35b91e4d7ab5178feff4eccd757",
    "train/shard-000000.tar": "715a3ef4bbf0c9d55e435988159df9a9e3de2e1d50e340c2577d6cb9bdc07b08",
    "train/shard-000001.tar": "ee1a2958caaaba838ebb5b508379b35cfdd94d8b3137d266542b85b2223a0aa6",
    "val/manifest.json": "6c4b2e945c82ae658986b8bc559930745da3d624aa380c469921bbd09e65541e",
    "val/shard-000000.tar": "fe526ffe13a7e1890090a93cc14e90f493bb27915ffdcb9fbc20389cf179fe78",
}


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("channels", [3, 1])
def test_the_writers_write_the_same_bytes_for_ever(tmp_path: Path, channels: int) -> None:
    layout = PackedLayout(height=2, width=3, channels=channels)
    write_packed_set(tmp_path / "set", shard_sizes={"train": [2]}, layout=layout)
    assert digests(tmp_path / "set") == WRITTEN[channels]


def test_targets_are_written_as_the_same_bytes_for_ever(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1)
    targets = np.array([[0.25, -1.5], [1e-3, 3e8]], dtype=np.float32)
    write_regression_set(tmp_path / "set", {"train": (pixels, targets)})
    found = digests(tmp_path / "set")
    assert {name: found[name] for name in WITH_TARGETS} == WITH_TARGETS


def test_a_preparation_writes_the_same_bytes_for_ever(tmp_path: Path) -> None:
    options = ("source=synthetic", "source.samples=6", "source.val_samples=2", "seed=5")
    prepare_here(tmp_path / "set", *options, "layout.resolution=4", "layout.shard_bytes=8000")
    found = digests(tmp_path / "set")
    assert {name: found[name] for name in PREPARED} == PREPARED


def test_keyed_numbers_are_the_same_for_ever() -> None:
    key = make_key("plan", 7, "train")
    assert key == KEY
    assert random_bits(key, np.arange(3)).tolist() == BITS
    assert permute(key, np.arange(12), length=12).tolist() == PERMUTATION
