"""Ranks as real processes that start at once: forked from a server that has imported everything, and nothing more.

    ranks = fork_ranks(2, tmp_path / "log", f"data.path={data.root}", f"run_dir={run_dir}", *SMALL)
    ranks[1].kill()
    end_ranks(ranks)                # what torchrun does when a rank has died

A start takes half a second instead of five, so a test can afford many real kills.
"""

from __future__ import annotations

import functools
import os
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from fork_server import fork, run_as_main, take_over
from loopback import free_port
from pipeline.training.checkpoint import stored_checkpoints
from waiting import wait_until

DEADLINE_S = 300.0
wait_long = functools.partial(wait_until, patience_s=DEADLINE_S)


def fork_ranks(
    num_ranks: int,
    log: Path,
    *options: str,
    module: str = "pipeline.train",
    stuck: tuple[int, int] | None = None,
) -> list[BaseProcess]:
    """Start the ranks of one command; what they print goes into `log`.

    Args:
        stuck: a rank, and the step in whose forward pass it falls asleep for ever.
    """
    port = free_port()
    here = str(Path.cwd()), dict(os.environ)
    return [fork(_be_rank, rank, num_ranks, port, log, here, module, options, stuck) for rank in range(num_ranks)]


def exit_codes(ranks: list[BaseProcess]) -> list[int | None]:
    """Wait for the ranks and return their exit codes; minus the signal's number for those that one ended."""
    for process in ranks:
        process.join(DEADLINE_S)
    codes = [process.exitcode for process in ranks]
    kill_ranks(ranks)
    return codes


def end_ranks(ranks: list[BaseProcess]) -> None:
    """End all ranks as torchrun does: ask, and kill those that are still there."""
    for process in ranks:
        process.terminate()
    for process in ranks:
        process.join(30)
    kill_ranks(ranks)


def kill_ranks(ranks: list[BaseProcess]) -> None:
    """SIGKILL to all ranks, and return when they are gone."""
    for process in ranks:
        process.kill()
    for process in ranks:
        process.join()


def wait_for_step(run_dir: Path, step: int, ranks: list[BaseProcess]) -> None:
    """Return when a checkpoint of this step or a later one is stored, or a rank has ended."""
    wait_long(
        lambda: (
            any(stored >= step for stored, _ in stored_checkpoints(run_dir / "checkpoints"))
            or any(rank.exitcode is not None for rank in ranks)
        ),
        what=f"a checkpoint of step {step}",
        every_s=0.005,
    )


def _be_rank(
    rank: int,
    num_ranks: int,
    port: int,
    log: Path,
    here: tuple[str, dict[str, str]],
    module: str,
    options: tuple[str, ...],
    stuck: tuple[int, int] | None,
) -> None:
    folder, environment = here
    if num_ranks > 1:
        environment |= {
            **{"RANK": str(rank), "WORLD_SIZE": str(num_ranks), "LOCAL_RANK": str(rank)},
            **{"LOCAL_WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        }
    take_over(folder=folder, environment=environment, stdout=log, stderr=log)
    import torch

    from pipeline.track import bounds
    from pipeline.training import stop, watchdog

    torch.set_num_threads(1)
    # The runs are short.
    stop.VOTE_EVERY_S = 0.05
    watchdog.GRACE_S = watchdog.PULSE_S = 0.5
    bounds.LEAST_TRAINED_S = 0.0
    if stuck is not None and stuck[0] == rank:
        _fall_asleep(stuck[1])
    run_as_main(module, options)


def _fall_asleep(step: int) -> None:
    from pipeline.training.module import ClassifierModule

    train = ClassifierModule.training_step

    def training_step(self, batch, batch_idx):  # type: ignore[no-untyped-def]
        if batch.step == step:
            while True:
                time.sleep(1)
        return train(self, batch, batch_idx)

    ClassifierModule.training_step = training_step  # type: ignore[method-assign]
