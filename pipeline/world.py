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

from pipeline.shards.errors import UserError
from pipeline.trainer_config import Device

T = TypeVar("T")

START_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Ranks of this run; `local_size` of them on this host."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    cuda: bool

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
        distributed.init_process_group("nccl" if cuda else "gloo", timeout=START_TIMEOUT)
    return World(rank=rank, size=size, local_rank=local_rank, local_size=local_size, cuda=cuda)


def leave_world() -> None:
    """End the process group, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
