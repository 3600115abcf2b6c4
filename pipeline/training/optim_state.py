"""What optimisers share: closures, the part of a tensor that lies on this rank, and state that is loaded again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from pipeline.shards.errors import UserError


def run_closure(closure: Callable[[], Any] | None) -> Any:
    """Return the closure's loss, computed with gradients, or None where there is no closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's shard of a tensor that FSDP has cut, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_gradients(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    """Return this rank's part of the gradients of parameters that have some."""
    return [local(parameter.grad) for parameter in parameters if parameter.grad is not None]


def load_state_alone(optimizer: torch.optim.Optimizer) -> None:
    """Let `load_state_dict` load momenta and keep the optimiser's own options, which come from the run's config.

    torch loads the options too, so that a run that goes on with another weight decay would go on with the old one.
    """
    optimizer.register_load_state_dict_pre_hook(_with_own_options)


def _with_own_options(optimizer: torch.optim.Optimizer, stored: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict with this optimiser's options.

    Raises:
        UserError: it is the state of another optimiser, or of other parameter groups.
    """
    own, theirs = optimizer.state_dict()["param_groups"], stored["param_groups"]
    rules = [[(group.get("rule"), len(group["params"])) for group in groups] for groups in (own, theirs)]
    if any(rule is None for rule, _ in rules[1]):  # stored before groups had a rule
        rules = [[(None, count) for _, count in groups] for groups in rules]
    if rules[0] != rules[1]:
        raise UserError(
            "the checkpoint's optimiser has other parameter groups"
            f" ({_groups_text(theirs)} there, {_groups_text(own)} here): go on with the optimizer=... and the layers'"
            " rates of before, or start anew with another run_dir, taking over the weights by init.run"
        )
    return {
        **stored,
        "param_groups": [{**mine, "params": old["params"]} for mine, old in zip(own, theirs, strict=True)],
    }


def _groups_text(groups: list[dict[str, Any]]) -> str:
    return ", ".join(f"{group.get('rule', '?')} of {len(group['params'])}" for group in groups)
