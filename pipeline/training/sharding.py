"""Sharded models: each rank keeps a part of every weight, gradient and optimiser state (FSDP2, ZeRO stage 3).

    shard_model(model, units, mesh=mesh, policy=MixedPrecisionPolicy())    # parameters are DTensors from here on
    norm = whole(nn.utils.get_total_norm(gradients))                        # the same number on every rank
    content = gather_whole(optimizer.state_dict(), keep=rank == 0)          # plain tensors, as from one process
    load_optimizer_state(optimizer, content)                                # each rank takes its part of them

Weights are cut along their first axis, a unit at a time: gathered before it computes, freed after it, gathered
again for its backward pass, whose gradients are summed and cut at once (torch's `fully_shard`; Rajbhandari et al. 2020,
"ZeRO", arXiv 1910.02054, section 5). What is stored is never cut: a checkpoint is the same file whatever wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard_model(
    model: nn.Module, units: Sequence[nn.Module], *, mesh: DeviceMesh, policy: MixedPrecisionPolicy
) -> None:
    """Shard a model in place over the ranks of `mesh`; every rank must hold the same weights before.

    Args:
        units: parts that are gathered and freed by themselves, input to output.
        mesh: one axis: sharded over it. Two axes: copies along the first, each sharded along the second.
        policy: number formats of gathered weights and of exchanged gradients.
    """
    for unit in units:
        if unit is not model:
            # The last is wanted again at once, by its backward pass.
            fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=unit is not units[-1])
            unit.register_forward_hook(_free_after_evaluation)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    for part in model.modules():
        if isinstance(part, FSDPModule) and mesh.device_type == "cpu":
            # gloo had no average for long (it has in torch 2.13): a sum, then divided, works with any.
            part.set_force_sum_reduction_for_comms(True)
    if any(True for _ in model.buffers()):
        model.register_forward_pre_hook(_share_buffers)


def is_sharded(model: nn.Module) -> bool:
    """Return whether `shard_model` was applied."""
    return isinstance(model, FSDPModule)


def is_a_shard(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is spread over ranks."""
    return isinstance(tensor, DTensor)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a sharded tensor whole, on every rank of its mesh, which must all ask; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_whole(tree: Any, *, keep: bool) -> Any:
    """Return nested containers with every sharded tensor made whole, on the CPU; every rank must call this.

    One tensor is gathered at a time, so a rank that does not keep them holds no more than one. Tensors that are not
    sharded are handed on, not copied.

    Args:
        keep: whether this rank wants the tensors; where it does not, there is None in place of each sharded one.
    """
    if isinstance(tree, DTensor):
        gathered = tree.full_tensor()
        return gathered.cpu() if keep else None
    if isinstance(tree, Mapping):
        return {key: gather_whole(value, keep=keep) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(gather_whole(value, keep=keep) for value in tree)
    return tree


@torch.no_grad()
def shard_like(value: Any, like: torch.Tensor) -> Any:
    """Return this rank's part of a whole tensor, cut as `like` is; anything of another shape as it is.

    Nothing is sent: every rank has the whole tensor, from the same file.
    """
    if not (isinstance(like, DTensor) and isinstance(value, torch.Tensor) and value.shape == like.shape):
        return value
    part = distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    # A copy: what distribute_tensor gives may be a view, which would keep the whole tensor in memory.
    return torch.empty_like(like, dtype=value.dtype).copy_(part)


def load_optimizer_state(optimizer: torch.optim.Optimizer, content: Mapping[str, Any]) -> None:
    """Load an optimiser's `state_dict()` of whole tensors into one over sharded parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in content["param_groups"] for number in group["params"]]
    state = dict(content["state"])
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in state:
            state[number] = {name: shard_like(value, parameter) for name, value in state[number].items()}
    optimizer.load_state_dict({**content, "state": state})


@contextmanager
def weights_put_back(model: nn.Module) -> Iterator[None]:
    """Put parameters and buffers back at the end as they were; a sharded model cannot be copied instead."""
    with torch.no_grad():
        kept = [(tensor, tensor.clone()) for tensor in (*model.parameters(), *model.buffers())]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in kept:
                tensor.copy_(before)
                tensor.grad = None


def _share_buffers(model: nn.Module, _: Any) -> None:
    """Give every rank the running statistics of rank 0, as DDP does before each forward pass."""
    for buffer in model.buffers():
        distributed.broadcast(buffer, src=0)


def _free_after_evaluation(unit: nn.Module, _: Any, __: Any) -> None:
    """Free the weights that wait for a backward pass where none will come.

    They would else stand in for the sharded ones until the next backward pass, also where those have changed
    meanwhile, as by an average of weights that is put in for evaluation.
    """
    if not torch.is_grad_enabled():
        assert isinstance(unit, FSDPModule)
        unit.reshard()
