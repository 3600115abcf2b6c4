"""Functions run by real ranks: processes of their own, joined over gloo.

results = on_ranks(2, work, tmp_path, "adamw")      # what work(rank, "adamw") returned on each
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from fork_server import fork, take_over
from forked import exit_codes


def on_ranks(num_ranks: int, work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Return what `work(rank, *arguments)` returned on each rank; fail with what they printed where one fails."""
    log = folder / "log"
    ranks = [fork(_run, rank, num_ranks, log, work, arguments) for rank in range(num_ranks)]
    assert exit_codes(ranks) == [0] * num_ranks, log.read_text()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(num_ranks)]


def _run(rank: int, num_ranks: int, log: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    take_over(folder=str(log.parent), environment=dict(os.environ), stdout=log, stderr=log)
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{log.with_name('meeting-point')}",
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(minutes=5),
    )
    torch.save(work(rank, *arguments), log.with_name(f"rank{rank}.pt"))
    distributed.barrier()
    distributed.destroy_process_group()
