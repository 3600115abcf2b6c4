"""Muon for the matrices of hidden layers, AdamW for everything else, behind one optimiser.

    groups = [{"params": hidden_matrices, "rule": "muon"}, {"params": the_rest, "rule": "adamw"}]
    optimizer = MuonAdamW(groups, lr=1e-3)

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest
orthogonal one, so that every direction of the matrix learns at the same pace. With `match_adamw` the step is scaled to
be as large as AdamW's ("Muon is scalable for LLM training", arXiv 2502.16982, section 2.2), so that one rate and one
weight decay serve both.

torch.optim.Muon is the oracle of the tests. This one differs where it pays: the work is dealt out over the ranks, on a
GPU matrices of one shape are multiplied as one stack, and matrices that FSDP has cut are put together first.
The work is worth dealing out: perceptrons share no weights between positions, so that five iterations, at 10 to 15
multiply-adds a weight and row (the shorter side), cost with 1,024 rows as much as 3,400 to 5,100 samples, whose forward
and backward passes take 3 a weight.

Axes: K matrices of M rows and N columns, M <= N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from pipeline.training.optim_state import local, local_gradients, run_closure
from pipeline.training.sharding import shard_like, whole

# The quintic of Jordan et al.: singular values end between about 0.7 and 1.2, small ones rise fastest.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
LEAST_NORM = 1e-7
# Matrices stacked for one product; more would gain nothing and hold more memory.
STACK_BYTES = 256 << 20


class MuonAdamW(torch.optim.Optimizer):
    """One state and one list of groups; a group's `rule`, "muon" or "adamw", says how its parameters are updated."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        num_iterations: int = 5,
        match_adamw: bool = True,
        betas: tuple[float, float] = (0.9, 0.95),
        fused: bool | None = None,
    ) -> None:
        groups = list(params)
        unknown = {group.get("rule") for group in groups} - {"muon", "adamw"}
        if unknown:
            raise ValueError(f"rule={unknown.pop()!r} of a group: 'muon' or 'adamw' wanted")
        # Updates the groups of its rule, in place, with state and options that lie here.
        self._adamw = torch.optim.AdamW([{"params": []}], lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)
        muon = {
            "momentum": momentum,
            "nesterov": nesterov,
            "num_iterations": num_iterations,
            "match_adamw": match_adamw,
        }
        super().__init__(groups, {**self._adamw.defaults, **muon, "rule": "adamw"})
        for group in self.param_groups:
            if group["rule"] == "muon" and any(parameter.ndim != 2 for parameter in group["params"]):
                raise ValueError("a group of rule 'muon' has a parameter that is no matrix")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = run_closure(closure)
        self._adamw.param_groups = [group for group in self.param_groups if group["rule"] == "adamw"]
        self._adamw.state = self.state
        self._adamw.step()
        for group in self.param_groups:
            if group["rule"] == "muon":
                self._step_muon(group)
        return loss

    def _step_muon(self, group: dict[str, Any]) -> None:
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in trained:
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        rate, momentum = group["lr"], group["momentum"]
        for stacked in _stacks(trained):
            gradients = local_gradients(stacked)
            momenta = [local(self.state[parameter]["momentum_buffer"]) for parameter in stacked]
            torch._foreach_lerp_(momenta, gradients, 1 - momentum)
            wanted = torch._foreach_lerp(gradients, momenta, momentum) if group["nesterov"] else momenta
            updates = [_put_together(update, like=parameter) for update, parameter in zip(wanted, stacked, strict=True)]
            directions = _orthogonalise_on_all_ranks(updates, num_iterations=group["num_iterations"])
            for parameter, direction in zip(stacked, directions, strict=True):
                size = step_size(*parameter.shape, match_adamw=group["match_adamw"])
                weight = local(parameter)
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(local(shard_like(direction, parameter)), alpha=-rate * size)


def step_size(rows: int, columns: int, *, match_adamw: bool) -> float:
    """Return what an orthogonal direction is multiplied by, beside the rate.

    An orthogonal M x N matrix has a root mean square of 1/sqrt(max(M, N)), AdamW's updates one of 0.2 to 0.4.
    """
    return 0.2 * math.sqrt(max(rows, columns)) if match_adamw else math.sqrt(max(1.0, rows / columns))


def orthogonalise(matrices_KMN: torch.Tensor, *, num_iterations: int = 5) -> torch.Tensor:
    """Return about U V^T for a matrix U S V^T, or for each of a stack: all singular values near 1.

    In the type of its input; bfloat16 is enough (Jordan et al.).
    """
    a, b, c = COEFFICIENTS
    # The Frobenius norm is at least the spectral norm, which must not be over 1.
    norms_K11 = torch.linalg.matrix_norm(matrices_KMN, keepdim=True)
    x_KMN: torch.Tensor = matrices_KMN / norms_K11.clamp(min=LEAST_NORM)
    multiply_add = torch.addmm if matrices_KMN.ndim == 2 else torch.baddbmm
    for _ in range(num_iterations):
        gram_KMM = x_KMN @ x_KMN.mT
        polynomial_KMM = multiply_add(gram_KMM, gram_KMM, gram_KMM, beta=b, alpha=c)
        x_KMN = multiply_add(x_KMN, polynomial_KMM, x_KMN, beta=a)
    return x_KMN


def _stacks(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return the parameters by shape, a matrix and its transpose being one, in stacks that are not too large."""
    by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for parameter in parameters:
        by_shape.setdefault(tuple(sorted(parameter.shape)), []).append(parameter)
    stacks = []
    for same in by_shape.values():
        most = max(1, STACK_BYTES // (4 * same[0].numel()))
        stacks += [same[first : first + most] for first in range(0, len(same), most)]
    return stacks


def _orthogonalise_on_all_ranks(updates: Sequence[torch.Tensor], *, num_iterations: int) -> list[torch.Tensor]:
    """Return the orthogonal directions of updates that all ranks hold: each rank computes its share of them.

    All ranks get the same bytes, on whatever hardware each of them computes.
    """
    device = updates[0].device
    is_gpu = device.type == "cuda"
    # What ranks exchange has one type, also where one of their processors knows bfloat16 and another does not.
    dtype = torch.bfloat16 if is_gpu else torch.float32
    wide = [update if update.shape[0] <= update.shape[1] else update.T for update in updates]
    ranks, rank = 1, 0
    if distributed.is_available() and distributed.is_initialized():
        ranks, rank = distributed.get_world_size(), distributed.get_rank()
    mine = wide[rank::ranks]
    results_KMN = torch.empty((len(wide), *wide[0].shape), device=device, dtype=dtype)
    if is_gpu and mine:
        results_KMN[rank::ranks] = orthogonalise(torch.stack(mine).to(dtype), num_iterations=num_iterations)
    else:  # no launches to save there, and a product of stacks was no faster: 8 of 256 x 1,024 in 78 ms, singly 70 ms
        for result_MN, update_MN in zip(results_KMN[rank::ranks], mine, strict=True):
            result_MN.copy_(orthogonalise(update_MN.to(_cpu_type()), num_iterations=num_iterations))
    if ranks > 1:
        sent = [distributed.broadcast(results_KMN[i], src=i % ranks, async_op=True) for i in range(len(wide))]
        for handle in sent:
            handle.wait()
    return [
        result if update.shape[0] <= update.shape[1] else result.T
        for result, update in zip(results_KMN, updates, strict=True)
    ]


def _cpu_type() -> torch.dtype:
    """Return bfloat16 where the processor multiplies it, else float32: there bfloat16 is emulated, and slower."""
    knows_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.bfloat16 if knows_bf16 is not None and knows_bf16() else torch.float32


def _put_together(update: torch.Tensor, *, like: torch.Tensor) -> torch.Tensor:
    """Return the whole matrix of which FSDP gave this rank a part; every rank must call it."""
    if not isinstance(like, DTensor):
        return update
    return whole(DTensor.from_local(update, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()))
