"""What the model can do without the loader, and the loader without the model: measured, in a bounded time.

    model_rate = model_images_per_s(module, batch, how=HowUpdated(), max_s=1.0)
    loader_rate = loader_images_per_s(loader, device=module.device, max_s=1.0)

All ranks call these together and get the same numbers, in images/s over all of them. Nothing of the run changes: a
copy of the model is trained, the loader's steps are read and left. To be called after training, when nothing else
reads from the loader.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pipeline.data.loader import Batch, BatchLoader
from pipeline.data.memory_room import available_bytes
from pipeline.shards.errors import UserError
from pipeline.training.compression import average_in_bf16
from pipeline.training.module import ClassifierModule
from pipeline.training.sharding import is_sharded, weights_put_back

log = logging.getLogger(__name__)

# At least so many updates or batches are timed, however long they take; and at most so many.
LEAST, MOST = 2, 10_000
# Weights, gradients, and AdamW's two averages.
COPIES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class HowUpdated:
    """What of a run's updates its module does not tell.

    Attributes:
        autocast: products are computed in bfloat16.
        compile_mode: of torch.compile; None: the model is not compiled.
        compresses: ranks that hold whole models exchange gradients in bfloat16.
    """

    autocast: bool = False
    compile_mode: str | None = None
    compresses: bool = False


def model_images_per_s(module: ClassifierModule, batch: Batch, *, how: HowUpdated, max_s: float) -> float:
    """Return the rate of whole updates on one batch that lies on the module's device.

    An update is what training's is: augmentation, as many forward and backward passes as there are micro-batches,
    gradients exchanged between ranks, clipping, the optimiser's step.
    """
    device = module.device
    sharded = is_sharded(module.model)
    # A sharded model cannot be copied: it is trained itself, and its weights are put back.
    model = module.model if sharded else copy.deepcopy(module.model)
    if not sharded and how.compile_mode is not None:
        model.compile(mode=how.compile_mode)
    optimizer = module.make_optimizer(model)
    exchanging: DistributedDataParallel | None = None
    if _world_size() > 1 and not sharded:
        devices = [device.index] if device.type == "cuda" else None
        exchanging = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
        if how.compresses:
            exchanging.register_comm_hook(None, average_in_bf16)
    forward = (exchanging or model).train()
    micro_batches = module.plan.micro_batches

    def update() -> None:
        for micro in range(micro_batches):
            is_last = micro == micro_batches - 1
            with nullcontext() if exchanging is None or is_last else exchanging.no_sync():
                with torch.autocast(device.type, torch.bfloat16, enabled=how.autocast):
                    pixels_BD, own_B = module.inputs_of(batch)
                    losses_B = module.objectives.training(forward(pixels_BD), batch.labels_B, own_B=own_B)
                    loss = (losses_B * batch.weights_B).sum() / batch.global_weight
                loss.backward()  # type: ignore[no-untyped-call]
        if module.plan.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), module.plan.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    with weights_put_back(model) if sharded else nullcontext():
        update_s = mean_s(update, device=device, max_s=max_s)
    return micro_batches * len(batch) * _world_size() / update_s


def has_room(model: nn.Module, *, device: torch.device) -> bool:
    """Return whether every rank has the memory that an update of a copy takes beside what training took."""
    own = [parameter.to_local() if isinstance(parameter, DTensor) else parameter for parameter in model.parameters()]
    wanted_bytes = COPIES * sum(part.nbytes for part in own)
    if device.type == "cuda":
        unused_bytes = torch.cuda.memory_reserved(device) - torch.cuda.max_memory_allocated(device)
        free_bytes = torch.cuda.mem_get_info(device)[0] + unused_bytes
    else:
        free_bytes = available_bytes() // _world_size()
    return not over_ranks(float(wanted_bytes > free_bytes), "max", device=device)


def loader_images_per_s(loader: BatchLoader, *, device: torch.device, max_s: float) -> float | None:
    """Return the rate of batches that nobody uses, over the run's next steps; None where a rank cannot read them.

    Args:
        device: the ranks' for exchange.
    """
    _meet()
    try:
        rate = _rate_of(loader, max_s=max_s)
    except (UserError, OSError) as error:
        log.warning("the loader alone is not measured: training images cannot be read again (%s)", error)
        rate = math.nan
    loader.close()
    total = over_ranks(rate, "sum", device=device)
    return None if math.isnan(total) else total


def _rate_of(loader: BatchLoader, *, max_s: float) -> float:
    num_batches = num_images = 0
    started_s = time.perf_counter()
    while num_batches < LEAST or (time.perf_counter() - started_s < max_s and num_batches < MOST):
        batches = iter(loader)
        for batch in batches:
            num_batches += 1
            num_images += len(batch)
            if num_batches >= LEAST and time.perf_counter() - started_s >= max_s:
                break
        batches.close()  # type: ignore[attr-defined]
    return num_images / (time.perf_counter() - started_s)


def over_ranks(value: float, how: Literal["sum", "max"], *, device: torch.device) -> float:
    """Return the sum or the greatest of all ranks' values."""
    if _world_size() == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=device)
    distributed.all_reduce(shared, distributed.ReduceOp.SUM if how == "sum" else distributed.ReduceOp.MAX)
    return float(shared)


def mean_s(run: Callable[[], object], *, device: torch.device, max_s: float) -> float:
    """Return the seconds of one turn on the slowest rank, over as many as `max_s` has room for; all ranks call this."""
    run()  # allocates, and compiles where it is to
    once_s = _timed(run, times=1, device=device)
    times = min(MOST, max(LEAST, int(max_s / max(once_s, 1e-9))))
    return _timed(run, times=times, device=device) / times


def _timed(run: Callable[[], object], *, times: int, device: torch.device) -> float:
    """Return the seconds of the slowest rank."""
    _meet()
    started_s = time.perf_counter()
    for _ in range(times):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return over_ranks(time.perf_counter() - started_s, "max", device=device)


def _world_size() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _meet() -> None:
    if _world_size() > 1:
        distributed.barrier()
