"""Gradients exchanged in bfloat16: half the bytes between ranks, each addend rounded to 8 significant bits.

    model.register_comm_hook(None, average_in_bf16)     # model: DistributedDataParallel

Sums are float32 again when the optimiser sees them. torch has the same hook, but refuses it without NCCL by its name
(DistributedDataParallel._check_comm_hook), so that nobody could test on CPU ranks what runs on GPUs.
"""

# Annotations stay objects here: DistributedDataParallel compares those of a hook.
from typing import Any

import torch
from torch import distributed
from torch.futures import Future


def average_in_bf16(group: Any, bucket: distributed.GradBucket) -> Future[torch.Tensor]:  # type: ignore[name-defined]
    """Average a bucket of gradients over the ranks of `group` (None: all).

    Divided before it is rounded, so that each gradient is rounded once and the sum stays in range.
    """
    # In place: the sum takes their place anyway, and a division into another type would hold them once more.
    gradients: torch.Tensor = bucket.buffer().div_(distributed.get_world_size(group))
    shares = gradients.bfloat16()

    def widen(done: Future[Any]) -> torch.Tensor:
        return gradients.copy_(done.value()[0])

    exchanged: Future[Any] = distributed.all_reduce(shares, group=group, async_op=True).get_future()
    return exchanged.then(widen)
