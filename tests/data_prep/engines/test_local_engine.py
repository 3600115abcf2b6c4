from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.engines import local
from data_prep.engines.local import run_local
from engine_runs import killed_at, last_line, prepare_by, times_built
from tiny_data import tree


@pytest.mark.slow
def test_two_processes_make_the_same_bytes_as_one(tmp_path: Path, by_one_process: dict[str, bytes]) -> None:
    assert prepare_by(tmp_path / "set", "engine.workers=2").returncode == 0
    assert tree(tmp_path / "set") == by_one_process


@pytest.mark.slow
def test_a_shard_lost_with_a_killed_worker_is_built_again(tmp_path: Path, by_one_process: dict[str, bytes]) -> None:
    environment = killed_at(tmp_path / "kill", "train-3", "once")
    ended = prepare_by(tmp_path / "set", "engine.workers=2", environment=environment)
    assert ended.returncode == 0, ended.stderr
    assert "a worker process was killed (out of memory?); going on with 1 worker" in ended.stderr
    assert "prepared 800 of 800 images" in ended.stderr  # what was lost is counted once
    assert tree(tmp_path / "set") == by_one_process


@pytest.mark.slow
def test_a_shard_that_kills_every_worker_is_named_after_all_others_are_finished(
    tmp_path: Path, by_one_process: dict[str, bytes]
) -> None:
    environment = killed_at(tmp_path / "kill", "train-0", "always")
    ended = prepare_by(tmp_path / "set", "engine.workers=4", environment=environment)
    assert ended.returncode == 2
    assert last_line(ended).startswith("error: a worker process was killed (out of memory?) each time")
    assert "that it built shard train 0, also when it was alone" in last_line(ended)
    assert times_built(tmp_path / "kill", "train-0") == 3
    found = tree(tmp_path / "set")
    shards = {name for name in by_one_process if name.endswith(".tar")}
    assert {name for name in found if name.endswith(".tar")} == shards - {"train/shard-000000.tar"}
    assert not [name for name in found if name.endswith(".part")]
    assert prepare_by(tmp_path / "set", "engine.workers=2").returncode == 0
    assert tree(tmp_path / "set") == by_one_process


def test_tasks_are_taken_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million shards cost no memory: no more tasks are taken than results were asked for."""
    taken = 0

    def endless() -> Iterator[Any]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield number

    monkeypatch.setattr(local, "build_shard", lambda task, report: {"of": task})
    found = run_local(endless(), workers=1, on_progress=lambda items, num_bytes: None)
    assert [receipt for _, receipt in itertools.islice(found, 5)] == [{"of": number} for number in range(5)]
    assert taken == 5
