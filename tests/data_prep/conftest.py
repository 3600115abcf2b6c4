from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from web_shards import write_shards

from data_prep import shard_task
from data_prep.engines import local
from data_prep.shard_task import ShardTask
from tiny_data import write_pictures


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pets", num_each=8)
    return tmp_path / "pets"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are built from here on, by name."""
    names: list[str] = []

    def build(task: ShardTask, report: Callable[[int, int], None]) -> dict[str, Any]:
        names.append(f"{task.split}-{task.number}")
        return shard_task.build_shard(task, report)

    monkeypatch.setattr(local, "build_shard", build)
    return names


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path / "web", counts={"train": 10, "val": 3})
    return tmp_path / "web"
