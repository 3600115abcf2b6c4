"""Told to stop, by a signal to one rank, to all, or to the launcher: all ranks stop after one step, and save it."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from forked import DEADLINE_S, exit_codes, fork_ranks, wait_long
from pipeline.shards.manifest import DataSet
from pipeline.training.checkpoint import stored_checkpoints
from pipeline.training.stop import EXIT_STOPPED, Vote
from runs import SMALL, assert_equal_weights, sample_ids
from started import processes_in
from tiny_data import ROOT, command

# 100 samples in batches of 12: 8 steps an epoch. Signals come after the first epoch; none of the checkpoints falls
# on a step of its own but those that a stop makes.
OPTIONS = [*SMALL, "trainer.max_epochs=60", "log_sample_ids=true", "model.dropout=0.1", "checkpoint.keep=1000"]
LAST_STEP = 480
# Of a number of ranks, the folder of a run that nobody disturbed.
Undisturbed = Callable[[int], Path]


@pytest.fixture(scope="module")
def undisturbed(synthetic: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")

    @functools.cache
    def run(num_ranks: int) -> Path:
        run_dir, log = folder / f"{num_ranks}", folder / f"{num_ranks}.log"
        ranks = fork_ranks(num_ranks, log, f"data.path={synthetic.root}", f"run_dir={run_dir}", *OPTIONS)
        assert exit_codes(ranks) == [0] * num_ranks, log.read_text()
        return run_dir

    return run


def steps_of(run_dir: Path) -> list[int]:
    return sorted(step for step, _ in stored_checkpoints(run_dir / "checkpoints"))


def test_a_lone_rank_votes_for_itself() -> None:
    assert [Vote(None).take_part(step, flag) for step, flag in ((1, 0), (2, 15))] == [0, 15]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_ranks", "told", "number"),
    [
        (1, [0], signal.SIGTERM),
        (2, [0], signal.SIGUSR1),
        (2, [1], signal.SIGTERM),
        (2, [1], signal.SIGHUP),
        (2, [0, 1], signal.SIGINT),
    ],
)
def test_stopped_by_a_signal_and_gone_on_twice_the_run_ends_bit_equal(
    synthetic: DataSet, tmp_path: Path, undisturbed: Undisturbed, num_ranks: int, told: list[int], number: int
) -> None:
    whole, run_dir, log = undisturbed(num_ranks), tmp_path / "stopped", tmp_path / "log"
    options = [f"data.path={synthetic.root}", *OPTIONS]
    stops = []
    for _ in range(2):
        reached = max(steps_of(run_dir), default=0)
        ranks = fork_ranks(num_ranks, log, *options, f"run_dir={run_dir}")
        wait_long(lambda reached=reached: max(steps_of(run_dir), default=0) > reached + 8, what="an epoch")
        for rank in told:
            pid = ranks[rank].pid
            assert pid is not None
            os.kill(pid, number)
        assert exit_codes(ranks) == [EXIT_STOPPED] * num_ranks, log.read_text()
        stops.append(steps_of(run_dir)[-1])
        said = f"stopped by {signal.Signals(number).name} after step {stops[-1]}, saved; the same command goes on"
        assert log.read_text().count(said) == 1
        for rank in range(num_ranks):
            assert sample_ids(run_dir, rank=rank)[-1][0] == stops[-1], "no rank went further than the checkpoint"
    assert stops[0] < stops[1] < LAST_STEP
    assert exit_codes(fork_ranks(num_ranks, log, *options, f"run_dir={run_dir}")) == [0] * num_ranks
    assert_equal_weights(whole, run_dir)
    for rank in range(num_ranks):
        assert sample_ids(run_dir, rank=rank) == sample_ids(whole, rank=rank)


def start_launcher(folder: Path, *options: str, restarts: int = 0) -> subprocess.Popen[str]:
    """Start `python -m pipeline.launch pipeline.train` on two ranks with `folder` as its working folder."""
    return subprocess.Popen(
        command("pipeline.launch", "pipeline.train", *options),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NPROC": "2", "OMP_NUM_THREADS": "1", "RESTARTS": str(restarts)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ranks_in(folder: Path) -> dict[int, int]:
    """Return the process id of each rank whose working folder is `folder`."""
    found = {}
    for pid in processes_in(folder):
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        found |= {int(item[5:]): pid for item in variables if item.startswith(b"RANK=")}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_launcher_passes_a_signal_on_and_waits_until_it_is_saved(
    synthetic: DataSet, tmp_path: Path, number: int
) -> None:
    process = start_launcher(
        tmp_path, f"data.path={synthetic.root}", "run_dir=run", *OPTIONS, "trainer.max_epochs=100000"
    )
    wait_long(lambda: len(steps_of(tmp_path / "run")) > 1, what="two epochs")
    process.send_signal(number)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + number, output
    stop = steps_of(tmp_path / "run")[-1]
    assert f"stopped by {signal.Signals(number).name} after step {stop}, saved" in output
    assert not processes_in(tmp_path)


@pytest.mark.slow
def test_told_one_rank_alone_the_launcher_starts_all_again_and_they_go_on(
    synthetic: DataSet, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    """And with SIGKILL, and without a run_dir: the attempts share one folder, though each would take the next free."""
    options = [f"data.path={synthetic.root}", *OPTIONS]
    process = start_launcher(tmp_path, *options, restarts=2)
    run_dir = tmp_path / "runs" / "0001"
    for number in (signal.SIGTERM, signal.SIGKILL):
        reached = max(steps_of(run_dir), default=0)
        wait_long(
            lambda reached=reached: max(steps_of(run_dir), default=0) > reached + 8 and len(ranks_in(tmp_path)) == 2,
            what="an epoch",
        )
        before = ranks_in(tmp_path)
        os.kill(before[1], number)
        wait_long(lambda before=before: not {*before.values()} & {*ranks_in(tmp_path).values()}, what="their end")
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    assert output.count("going on with runs/0001 after step") == 2
    assert [path.name for path in (tmp_path / "runs").iterdir() if not path.is_symlink()] == ["0001"]
    assert_equal_weights(undisturbed(2), run_dir)
