"""The batch below which ranks exchange gradients for longer than they compute them, measured after training.

    bound = network_bound(module, batch, how=HowUpdated(), max_s=0.4)
    # Bound(images=1_033, source="an exchange takes 12.1 ms, a pass over 64 images 1.5 ms")       of two ranks

An update sends as many bytes whatever the batch, and computes in proportion to it. All ranks must call this together;
nothing of the run changes.
"""

from __future__ import annotations

import torch
from torch import distributed

from pipeline.data.loader import Batch
from pipeline.track.ceilings import HowUpdated, mean_s
from pipeline.track.cockpit import Bound
from pipeline.training.module import ClassifierModule
from pipeline.training.sharding import is_sharded

# More bytes take longer in proportion.
MOST_EXCHANGED_BYTES = 64 << 20


def network_bound(module: ClassifierModule, batch: Batch, *, how: HowUpdated, max_s: float) -> Bound:
    """Return the batch, over all ranks, whose passes take as long as the exchange of its gradients.

    Args:
        batch: of this rank, on the module's device.
        max_s: that each of both measurements may take, once it knows how long a turn is.
    """
    if not distributed.is_initialized() or distributed.get_world_size() < 2:
        return Bound(images=None, source="one rank exchanges nothing")
    if is_sharded(module.model):
        return Bound(images=None, source="not measured: sharded weights are exchanged while it computes")
    exchange_s = _exchange_s(module, compresses=how.compresses, max_s=max_s)
    pass_s = _pass_s(module, batch, autocast=how.autocast, max_s=max_s)
    return Bound(
        images=exchange_s / pass_s * len(batch) * distributed.get_world_size(),
        source=f"an exchange takes {1e3 * exchange_s:.3g} ms, a pass over {len(batch):,} images {1e3 * pass_s:.3g} ms",
    )


def _exchange_s(module: ClassifierModule, *, compresses: bool, max_s: float) -> float:
    """Return the seconds of an all-reduce of the gradients."""
    dtype = torch.bfloat16 if compresses else torch.float32
    numbers = sum(parameter.numel() for parameter in module.model.parameters() if parameter.requires_grad)
    exchanged = min(numbers, MOST_EXCHANGED_BYTES // dtype.itemsize)
    values = torch.zeros(exchanged, dtype=dtype, device=module.device)
    passed_s = mean_s(lambda: distributed.all_reduce(values), device=module.device, max_s=max_s)
    return passed_s * numbers / exchanged


def _pass_s(module: ClassifierModule, batch: Batch, *, autocast: bool, max_s: float) -> float:
    """Return the seconds of a forward and a backward pass, of which nothing is exchanged or kept."""
    model = module.model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]

    def run() -> None:
        with torch.autocast(module.device.type, torch.bfloat16, enabled=autocast):
            pixels_BD, own_B = module.inputs_of(batch)
            losses_B = module.objectives.training(model(pixels_BD), batch.labels_B, own_B=own_B)
        # Not `backward`, which would have the gradients exchanged.
        torch.autograd.grad(losses_B.sum(), parameters)

    passed_s = mean_s(run, device=module.device, max_s=max_s)
    for buffer, before in buffers:
        buffer.copy_(before)
    return passed_s
