"""Hung ranks: who is to blame, and that a frozen one is named and the run starts again by itself."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from forked import DEADLINE_S, exit_codes, fork_ranks, wait_long
from pipeline.shards.manifest import DataSet
from pipeline.training.checkpoint import stored_checkpoints
from pipeline.training.watchdog import EXIT_HUNG, Sign, behind_ranks, blame, lost_ranks
from runs import SMALL, assert_equal_weights
from test_stop import ranks_in, start_launcher

OPTIONS = [*SMALL, "trainer.max_epochs=120", "checkpoint.keep=1000"]


def sign(marks: int, pulses: int, doing: str = "in step 7") -> Sign:
    return Sign(marks=marks, pulses=pulses, doing=doing)


def test_a_rank_without_a_pulse_is_lost_and_the_one_with_the_fewest_marks_is_behind() -> None:
    before = [sign(9, 1), sign(9, 4), sign(8, 2), None, None]
    after = [sign(9, 3), sign(9, 4), sign(8, 3), None, sign(1, 1)]
    assert lost_ranks(before, after) == [1, 3]
    assert behind_ranks(after, [1, 3, 4]) == [2]
    assert "no answer from rank 1, 3 (frozen, dead, or cut off; last seen in step 7)" in blame(after, [1, 3])


def test_the_rank_that_the_others_wait_for_is_named_with_what_it_does() -> None:
    signs = [sign(9, 1, "in the backward pass of step 8"), sign(7, 1, "waiting for data after step 7")] * 2
    assert blame(signs, []) == "waiting for rank 1, 3, waiting for data after step 7"


def test_where_all_are_equally_far_the_network_is_suspected() -> None:
    assert blame([sign(9, 1), sign(9, 1)], []).startswith("no rank is behind, all are in step 7")


def test_a_lone_rank_is_behind_by_itself() -> None:
    assert (
        blame([sign(9, 1, "waiting for data after step 7")], []) == "waiting for rank 0, waiting for data after step 7"
    )


@pytest.mark.slow
def test_a_frozen_rank_is_named_and_the_run_starts_again_and_ends_bit_equal(synthetic: DataSet, tmp_path: Path) -> None:
    """SIGSTOP: the process is there, its connections are open, it does nothing."""
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    options = [f"data.path={synthetic.root}", *OPTIONS]
    process = start_launcher(tmp_path, *options, "run_dir=run", "trainer.hang_s=6", restarts=2)
    wait_long(lambda: len(stored_checkpoints(run_dir / "checkpoints")) > 1, what="two epochs")
    frozen = ranks_in(tmp_path)[1]
    os.kill(frozen, signal.SIGSTOP)
    # The launcher asks the frozen rank to end, and kills it 30 s later; the test does it as soon as rank 0 has gone.
    wait_long(lambda: 0 not in ranks_in(tmp_path), what="the end of the rank that waits")
    os.kill(frozen, signal.SIGKILL)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    said = [line for line in output.splitlines() if line.startswith("error:")]
    assert any("no progress for 6 s: no answer from rank 1 (frozen, dead, or cut off" in line for line in said), said
    assert "going on with run after step" in output
    assert exit_codes(fork_ranks(2, tmp_path / "log", *options, f"run_dir={whole}")) == [0, 0]
    assert_equal_weights(whole, run_dir)


@pytest.mark.slow
def test_asked_to_end_while_it_waits_for_a_frozen_rank_a_rank_ends(synthetic: DataSet, tmp_path: Path) -> None:
    """Long before the deadline: what torchrun kills after 30 s, it need not."""
    log = tmp_path / "log"
    waiting, frozen = one_waits_for_the_other(synthetic, log)
    waiting.terminate()
    waiting.join(DEADLINE_S)
    assert waiting.exitcode == 128 + signal.SIGTERM
    assert "error: told to end, which another rank hinders: no answer from rank 1" in log.read_text()
    frozen.kill()
    frozen.join()


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_ends_a_rank_that_waits_in_a_collective(
    synthetic: DataSet, tmp_path: Path, second: int
) -> None:
    """Where no handler of Python's is run. SIGTERM is what torchrun sends at its own second Ctrl-C."""
    waiting, frozen = one_waits_for_the_other(synthetic, tmp_path / "log", "trainer.hang_s=null")
    assert waiting.pid is not None
    for number in (signal.SIGINT, second):
        os.kill(waiting.pid, number)
        time.sleep(0.2)  # two signals at once are one
    waiting.join(DEADLINE_S)
    assert waiting.exitcode in (128 + signal.SIGINT, -signal.SIGINT)
    frozen.kill()
    frozen.join()


def one_waits_for_the_other(data: DataSet, log: Path, *options: str) -> list[BaseProcess]:
    """Start two ranks and freeze the second, so that the first waits for it inside an exchange of gradients."""
    run_dir = log.with_name("run")
    ranks = fork_ranks(2, log, f"data.path={data.root}", f"run_dir={run_dir}", *OPTIONS, *options)
    wait_long(lambda: len(stored_checkpoints(run_dir / "checkpoints")) > 1, what="two epochs")
    assert ranks[1].pid is not None
    os.kill(ranks[1].pid, signal.SIGSTOP)
    time.sleep(0.5)
    return ranks


@pytest.mark.slow
def test_a_rank_stuck_in_its_own_code_is_named_with_what_it_does(synthetic: DataSet, tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"
    options = [f"data.path={synthetic.root}", f"run_dir={run_dir}", *OPTIONS, "trainer.hang_s=5"]
    ranks = fork_ranks(2, log, *options, stuck=(1, 20))
    codes = exit_codes(ranks)
    assert EXIT_HUNG in codes
    assert set(codes) <= {EXIT_HUNG, 1}
    assert "error: no progress for 5 s: waiting for rank 1, in the forward pass of step 21" in log.read_text()
