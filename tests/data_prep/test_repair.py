"""Damage of every kind, then `repair`: the data set's bytes are those of an undisturbed preparation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.repair import main
from data_prep.verify import main as verify
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import seal
from tiny_data import prepare_pictures, random_pixels, run_module, save_pixels, tree, write_pictures

OPTIONS = ("layout.shard_bytes=15000", "layout.resolution=8", "max_rejected=1")


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "pets"
    write_pictures(folder, num_each=14)
    (folder / "cat" / "003.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def whole(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "set"
    prepare_pictures(pets, out, *OPTIONS)
    return out


def flip(name: str, place: float) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        content = bytearray((root / name).read_bytes())
        content[int(place * (len(content) - 1))] ^= 4
        (root / name).write_bytes(content)

    return damage


def cut(root: Path) -> None:
    path = root / "train" / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:-2048])


def swap(root: Path) -> None:
    first, second = root / "train" / "shard-000000.tar", root / "train" / "shard-000001.tar"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def swap_sidecars(root: Path) -> None:
    first, second = root / "train" / "shard-000000.idx.npy", root / "train" / "shard-000001.idx.npy"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def edit_manifest(root: Path) -> None:
    path = root / "train" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["shardlist"].pop()
    path.write_text(json.dumps(manifest))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "first byte of a shard": flip("train/shard-000000.tar", 0),
    "middle of a shard": flip("train/shard-000000.tar", 0.5),
    "last byte of a shard": flip("val/shard-000000.tar", 1),
    "sidecar": flip("train/shard-000001.idx.npy", 0.9),
    "dataset.json": flip("dataset.json", 0.5),
    "seal": flip("dataset.json", 0.99),
    "manifest": flip("val/manifest.json", 0.3),
    "manifest edited by hand": edit_manifest,
    "shard cut short": cut,
    "shard missing": lambda root: (root / "train" / "shard-000000.tar").unlink(),
    "sidecar missing": lambda root: (root / "val" / "shard-000000.idx.npy").unlink(),
    "manifest missing": lambda root: (root / "train" / "manifest.json").unlink(),
    "shards swapped": swap,
    "sidecars swapped": swap_sidecars,
    "one shard too many": lambda root: (
        shutil.copy(root / "val" / "shard-000000.tar", root / "val" / "shard-000077.tar") and None
    ),
    "rejected.jsonl": flip("rejected.jsonl", 0.5),
    "card": flip("card.html", 0.5),
    "plan": flip("plan/train.parquet", 0.5),
    "ledger": flip("plan/receipts.jsonl", 0.5),
    "checksums of images": flip("plan/train-shard-000001.crc32", 0.5),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_verify_finds_repair_mends_to_the_same_bytes(
    tmp_path: Path, whole: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    shutil.copytree(whole, root)
    DAMAGE[kind](root)
    assert verify([f"path={root}"]) == 1
    assert "data_prep.repair" in capsys.readouterr().out
    untouched = (root / "train" / "shard-000002.tar").stat().st_mtime_ns
    assert main([f"path={root}", "engine.workers=1"]) == 0
    # Without its ledger nothing says which shards are sound.
    assert kind == "ledger" or untouched == (root / "train" / "shard-000002.tar").stat().st_mtime_ns
    assert tree(root) == tree(whole)
    assert verify([f"path={root}"]) == 0


@pytest.mark.parametrize("name", ["receipts.jsonl", "plan.json", "train.parquet"])
def test_a_damaged_or_missing_plan_is_made_again(tmp_path: Path, whole: Path, name: str) -> None:
    root = tmp_path / "set"
    for damage in (flip(f"plan/{name}", 0.5), lambda root: (root / "plan" / name).unlink()):
        shutil.copytree(whole, root)
        damage(root)
        flip("train/shard-000000.tar", 0.5)(root)
        assert main([f"path={root}", "engine.workers=1"]) == 0
        assert tree(root) == tree(whole)
        shutil.rmtree(root)


def test_nothing_changes_where_the_source_is_gone_or_another(tmp_path: Path, whole: Path, pets: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(whole, root)
    flip("train/shard-000000.tar", 0.5)(root)
    before = tree(root)
    with pytest.raises(UserError, match="no such folder"):
        main([f"path={root}", f"root={tmp_path / 'nowhere'}"])
    other = tmp_path / "pets"
    shutil.copytree(pets, other)
    save_pixels(other / "cat" / "000.png", random_pixels(5, height=20, width=20))
    with pytest.raises(UserError, match="is not what it was"):
        main([f"path={root}", f"root={other}"])
    assert tree(root) == before


def test_a_source_that_moved_is_named_and_the_provenance_stays(tmp_path: Path, whole: Path, pets: Path) -> None:
    root, moved = tmp_path / "set", tmp_path / "pets"
    shutil.copytree(whole, root)
    shutil.copytree(pets, moved)
    flip("train/shard-000000.tar", 0.5)(root)
    assert main([f"path={root}", f"root={moved}"]) == 0
    assert tree(root) == tree(whole)


def test_without_plan_and_seal_there_is_nothing_to_go_by(tmp_path: Path, whole: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(whole, root)
    (root / "plan" / "plan.json").unlink()
    content = json.loads((root / "dataset.json").read_bytes())
    (root / "dataset.json").write_bytes(seal(content)[:-100])
    with pytest.raises(UserError, match="prepare it again"):
        main([f"path={root}"])


@pytest.mark.slow
def test_the_command_as_it_is_typed(tmp_path: Path, whole: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(whole, root)
    flip("train/shard-000000.tar", 0.5)(root)
    found = run_module("data_prep.verify", f"path={root}")
    assert (found.returncode, found.stdout.splitlines()[-1]) == (
        1,
        f"{root}: 1 fault; to mend: python -m data_prep.repair path={root}",
    )
    ended = run_module("data_prep.repair", f"path={root}")
    assert (ended.returncode, ended.stdout) == (0, f"{root}: 1 shard rebuilt; whole\n")
    assert run_module("data_prep.repair", f"path={tmp_path}").returncode == 2
