"""What each layer does while a run trains: sizes of weights, activations and gradients, and units that say nothing.

    layers/weight_norm/1.linear             Frobenius norm of the matrix after the step
    layers/weight_grad_norm/1.linear        of the gradient of the batch's mean loss, before it is clipped
    layers/activation_rms/1.linear          root mean square, over samples and units, of what the layer's units give
    layers/activation_grad_rms/1.linear     the same of the gradient at these values: of each sample's own loss
    layers/dead_frac/1.linear               share of the layer's units that are dead

A layer is a linear map, by its name in the model, with the units that follow it: its values are those after the
activation, before dropout and skips; of a map that no activation follows, its outputs. A falling activation_grad_rms
from the last layer to the first is a vanishing gradient; it does not depend on the size of the batch.

What "dead" means depends on the units:

- relu, gelu, silu: never above 0 in the whole batch, on all ranks. Such a relu passes no gradient and may never come
  back; the other two pass little.
- sigmoid, tanh: of all values, those near a flat end, where the slope is below a twentieth of the steepest (Glorot and
  Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", section 3).
- others have no flat part, or, as softmax, none that is a unit's own: no row.

All are of the very passes that train, seen through hooks that exist in measured steps only; nothing of the training
changes. Sums stay on the device, ranks add them in one all-reduce, and one read follows the metrics' own.

Axes: B slots of this rank, D units of a layer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from pipeline.model.bottleneck import BottleneckBlock
from pipeline.model.hidden_layer import HiddenLayer
from pipeline.model.roles import linear_layers
from pipeline.training.metrics import sum_over_ranks

# sigmoid' = s (1 - s) and tanh' = 1 - t^2 fall to a twentieth of their greatest at this share of the way to the end.
FLAT_FROM = math.sqrt(1 - 1 / 20)
# Samples looked at together where a temporary of their size is needed.
ROWS = 1024

# Columns of the sums of squares.
VALUE, GRADIENT, WEIGHT, WEIGHT_GRADIENT, FLAT = range(5)
QUANTITIES = ("activation_rms", "activation_grad_rms", "weight_norm", "weight_grad_norm", "dead_frac")


class Dead(Enum):
    """How units can be dead; flat_0_1 and flat_1_1 name the ends of their range."""

    none = "none"
    never_on = "never_on"
    flat_0_1 = "flat_0_1"
    flat_1_1 = "flat_1_1"


DEAD_UNITS: dict[type[nn.Module], Dead] = {
    nn.ReLU: Dead.never_on,
    nn.GELU: Dead.never_on,
    nn.SiLU: Dead.never_on,
    nn.Sigmoid: Dead.flat_0_1,
    nn.Tanh: Dead.flat_1_1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A linear map, and where the values of its units pass: as the output of a module, or as its input."""

    name: str
    linear: nn.Linear
    seen_at: nn.Module
    as_input: bool
    dead: Dead


def layers_of(model: nn.Module) -> list[Layer]:
    """Return a model's layers, input to output."""
    units: dict[nn.Module, tuple[nn.Module, bool, Dead]] = {}
    for block in model.modules():
        if isinstance(block, HiddenLayer):
            units[block.linear] = (block.activation, False, DEAD_UNITS.get(type(block.activation), Dead.none))
        elif isinstance(block, BottleneckBlock):
            units[block.expand] = (block.contract, True, Dead.never_on)  # gelu is a function there, not a module
    layers = []
    for name, linear in linear_layers(model).items():
        seen_at, as_input, dead = units.get(linear, (linear, False, Dead.none))
        layers.append(Layer(name=name, linear=linear, seen_at=seen_at, as_input=as_input, dead=dead))
    return layers


class LayerSums:
    """Sums over the micro-batches of one update.

    For each of them `attach`, forward, `end_forward`, backward, `detach`; then `add_weight_gradients`, the optimiser's
    step, `add_weights`, `read`.
    """

    def __init__(self, layers: Sequence[Layer], *, device: torch.device) -> None:
        self._layers = layers
        self._squares_LQ = torch.zeros(len(layers), len(QUANTITIES), dtype=torch.float64, device=device)
        self._num_samples = torch.zeros(1, dtype=torch.float64, device=device)
        self._on_D = {
            layer.name: torch.zeros(layer.linear.out_features, dtype=torch.bool, device=device)
            for layer in layers
            if layer.dead is Dead.never_on
        }
        self._measured: set[tuple[int, int]] = set()
        self._handles: list[RemovableHandle] = []
        self._is_forward = False

    def attach(self, weights_B: torch.Tensor, *, grad_scale: float) -> None:
        """See the next forward and backward pass.

        Args:
            weights_B: slots of weight 0 are left out.
            grad_scale: what a gradient is to be multiplied by to be that of a sample's own loss.
        """
        is_kept_B = weights_B > 0
        self._num_samples += is_kept_B.sum()
        self._is_forward = True
        for index, layer in enumerate(self._layers):
            see = functools.partial(self._see, index, is_kept_B, grad_scale)
            if layer.as_input:
                self._handles.append(layer.seen_at.register_forward_pre_hook(functools.partial(_see_input, see)))
            else:
                self._handles.append(layer.seen_at.register_forward_hook(functools.partial(_see_output, see)))

    def end_forward(self) -> None:
        """Leave out what is computed again in the backward pass."""
        self._is_forward = False

    def detach(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def add_weight_gradients(self) -> None:
        """Add the gradients that the optimiser is about to use."""
        for index, layer in enumerate(self._layers):
            if layer.linear.weight.grad is not None:
                self._add_matrix(index, WEIGHT_GRADIENT, layer.linear.weight.grad)

    def add_weights(self) -> None:
        for index, layer in enumerate(self._layers):
            self._add_matrix(index, WEIGHT, layer.linear.weight)

    def read(self) -> dict[str, float]:
        """Return the row of metrics; all ranks must ask together."""
        sizes = [len(on_D) for on_D in self._on_D.values()]
        everything = torch.cat([self._num_samples, self._squares_LQ.flatten(), *self._on_D.values()])
        num_samples, squares, on = torch.split(sum_over_ranks(everything), [1, self._squares_LQ.numel(), sum(sizes)])
        off = [(on_D == 0).sum().reshape(1) for on_D in torch.split(on, sizes)]
        samples, *numbers = torch.cat([num_samples, squares, *off]).tolist()  # the host waits for the device here
        num_off = dict(zip(self._on_D, numbers[squares.numel() :], strict=True))
        row = {}
        for index, layer in enumerate(self._layers):
            width = layer.linear.out_features
            num_values = max(1.0, samples * width)
            sums = numbers[index * len(QUANTITIES) :]
            values = {
                VALUE: math.sqrt(sums[VALUE] / num_values),
                GRADIENT: math.sqrt(sums[GRADIENT] / num_values),
                WEIGHT: math.sqrt(sums[WEIGHT]),
                WEIGHT_GRADIENT: math.sqrt(sums[WEIGHT_GRADIENT]),
                FLAT: num_off[layer.name] / width if layer.name in num_off else sums[FLAT] / num_values,
            }
            for quantity, value in values.items():
                if (index, quantity) in self._measured:
                    row[f"layers/{QUANTITIES[quantity]}/{layer.name}"] = value
        return row

    @torch.no_grad()
    def _see(self, index: int, is_kept_B: torch.Tensor, grad_scale: float, values_BD: torch.Tensor) -> None:
        if not self._is_forward:
            return
        self._add_rows(index, VALUE, is_kept_B, 1.0, values_BD)
        layer = self._layers[index]
        if layer.dead is Dead.never_on:
            self._measured.add((index, FLAT))
            for part_BD, kept_B in _in_rows(values_BD, is_kept_B):
                # The greatest of values takes a third of the time of `any` over comparisons.
                self._on_D[layer.name] |= torch.where(kept_B[:, None], part_BD, 0.0).amax(dim=0) > 0
        elif layer.dead is not Dead.none:
            self._measured.add((index, FLAT))
            centre, reach = (0.5, 0.5) if layer.dead is Dead.flat_0_1 else (0.0, 1.0)
            for part_BD, kept_B in _in_rows(values_BD, is_kept_B):
                is_flat_BD = (part_BD - centre).abs() > FLAT_FROM * reach
                self._squares_LQ[index, FLAT] += (is_flat_BD & kept_B[:, None]).sum()
        if values_BD.requires_grad:
            add = functools.partial(self._add_rows, index, GRADIENT, is_kept_B, grad_scale)
            values_BD.register_hook(add)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _add_rows(
        self, index: int, quantity: int, is_kept_B: torch.Tensor, scale: float, values_BD: torch.Tensor
    ) -> None:
        norms_B = scale * torch.linalg.vector_norm(values_BD, dim=1, dtype=torch.float32).double()
        # where, not a product: what a slot of weight 0 holds may be anything.
        self._squares_LQ[index, quantity] += torch.where(is_kept_B, norms_B.square(), 0.0).sum()
        self._measured.add((index, quantity))

    @torch.no_grad()
    def _add_matrix(self, index: int, quantity: int, matrix: torch.Tensor) -> None:
        """Add what of a matrix this rank answers for, so that over all ranks each number counts once."""
        self._measured.add((index, quantity))
        if isinstance(matrix, DTensor):
            at: Sequence[int] = matrix.device_mesh.get_coordinate() or ()
            if any(place for place, how in zip(at, matrix.placements, strict=True) if how.is_replicate()):
                return
            matrix = matrix.to_local()
        elif distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0:
            return
        self._squares_LQ[index, quantity] += torch.linalg.vector_norm(matrix.float()).double().square()


def _in_rows(values_BD: torch.Tensor, is_kept_B: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Return both in parts of a few samples, so that what is computed of them needs little memory."""
    return zip(torch.split(values_BD, ROWS), torch.split(is_kept_B, ROWS), strict=True)


def _see_input(see: functools.partial[None], _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    see(inputs[0])


def _see_output(see: functools.partial[None], _: nn.Module, __: Any, values_BD: torch.Tensor) -> None:
    see(values_BD)
