"""A training step rehearsed on the meta device: the run's own model, objective and optimiser, and no memory.

    rehearsal = Rehearsal(model, make_optimizer=make_optimizer, task=task)        # all on torch.device("meta")
    rehearsal.state_bytes                           # of the optimiser, after its first update
    passes = rehearsal.passes(slots=2048, zeroed=True)
    passes.saved_bytes                              # what the forward pass keeps for the backward pass
    passes.backward_bytes                           # the most at any moment of the backward pass

Nothing here knows how a layer works: what it keeps, and for how long, is seen and not reckoned (live_bytes.py). So a
new block, norm, objective or optimiser needs no line here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.planning.autocast import Copies
from pipeline.planning.live_bytes import LiveBytes

META = torch.device("meta")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the model is trained for.

    Attributes:
        in_features: numbers of a sample.
        make_labels: returns the labels of so many samples.
        losses: of logits and labels, a loss a sample.
        watch: what the run's metrics do with (logits, labels, losses).
    """

    in_features: int
    make_labels: Callable[[int], torch.Tensor]
    losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    watch: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None] = lambda *_: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """A forward and a backward pass; bytes beside weights and optimiser state.

    Attributes:
        saved_bytes: of what the forward pass leaves for the backward pass, the model's input among it; no gradients.
        forward_bytes, backward_bytes: the most at any moment of each, whole gradients among it.
        product_flop: of both, 2 a multiply-add.
    """

    saved_bytes: int
    forward_bytes: int
    backward_bytes: int
    product_flop: int


class Rehearsal:
    """Rehearses passes of any size, evaluation, and the update.

    Args:
        model: on the meta device; its gradients are set. It may recompute its activations in the backward pass.
        copies: cast weights that are let go at the end of a forward pass (autocast.py); None: all is float32.

    Attributes:
        weight_bytes: of parameters and buffers.
        gradient_bytes: of whole gradients.
        state_bytes: of the optimiser.
        update_bytes: the most that an update holds beside them for a moment.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        task: Task,
        copies: Copies | None = None,
    ) -> None:
        self.model, self.task, self._copies = model, task, {} if copies is None else copies
        self._weights = [*model.parameters(), *model.buffers()]
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.weight_bytes, self.gradient_bytes = sizes(self._weights), sizes(self._trained)
        self.state_bytes, self.update_bytes = self._rehearse_update(make_optimizer(model))

    def passes(self, *, slots: int, zeroed: bool) -> Passes:
        """Rehearse a forward and a backward pass of `slots` samples, after an update.

        Args:
            zeroed: whether gradients are let go between the two, as on one rank without accumulation; otherwise they
                stay, and new ones are added to them.
        """
        self._set_gradients()
        followed = self._follow()
        followed.add(self._gradients())
        self.model.train()
        with followed:
            loss = self._loss(slots)
            forward_bytes = followed.peak_bytes
            saved_bytes = followed.live_bytes - self.gradient_bytes
            if zeroed:
                self.model.zero_grad(set_to_none=True)
            followed.start_peak()
            loss.backward()  # type: ignore[no-untyped-call]
        return Passes(
            saved_bytes=saved_bytes,
            forward_bytes=forward_bytes,
            backward_bytes=followed.peak_bytes,
            product_flop=followed.product_flop,
        )

    @functools.cache  # noqa: B019
    def evaluation_bytes(self, *, slots: int) -> int:
        """Return the most at any moment of a pass without gradients, beside weights, gradients and optimiser state."""
        followed = self._follow()
        self.model.eval()
        with followed, torch.no_grad():
            self._loss(slots)
        return followed.peak_bytes

    def _loss(self, slots: int) -> torch.Tensor:
        labels = self.task.make_labels(slots)
        logits_BK = self.model(torch.empty((slots, self.task.in_features), device=META))
        losses_B = self.task.losses(logits_BK, labels)
        with torch.no_grad():
            self.task.watch(logits_BK, labels, losses_B)
        self._copies.clear()
        return losses_B.sum()

    def _rehearse_update(self, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
        """Return the bytes of the optimiser's state, and the most that an update holds beside it for a moment."""
        self._set_gradients()
        optimizer.step()  # makes the state
        values = [value for state in optimizer.state.values() for value in state.values()]
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        followed = self._follow()
        followed.leave_out([*self._gradients(), *tensors])
        with followed:
            optimizer.step()
        return sizes(tensors), followed.peak_bytes

    def _follow(self) -> LiveBytes:
        followed = LiveBytes()
        followed.leave_out(self._weights)
        return followed

    def _set_gradients(self) -> None:
        for parameter in self._trained:
            parameter.grad = torch.empty_like(parameter)

    def _gradients(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self._trained if parameter.grad is not None]


def sizes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of the distinct storages."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
