"""The world: which process of how many this one is. The launcher's environment is read here and nowhere else.

world = join_world(Device.auto)
run = world.agree(lambda: open_run(config))     # rank 0 decides; all ranks have its answer, or its error
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from pipeline.shards.errors import UserError
from pipeline.trainer_config import Device

T = TypeVar("T")

START_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Ranks of this run; `local_size` of them on this host, which is host `node_rank` of `num_nodes`."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    cuda: bool
    node_rank: int = 0
    num_nodes: int = 1

    def agree(self, decide: Callable[[], T]) -> T:
        """Run `decide` on rank 0 and return its result on every rank; its UserError is raised on every rank."""
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer[0] = decide()
            except UserError as error:
                answer[1] = str(error)
        if self.size > 1:
            distributed.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise UserError(answer[1])
        return answer[0]  # type: ignore[no-any-return]

    def agree_all(self, check: Callable[[], None]) -> None:
        """Run `check` on every rank; the first rank's UserError is raised on every rank."""
        message: str | None = None
        try:
            check()
        except UserError as error:
            message = str(error)
        messages: list[str | None] = [message]
        if self.size > 1:
            messages = [None] * self.size
            distributed.all_gather_object(messages, message)
        for found in messages:
            if found is not None:
                raise UserError(found)


def join_world(device: Device) -> World:
    """Read torchrun's variables (none: one process) and, for several ranks, start the process group.

    Raises:
        UserError: a GPU is wanted and there is none, or there are fewer than ranks.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    node_rank, num_nodes = int(os.environ.get("GROUP_RANK", "0")), int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    cuda = device is not Device.cpu and torch.cuda.is_available()
    if device is Device.cuda and not cuda:
        raise UserError("trainer.device=cuda: torch sees no GPU here; add trainer.device=cpu, or auto")
    if cuda and torch.cuda.device_count() < local_size:
        raise UserError(
            f"{local_size} ranks on a machine of {torch.cuda.device_count()} GPUs: start as many ranks as GPUs,"
            " or add trainer.device=cpu"
        )
    if size > 1 and not distributed.is_initialized():
        if cuda:
            torch.cuda.set_device(local_rank)
        # NCCL is told the device: it then connects at once, and a rank that cannot is known before the first step.
        distributed.init_process_group(
            "nccl" if cuda else "gloo",
            timeout=START_TIMEOUT,
            **_joining(rank, size),
            device_id=torch.device("cuda", local_rank) if cuda else None,
        )
    return World(
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        cuda=cuda,
        node_rank=node_rank,
        num_nodes=num_nodes,
    )


def leave_world() -> None:
    """End the process group, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _joining(rank: int, size: int) -> dict[str, Any]:
    """Return how ranks find each other: as torch does it, but under torchrun's own store with keys for each attempt.

    That store outlives the attempts, and torch reads from it the addresses of ranks that have ended since: connection
    refused (pytorch issues 135712, 167288).
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    return {"store": open_store(), "rank": rank, "world_size": size}


def open_store() -> Any:
    """Return a connection of its own to the ranks' common store, for use by another thread; None for one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, wait_for_workers=False)
    # torchrun's store outlives the attempts that it restarts.
    return PrefixStore(f"tarmac/{num_restarts()}", store)


def num_restarts() -> int:
    """Return how often torchrun has started these ranks again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def launch_id() -> str | None:
    """Return what all attempts of one torchrun have in common, and no other launch has; None without torchrun."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    # Where nobody named the rendezvous, its id is "none": the launcher's own process tells launches apart.
    return None if run_id is None else f"{run_id}/{os.getppid()}" if run_id == "none" else run_id
