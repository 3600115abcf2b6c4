from __future__ import annotations

import pytest

from engine_runs import prepare_by
from tiny_data import tree


@pytest.fixture(scope="session")
def by_one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tree of an undisturbed preparation in one process."""
    out = tmp_path_factory.mktemp("one") / "set"
    ended = prepare_by(out, "engine.workers=1")
    assert ended.returncode == 0, ended.stderr
    return tree(out)
