"""Memory of one rank, by part and by moment, for every way to share a model over ranks. Pure arithmetic.

    memory = rank_memory(model_bytes, step_bytes, way=Way.ddp, ranks=8)
    memory.parts["activations"]         # what the forward pass keeps for the backward pass
    memory.peak_bytes                   # the most at any moment: of a step, its update, or an evaluation

Where replicated (DDP), gradients lie in buckets that stay, so that a gradient is there twice until it is in its bucket.
Where sharded (FSDP2), a rank keeps a part of weights, gradients and optimiser state; what it gathers for a moment is in
the passes that were rehearsed (gathering.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

MAX_SECANTS = 12


class Way(Enum):
    """How ranks share the model."""

    plain = "one rank"
    ddp = "replicated (DDP)"
    fsdp = "sharded (FSDP2)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBytes:
    """What does not depend on the batch, whole, in bytes.

    Attributes:
        update: what the optimiser holds for a moment, beside its state.
        noise: what is added to the largest gradient before, drawn whole; 0 without noise.
    """

    weights: int
    gradients: int
    state: int
    average: int
    update: int
    noise: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBytes:
    """What depends on the batch, in bytes.

    Attributes:
        saved: what the forward pass leaves for the backward pass.
        gathered: weights that are whole meanwhile, where they are sharded.
        forward, backward: the most at any moment of each beside weights, optimiser state and gradients that stay; of a
            backward pass that begins without gradients it may be negative. Where the model is sharded, the gradients
            that a backward pass makes are in it.
        evaluation: the most at any moment of evaluation beside all these.
        images: of batches on the device, as they come from the loader.
    """

    saved: int
    forward: int
    backward: int
    evaluation: int
    images: int
    gathered: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Bytes on the device of one rank.

    Attributes:
        parts: what a step holds, by name, at the end of its forward pass.
        moments: the most of each moment, all parts together.
    """

    parts: dict[str, int]
    moments: dict[str, int]

    @property
    def peak_bytes(self) -> int:
        return max(self.moments.values())

    @property
    def peak_moment(self) -> str:
        return max(self.moments, key=lambda name: self.moments[name])


def rank_memory(
    model: ModelBytes,
    step: StepBytes,
    *,
    way: Way,
    ranks: int,
    copy: int = 0,
    for_checkpoint: int = 0,
    compressed: int = 0,
    zeroed: bool = True,
    gradients_stay: bool = False,
) -> RankMemory:
    """Return the memory of a rank.

    Args:
        ranks: that share one copy of the model, where it is sharded.
        copy: bytes that the rank keeps to write checkpoints from; it is whole, sharded or not.
        for_checkpoint: bytes that the rank gathers for a moment of a checkpoint, beside the copy.
        compressed: bytes of gradients rounded for the exchange, of whole models; all may be under way at its end.
        zeroed: whether every backward pass begins without gradients. Where not, as with micro-batches, shards of them
            stay; of whole models those of the first passes lie beside the buckets, until the last pass fills these.
        gradients_stay: whether those of the last step are still there when a checkpoint is made, or at the last
            evaluation: at the end of an epoch they are let go, but for the buckets of whole models.
    """
    shards = ranks if way is Way.fsdp else 1
    weights, gradients, state, average = (
        -(-size // shards) for size in (model.weights, model.gradients, model.state, model.average)
    )
    update = max(-(-model.update // shards), model.noise + (-(-model.noise // shards) if way is Way.fsdp else 0))
    kept = weights + state + average + step.images + copy
    forward, backward = gradients + step.forward, gradients + step.backward
    if way is Way.fsdp and zeroed:
        backward -= gradients
    if way is Way.ddp and not zeroed:
        forward, backward = forward + gradients, backward + gradients
    parts = {
        "weights": weights,
        "gradients": gradients,
        "optimiser state": state,
        **({"average of weights (EMA)": average} if average else {}),
        "activations": step.saved,
        **({"weights gathered": step.gathered} if step.gathered else {}),
        "images of batches": step.images,
        **({"copy for checkpoints": copy} if copy else {}),
    }
    moments = {
        "a step": kept + max(forward, backward),
        **({"a checkpoint": kept + for_checkpoint + gradients * gradients_stay} if for_checkpoint else {}),
        **({"the exchange": kept + gradients + compressed} if compressed else {}),
        "the update": kept + gradients + update,
        "evaluation": kept + gradients * (gradients_stay or way is Way.ddp) + step.evaluation,
    }
    return RankMemory(parts=parts, moments=moments)


def largest_slots(peak_at: Callable[[int], int], *, room_bytes: float, start: int) -> int:
    """Return the most slots whose peak fits into `room_bytes`, 0 where one does not.

    The secant method: a peak is the greatest of a few straight lines, so it ends after a few questions.

    Args:
        peak_at: grows with the slots.
        start: where to begin, at least 1.
    """
    lower, upper = start, 2 * start
    lower_bytes, upper_bytes = peak_at(lower), peak_at(upper)
    slope = 0.0
    for _ in range(MAX_SECANTS):
        slope = (upper_bytes - lower_bytes) / (upper - lower)
        guess = max(1, math.floor(upper + (room_bytes - upper_bytes) / slope))
        if guess in (lower, upper):
            break
        lower, lower_bytes, upper, upper_bytes = upper, upper_bytes, guess, peak_at(guess)
    slots, slots_bytes = upper, upper_bytes
    while slots_bytes > room_bytes:
        slots -= max(1, math.floor((slots_bytes - room_bytes) / slope))
        if slots < 1:
            return 0
        slots_bytes = peak_at(slots)
    return slots
