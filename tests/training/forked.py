"""Ranks as real processes that start at once: forked from a server that has imported everything, and nothing more.

    ranks = fork_ranks(2, tmp_path / "log", f"data.path={data.root}", f"run_dir={run_dir}", *SMALL)
    ranks[1].kill()
    end_ranks(ranks)                # what torchrun does when a rank has died

A start takes half a second instead of five, so a test can afford many real kills.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import socket
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from waiting import wait_until

DEADLINE_S = 300.0
wait_long = functools.partial(wait_until, patience_s=DEADLINE_S)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pipeline.train"])


def fork_ranks(num_ranks: int, log: Path, *options: str, stuck: tuple[int, int] | None = None) -> list[BaseProcess]:
    """Start the ranks of one run; what they print goes into `log`.

    Args:
        stuck: a rank, and the step in whose forward pass it falls asleep for ever.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks: list[BaseProcess] = []
    for rank in range(num_ranks):
        process = _context.Process(target=_be_rank, args=(rank, num_ranks, port, log, options, stuck))
        process.start()
        ranks.append(process)
    return ranks


def exit_codes(ranks: list[BaseProcess]) -> list[int | None]:
    """Wait for the ranks and return their exit codes; minus the signal's number for those that one ended."""
    for process in ranks:
        process.join(DEADLINE_S)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
        process.join()
    return codes


def end_ranks(ranks: list[BaseProcess]) -> None:
    """End all ranks as torchrun does: ask, and kill those that are still there."""
    for process in ranks:
        process.terminate()
    for process in ranks:
        process.join(30)
        process.kill()
        process.join()


def _be_rank(
    rank: int, num_ranks: int, port: int, log: Path, options: tuple[str, ...], stuck: tuple[int, int] | None
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= {
        **{"RANK": str(rank), "WORLD_SIZE": str(num_ranks), "LOCAL_RANK": str(rank)},
        **{"LOCAL_WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }
    import torch

    from pipeline.shards.errors import run_entry_point
    from pipeline.train import main
    from pipeline.training import stop

    torch.set_num_threads(1)
    stop.VOTE_EVERY_S = 0.05  # the runs are short
    if stuck is not None and stuck[0] == rank:
        _fall_asleep(stuck[1])
    sys.argv = ["pipeline.train", *options]
    sys.exit(run_entry_point(main))


def _fall_asleep(step: int) -> None:
    from pipeline.training.module import ClassifierModule

    train = ClassifierModule.training_step

    def training_step(self, batch, batch_idx):  # type: ignore[no-untyped-def]
        if batch.step == step:
            while True:
                time.sleep(1)
        return train(self, batch, batch_idx)

    ClassifierModule.training_step = training_step  # type: ignore[method-assign]
