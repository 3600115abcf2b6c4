"""SIGKILL at many moments, of one rank and of all: the run ends as if nothing had happened, to the last bit.

Ranks are killed after a random number of further checkpoints and a random few milliseconds, so in any part of a step
and of the write beside it, and sometimes while they start. No time decides: a slow machine sees fewer kills.
"""

from __future__ import annotations

import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from forked import end_ranks, exit_codes, fork_ranks
from pipeline.shards.manifest import DataSet
from pipeline.training.checkpoint import is_whole, load_checkpoint, stored_checkpoints
from runs import SMALL, assert_equal_weights, metric_rows, sample_ids

pytestmark = pytest.mark.slow

# 100 samples in batches of 12: 8 steps an epoch.
OPTIONS = [
    *SMALL,
    *("trainer.max_epochs=24", "checkpoint.every_steps=3", "checkpoint.keep_best=1", "checkpoint.metric=val/loss"),
    *("log_sample_ids=true", "trainer.log_every_steps=4", "model.dropout=0.1", "augment=flip_crop"),
]
LAST_STEP = 192
# Of each test, for its kills; at least so many are made whatever the machine.
KILLING_S, LEAST_KILLS, MOST_KILLS = 10.0, 3, 20


@pytest.mark.parametrize(("num_ranks", "killed"), [(1, "all"), (2, "all"), (2, "one")])
def test_killed_at_many_moments_the_run_ends_bit_equal(
    synthetic: DataSet, tmp_path: Path, num_ranks: int, killed: str
) -> None:
    whole, run_dir = tmp_path / "whole", tmp_path / "killed"
    assert exit_codes(start(num_ranks, synthetic, whole)) == [0] * num_ranks
    random = np.random.default_rng((num_ranks, len(killed)))
    began_s, kills, moments = time.monotonic(), 0, set()
    while kills < LEAST_KILLS or (kills < MOST_KILLS and time.monotonic() - began_s < KILLING_S):
        ranks = start(num_ranks, synthetic, run_dir)
        if kills % 5 == 4:
            time.sleep(random.uniform(0, 1))  # while it starts
        else:
            wait_for_checkpoints(ranks, run_dir, int(random.integers(1, 5)))
            time.sleep(random.uniform(0, 0.05))
        if killed == "one":
            ranks[int(random.integers(num_ranks))].kill()
        for rank in ranks if killed == "all" else []:
            rank.kill()
        end_ranks(ranks)
        kills += 1
        moments.add(check_what_is_left(run_dir))
    assert len(moments) >= LEAST_KILLS
    assert exit_codes(start(num_ranks, synthetic, run_dir)) == [0] * num_ranks, (tmp_path / "log").read_text()
    assert newest_step(run_dir) == LAST_STEP
    assert_equal_weights(whole, run_dir)
    for rank in range(num_ranks):
        assert sample_ids(run_dir, rank=rank) == sample_ids(whole, rank=rank)
    assert [row.get("val/loss") for row in metric_rows(run_dir)] == [row.get("val/loss") for row in metric_rows(whole)]
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == sorted(
        path.name for path in (whole / "checkpoints").iterdir()
    )


def start(num_ranks: int, data: DataSet, run_dir: Path) -> list[BaseProcess]:
    log = run_dir.parent / "log"
    return fork_ranks(num_ranks, log, f"data.path={data.root}", f"run_dir={run_dir}", *OPTIONS)


def newest_step(run_dir: Path) -> int:
    return max((step for step, _ in stored_checkpoints(run_dir / "checkpoints")), default=0)


def wait_for_checkpoints(ranks: list[BaseProcess], run_dir: Path, number: int) -> None:
    """Return when so many new steps have been saved, or a rank has ended."""
    seen, before = set(), newest_step(run_dir)
    while len(seen) < number and all(rank.is_alive() for rank in ranks):
        if newest_step(run_dir) != before:
            before = newest_step(run_dir)
            seen.add(before)
        time.sleep(0.001)


def check_what_is_left(run_dir: Path) -> int:
    """Assert that every checkpoint under its name is whole and loads; return the newest one's step."""
    for step, path in stored_checkpoints(run_dir / "checkpoints"):
        assert is_whole(path)
        assert load_checkpoint(path)["global_step"] == step
    return newest_step(run_dir)
