"""Functions run by real ranks: processes of their own, joined over gloo.

results = on_ranks(2, work, tmp_path, "adamw")      # what work(rank, "adamw") returned on each
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing


def on_ranks(num_ranks: int, work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Return what `work(rank, *arguments)` returned on each rank; fail where one fails."""
    multiprocessing.spawn(_run, args=(num_ranks, work, folder, arguments), nprocs=num_ranks)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(num_ranks)]


def _run(rank: int, num_ranks: int, work: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting-point'}",
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(minutes=5),
    )
    torch.save(work(rank, *arguments), folder / f"rank{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
