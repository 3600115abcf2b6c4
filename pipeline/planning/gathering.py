"""What sharded training holds beside a model's own tensors, in a rehearsal: as `fully_shard` does it, unit by unit.

    gathering = Gathering(shardable_units(model), ranks=8, reduced_itemsize=4, through_gloo=False)
    loss = model(pixels_BD).sum()                                   # all on torch.device("meta")
    loss.backward()
    gathering.finish()

Hooks make, and let go, what torch's does (torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, torch 2.13):

- A unit's weights are gathered into a buffer and copied out of it. In the forward pass the buffer stays until the next
  unit's copy is made, the weights until the unit has computed; those of the last unit stay for the backward pass.
- In the backward pass the unit before is gathered ahead. When a unit's gradients are there, its weights go; they are
  copied into a buffer and go, too; the buffer stays until the next unit is as far, and a shard of the sum for good.
- gloo gathers and sums in copies of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Gathering:
    """Hooks on units of a model on the meta device.

    Args:
        units: input to output; together they have all parameters, as they are gathered.
        ranks: that share one copy of the model.
        reduced_itemsize: bytes of a number of the gradients that are exchanged.
        through_gloo: whether ranks exchange by gloo, as on the CPU.
    """

    def __init__(self, units: Sequence[nn.Module], *, ranks: int, reduced_itemsize: int, through_gloo: bool) -> None:
        self._units, self._ranks, self._through_gloo = units, ranks, through_gloo
        self._reduced_itemsize = reduced_itemsize
        self.start()
        for place, unit in enumerate(units):
            unit.register_forward_pre_hook(functools.partial(self._before_forward, place))
            unit.register_forward_hook(functools.partial(self._after_forward, place))

    @property
    def last_bytes(self) -> int:
        """Of the last unit's weights, which stay from the forward pass to the backward pass."""
        return self._weight_bytes(len(self._units) - 1)

    def start(self) -> None:
        """Forget what an earlier pass has left."""
        self._whole: dict[int, torch.Tensor] = {}
        self._ahead: dict[int, torch.Tensor] = {}
        self._copied_out: torch.Tensor | None = None
        self._exchanged: torch.Tensor | None = None
        self._shards: list[torch.Tensor] = []

    def finish(self) -> None:
        """End a backward pass: of the units whose turn was last, no hook tells that their gradients are there."""
        for place in sorted(self._whole, reverse=True):
            self._exchange(place)
        self._exchanged = None

    def _before_forward(self, place: int, *_: Any) -> None:
        gathered = self._gather(place)
        self._copied_out = None
        self._whole[place] = _bytes(self._weight_bytes(place))
        self._copied_out = gathered

    def _after_forward(self, place: int, _: Any, __: Any, outputs: torch.Tensor) -> None:
        is_last = place == len(self._units) - 1
        if not is_last or not torch.is_grad_enabled():
            del self._whole[place]
        if is_last:
            self._copied_out = None
        if outputs.requires_grad:
            outputs.register_hook(lambda _: self._before_backward(place))  # type: ignore[no-untyped-call]

    def _before_backward(self, place: int) -> None:
        if place + 1 in self._whole:
            self._exchange(place + 1)
        if place not in self._whole:
            gathered = self._ahead.pop(place, None)
            gathered = self._gather(place) if gathered is None else gathered
            self._whole[place] = _bytes(self._weight_bytes(place))
            del gathered
        if place > 0:
            self._ahead[place - 1] = self._gather(place - 1)

    def _exchange(self, place: int) -> None:
        del self._whole[place]
        self._exchanged = None
        trained = [parameter for parameter in self._units[place].parameters() if parameter.grad is not None]
        numbers = sum(parameter.numel() for parameter in trained)
        self._exchanged = _bytes(self._reduced_itemsize * numbers)
        for parameter in trained:
            parameter.grad = None
        self._shards.append(_bytes(4 * -(-numbers // self._ranks)))
        if self._through_gloo:
            _bytes(self._exchanged.nbytes)

    def _gather(self, place: int) -> torch.Tensor:
        gathered = _bytes(self._weight_bytes(place))
        if self._through_gloo:
            _bytes(gathered.nbytes)
        return gathered

    def _weight_bytes(self, place: int) -> int:
        return sum(parameter.nbytes for parameter in self._units[place].parameters())


def _bytes(size_bytes: int) -> torch.Tensor:
    return torch.empty(size_bytes, dtype=torch.uint8, device="meta")
