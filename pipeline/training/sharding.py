"""Sharded models: each rank keeps a part of every weight, gradient and optimiser state (FSDP2, ZeRO stage 3).

    shard_model(model, units, mesh=mesh, policy=MixedPrecisionPolicy())    # parameters are DTensors from here on
    spread_weights(model.to_empty(device="cpu"), weights)                   # of rank 0; the model was on meta
    norm = whole(nn.utils.get_total_norm(gradients))                        # the same number on every rank
    content = gather_whole(optimizer.state_dict(), keep=rank == 0)          # plain tensors, as from one process
    load_optimizer_state(optimizer, content)                                # each rank takes its part of them

Weights are cut along their first axis, a unit at a time: gathered before it computes, freed after it, gathered
again for its backward pass, whose gradients are summed and cut at once (torch's `fully_shard`; Rajbhandari et al. 2020,
"ZeRO", arXiv 1910.02054, section 5). What is stored is never cut: a checkpoint is the same file whatever wrote it.

A model is cut while it lies on the meta device, so that no rank but the first, which draws the weights, ever holds
more of it than its part and one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard


def shard_model(
    model: nn.Module, units: Sequence[nn.Module], *, mesh: DeviceMesh, policy: MixedPrecisionPolicy
) -> None:
    """Shard a model in place over the ranks of `mesh`; its weights must be the same on every rank, or on meta.

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
def spread_weights(model: nn.Module, weights: Mapping[str, torch.Tensor] | None) -> None:
    """Fill a sharded model from rank 0, one tensor after the other; every rank must call this.

    Args:
        weights: a whole state dict of the model; None on every rank but 0.
    """
    for name, own in model.state_dict().items():
        if weights is None:
            value = torch.empty(own.shape, dtype=own.dtype, device=own.device)
        else:
            value = weights[name].to(own.device)
        distributed.broadcast(value, src=0)
        fill(own, value)


@torch.no_grad()
def fill_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Fill a sharded model from a whole state dict that this rank can read; nothing is sent.

    Raises:
        RuntimeError: it is not of this model, as `load_state_dict` says it.
    """
    state = model.state_dict()
    if differing := state.keys() ^ weights.keys():
        raise RuntimeError(f"weights that are only in the model or only in the file: {', '.join(sorted(differing))}")
    for name, own in state.items():
        if own.shape != weights[name].shape:
            raise RuntimeError(f"{name} is {tuple(weights[name].shape)} in the file, {tuple(own.shape)} in the model")
        fill(own, weights[name])


@torch.no_grad()
def fill(own: torch.Tensor, value: torch.Tensor) -> None:
    """Put a whole tensor, or this rank's part of it, into a tensor of the model."""
    if isinstance(own, DTensor):
        own.to_local().copy_(_part_of(value, own))
    else:
        own.copy_(value)


@torch.no_grad()
def shard_like(value: Any, like: torch.Tensor) -> Any:
    """Return this rank's part of a whole tensor, cut as `like` is; anything of another shape as it is.

    Nothing is sent: every rank has the whole tensor, from the same file. Of a file that is mapped into memory no more
    is read than this part.
    """
    if not (isinstance(like, DTensor) and isinstance(value, torch.Tensor) and value.shape == like.shape):
        return value
    part = torch.empty_like(like, dtype=value.dtype)
    fill(part, value)
    return part


def load_optimizer_state(optimizer: torch.optim.Optimizer, content: Mapping[str, Any]) -> None:
    """Load an optimiser's `state_dict()` of whole tensors into one over sharded parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in content["param_groups"] for number in group["params"]]
    state = dict(content["state"])
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in state:
            state[number] = {name: _part_or_copy(value, parameter) for name, value in state[number].items()}
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


def _part_of(value: torch.Tensor, like: DTensor) -> torch.Tensor:
    """Return a view of the rows that this rank has of a tensor cut as `like` is."""
    mesh = like.device_mesh
    for axis, placement in enumerate(like.placements):
        if isinstance(placement, Shard):
            parts, place = value.chunk(mesh.size(axis), dim=placement.dim), mesh.get_local_rank(axis)
            value = parts[place] if place < len(parts) else value.narrow(placement.dim, 0, 0)
    return value


def _part_or_copy(value: Any, like: torch.Tensor) -> Any:
    part = shard_like(value, like)
    # What the optimiser takes over as it is must not hold on to the file.
    return part.clone() if part is value and isinstance(value, torch.Tensor) else part


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
