from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.shards.publish import publish, publish_into, publish_json, remove_part_files
from pipeline.shards.writer import ShardWriter


class Broken(Exception):
    pass


def test_nothing_is_under_the_name_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with publish(path) as stream:
        stream.write(b"1" * 100_000)
        assert not path.exists()
    assert path.read_bytes() == b"1" * 100_000
    assert [found.name for found in tmp_path.iterdir()] == ["a.bin"]


def test_an_exception_leaves_what_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="closed"), publish(path) as stream:
        stream.close()
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.bin"]


def test_a_shard_left_by_an_exception_is_not_there_nor_is_its_sidecar(tmp_path: Path) -> None:
    with pytest.raises(Broken), ShardWriter(publish_into(tmp_path), number=3) as writer:
        raise Broken
    assert list(tmp_path.iterdir()) == []
    assert writer.entry is None


def test_part_files_of_killed_writers_are_removed_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in (".dataset.json.part", "train/.shard-000000.tar.part", "train/shard-000000.tar", "part", "a.part"):
        (tmp_path / name).write_bytes(b"")
    remove_part_files(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["a.part", "part", "train/shard-000000.tar"]


def test_json_that_no_other_reader_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        publish_json(tmp_path / "a.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []
