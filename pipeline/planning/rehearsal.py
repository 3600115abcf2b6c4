"""A training step rehearsed on the meta device: the run's own model, objective and optimiser, and no memory.

    rehearsal = Rehearsal(model, make_optimizer=make_optimizer, task=task)        # all on torch.device("meta")
    rehearsal.state_bytes                           # of the optimiser, after its first update
    passes = rehearsal.passes(slots=2048, zeroed=True)
    passes.saved_bytes                              # what the forward pass keeps for the backward pass
    passes.backward_bytes                           # the most at any moment of the backward pass

Nothing here knows how a layer works: what it keeps, and for how long, is seen and not reckoned (live_bytes.py). So a
new block, norm, objective or optimiser needs no line here.

What is alive after each operation is a straight line in the number of samples: tensors are as long as the batch, or
know nothing of it. So passes of two sizes are rehearsed and those of any other follow; a peak is then the greatest of
such lines.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.planning.autocast import Copies
from pipeline.planning.gathering import Gathering
from pipeline.planning.live_bytes import LiveBytes

META = torch.device("meta")

Int64Array = npt.NDArray[np.int64]


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
        forward_bytes, backward_bytes: the most at any moment of each, gradients among it: whole ones, or where the
            model is sharded those that the pass makes.
        product_flop: of both, 2 a multiply-add.
        moved_bytes: that everything but the products reads and writes in both.
    """

    saved_bytes: int
    forward_bytes: int
    backward_bytes: int
    product_flop: int
    moved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """Passes of `slots` samples, each number of which is a straight line in `slots`.

    Attributes:
        totals: int64 (3,): bytes left by the forward pass for the backward pass, no gradients; FLOP of products; bytes
            moved by everything else.
        forward, backward: int64, bytes alive at the start of each pass and after each of its new tensors.
    """

    slots: int
    totals: Int64Array
    forward: Int64Array
    backward: Int64Array

    @property
    def passes(self) -> Passes:
        saved_bytes, product_flop, moved_bytes = self.totals.tolist()
        return Passes(
            saved_bytes=saved_bytes,
            forward_bytes=int(self.forward.max()),
            backward_bytes=int(self.backward.max()),
            product_flop=product_flop,
            moved_bytes=moved_bytes,
        )


def on_the_line(first: Rehearsed, second: Rehearsed, *, slots: int) -> Rehearsed | None:
    """Return what passes of another size do, of which two are known; None where these did not do the same."""
    found = {}
    for name in ("totals", "forward", "backward"):
        start, end = getattr(first, name), getattr(second, name)
        if len(start) != len(end):
            return None
        slope, rest = np.divmod(end - start, second.slots - first.slots)
        if rest.any():
            return None
        found[name] = start + slope * (slots - first.slots)
    return Rehearsed(slots=slots, **found)


class Rehearsal:
    """Rehearses passes of any size, evaluation, and the update.

    Args:
        model: on the meta device; its gradients are set. It may recompute its activations in the backward pass.
        copies: cast weights that are let go at the end of a forward pass (autocast.py); None: all is float32.
        gathering: has hooks on the model, whose weights and gradients are then whole for a moment alone.

    Attributes:
        weight_bytes: of parameters and buffers.
        gradient_bytes: of whole gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        task: Task,
        copies: Copies | None = None,
        gathering: Gathering | None = None,
    ) -> None:
        self.model, self.task, self._copies = model, task, {} if copies is None else copies
        self._make_optimizer, self._gathering = make_optimizer, gathering
        self._weights = [*model.parameters(), *model.buffers()]
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.weight_bytes, self.gradient_bytes = sizes(self._weights), sizes(self._trained)
        self._rehearsed: dict[bool, dict[int, Rehearsed]] = {False: {}, True: {}}

    @property
    def gathered_bytes(self) -> int:
        """Of weights that are whole between the passes, where the model is sharded."""
        return 0 if self._gathering is None else self._gathering.last_bytes

    @property
    def state_bytes(self) -> int:
        """Of the optimiser, after its first update."""
        return self._update[0]

    @property
    def update_bytes(self) -> int:
        """The most that an update holds beside weights, gradients and state for a moment."""
        return self._update[1]

    def passes(self, *, slots: int, zeroed: bool) -> Passes:
        """Return what a forward and a backward pass of `slots` samples do, after an update.

        Args:
            zeroed: whether whole gradients are let go between the two, as on one rank without accumulation; otherwise
                they stay, and new ones are added to them.
        """
        known = self._rehearsed[zeroed]
        if slots not in known and len(known) == 2:
            found = on_the_line(*known.values(), slots=slots)
            if found is not None:
                return found.passes
        if slots not in known:
            known[slots] = self.rehearse(slots=slots, zeroed=zeroed)
        return known[slots].passes

    def rehearse(self, *, slots: int, zeroed: bool) -> Rehearsed:
        """Rehearse the passes of `slots` samples; see `passes`."""
        if self._gathering is None:
            self._set_gradients()
        else:
            self.model.zero_grad(set_to_none=True)
        followed = self._follow()
        followed.add(self._gradients())
        self.model.train()
        with followed:
            before_bytes = followed.live_bytes
            loss = self._loss(slots)
            forward, saved_bytes = followed.course, followed.live_bytes - before_bytes
            if zeroed:
                self.model.zero_grad(set_to_none=True)
            followed.start_course()
            loss.backward()  # type: ignore[no-untyped-call]
            if self._gathering is not None:
                self._gathering.finish()
        if self._gathering is not None:
            self._gathering.start()
        return Rehearsed(
            slots=slots,
            totals=np.array([saved_bytes, followed.product_flop, followed.moved_bytes], dtype=np.int64),
            forward=np.array(forward, dtype=np.int64),
            backward=np.array(followed.course, dtype=np.int64),
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

    @functools.cached_property
    def _update(self) -> tuple[int, int]:
        """The bytes of the optimiser's state, and the most that an update holds beside it for a moment."""
        self._set_gradients()
        optimizer = self._make_optimizer(self.model)
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
