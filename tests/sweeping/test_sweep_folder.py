"""A sweep's folder: runs keep their numbers, and nobody else works there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.shards.errors import UserError
from pipeline.sweeping.folder import SWEEP_FILE, default_folder, open_sweep

A, B, C = ({"seed": seed, "model": {"kind": "Mlp"}} for seed in range(3))


def numbers(folder: Path, *identities: dict[str, Any]) -> list[int]:
    options = [{"seed": str(identity["seed"])} for identity in identities]
    with open_sweep(folder, identities, options=options) as sweep:
        assert [run.options for run in sweep.runs] == options
        assert [run.folder.name for run in sweep.runs] == [f"{run.number:04d}" for run in sweep.runs]
        return [run.number for run in sweep.runs]


def test_a_run_keeps_its_number_whatever_is_added_or_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "sweep"
    assert numbers(folder, A, B) == [0, 1]
    assert numbers(folder, C, B, A) == [2, 1, 0]
    assert numbers(folder, B) == [1]
    stored = json.loads((folder / SWEEP_FILE).read_text())
    assert [run["config"] for run in stored["runs"]] == [A, B, C]


def test_the_default_folder_goes_by_what_is_run() -> None:
    reordered = dict(reversed(list(A.items())))
    assert default_folder("sweep", [A, B]) == default_folder("sweep", [reordered, B])
    assert len({default_folder("sweep", runs) for runs in ([A, B], [B, A], [A], [A, C])}) == 4


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty and not a sweep"):
        numbers(tmp_path, A)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    folder = tmp_path / "sweep"
    numbers(folder, A)
    for content in ("{", "[]", '{"version": 9, "runs": []}', '{"version": 1, "runs": [{"number": 4}]}'):
        (folder / SWEEP_FILE).write_text(content)
        with pytest.raises(UserError, match="not what a sweep writes"):
            numbers(folder, A)


def test_while_a_sweep_or_one_of_its_runs_is_alive_no_other_gets_in(tmp_path: Path) -> None:
    """The lock goes with the descriptor that a run inherits, so it outlives the sweep itself."""
    with open_sweep(tmp_path / "sweep", [A], options=[{}]) as sweep:
        with pytest.raises(UserError, match="a sweep is at work there"):
            numbers(tmp_path / "sweep", A)
        run = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(sweep.lock,), env=dict(os.environ)
        )
    try:
        with pytest.raises(UserError, match="or runs of one that was killed"):
            numbers(tmp_path / "sweep", A)
    finally:
        run.communicate(b"\n")
    assert numbers(tmp_path / "sweep", A) == [0]
