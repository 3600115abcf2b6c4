"""Squared norms of the gradients of a batch's parts, in the very passes that train on it, and next to free.

    parts = SampleNorms(model)              # parts are single samples
    parts.start()
    loss.backward()                         # of a sum over samples; hooks look at what passes by
    parts.add_pass(weights_B)
    parts.stop().tolist()                   # [sum over parts of |gradient|^2, sum over parts of (samples)^2]

Of a linear layer, sample i's gradient of the weight is the outer product of its input a_i and of the gradient d_i at
its output, so its squared norm is |a_i|^2 |d_i|^2, and |d_i|^2 for the bias (Goodfellow 2015, "Efficient per-example
gradient computations", arXiv 1510.01799): a pass over two matrices of a row a sample, in place of B gradients as large
as the model. Where a part is k samples, as the pairs that mixup blends, the products are of Gram matrices:
|sum_i a_i d_i^T|^2 = sum_ij (a_i . a_j) (d_i . d_j). Gradients of a norm's gain and offset are a row a sample anyway.
It is the same with sharded weights, micro-batches, and activations that are computed again.

Two things rule it out: batch norm, by which a sample has no gradient of its own, and a compiled model, which calls no
hooks. Then a part is what a rank passes at a time (`PassNorms`): the gradient as it comes to each weight, before it is
added to others' and exchanged. A sharded model has no such moment.

Nothing of training changes, to the last bit.

Axes: B samples of a pass, P parts, K samples of a part, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle


class PartNorms(Protocol):
    """Follows the passes of one step on one rank."""

    def start(self) -> None:
        """Begin to look at what passes by."""

    def add_pass(self, weights_B: torch.Tensor) -> None:
        """Add a pass whose backward pass is done; `weights_B` are 1, or 0 for padding."""

    def stop(self) -> torch.Tensor:
        """Look no more; return float64 (2,): sums over parts of the gradient's squared norm, and of samples squared."""


class SampleNorms:
    """Parts are single samples, or runs of `samples_per_part`, whose gradients depend on each other."""

    def __init__(self, model: nn.Module, *, samples_per_part: int = 1) -> None:
        self._model, self._samples_per_part = model, samples_per_part
        self._handles: list[RemovableHandle] = []
        self._sums: list[torch.Tensor] = []
        # Of a pass: |a|^2 and |d|^2 of each linear layer, and the sums of all else.
        self._products: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._others: list[torch.Tensor] = []

    def start(self) -> None:
        for layer in self._model.modules():
            if isinstance(layer, nn.Linear):
                self._handles.append(layer.register_forward_hook(self._see_linear))
            elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
                self._handles.append(layer.register_forward_hook(self._see_norm))

    def add_pass(self, weights_B: torch.Tensor) -> None:
        inputs, outputs = (torch.cat(factors).flatten() for factors in zip(*self._products, strict=True))
        squares = torch.stack([torch.dot(inputs, outputs), *self._others]).sum()
        self._products, self._others = [], []
        self._sums.append(torch.stack([squares, self._samples_per_part * weights_B.sum()]).double())

    def stop(self) -> torch.Tensor:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        sums, self._sums = torch.stack(self._sums).sum(dim=0), []
        return sums

    @torch.no_grad()
    def _see_linear(self, layer: nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        trains_bias = layer.bias is not None and layer.bias.requires_grad
        if not output.requires_grad or not (layer.weight.requires_grad or trains_bias):
            return
        grams = _grams(inputs[0].detach(), self._samples_per_part)
        if not layer.weight.requires_grad:
            grams.zero_()
        if trains_bias:  # the weight of an input of 1
            grams.add_(1)

        def see_gradient(gradient_BD: torch.Tensor) -> None:
            self._products.append((grams, _grams(gradient_BD.detach(), self._samples_per_part)))

        output.register_hook(see_gradient)  # type: ignore[no-untyped-call]

    def _see_norm(
        self, layer: nn.LayerNorm | nn.RMSNorm, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor | None:
        gain, offset = layer.weight, getattr(layer, "bias", None)
        trains_gain = gain is not None and gain.requires_grad
        trains_offset = offset is not None and offset.requires_grad
        if not output.requires_grad or not (trains_gain or trains_offset):
            return None

        def see(input_BD: torch.Tensor, gradient_BD: torch.Tensor) -> None:
            gradient_BD = gradient_BD.float()
            if trains_gain:
                self._add_rows(gradient_BD * _normalised(layer, input_BD.float()))
            if trains_offset:
                self._add_rows(gradient_BD)

        seen: torch.Tensor = _Seen.apply(output, inputs[0].detach(), see)  # type: ignore[no-untyped-call]
        return seen

    def _add_rows(self, rows_BD: torch.Tensor) -> None:
        if self._samples_per_part > 1:
            rows_BD = _by_part(rows_BD, self._samples_per_part).sum(dim=1)
        self._others.append(torch.linalg.vector_norm(rows_BD).square())


class PassNorms:
    """Parts are the passes of each rank."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._nodes: list[Node] = []
        self._handles: list[RemovableHandle] = []
        self._norms: list[torch.Tensor] = []
        self._sums: list[torch.Tensor] = []

    def start(self) -> None:
        # By nodes, as DDP does it: nothing is hung onto the tensors that a compiled model takes in.
        self._nodes = [get_gradient_edge(parameter).node for parameter in self._parameters]
        self._handles = [node.register_prehook(self._see) for node in self._nodes]

    def add_pass(self, weights_B: torch.Tensor) -> None:
        squares = torch.stack(self._norms).square().sum()
        self._norms = []
        self._sums.append(torch.stack([squares, weights_B.sum().square()]).double())

    def stop(self) -> torch.Tensor:
        for handle in self._handles:
            handle.remove()
        self._handles, self._nodes = [], []
        sums, self._sums = torch.stack(self._sums).sum(dim=0), []
        return sums

    @torch.no_grad()
    def _see(self, gradients: tuple[torch.Tensor, ...]) -> None:
        self._norms.append(torch.linalg.vector_norm(gradients[0], dtype=torch.float32))


class _Seen(torch.autograd.Function):
    """The identity; its backward pass shows the gradient, with another tensor that is kept as autograd keeps its own.

    So a block that computes its activations again keeps none for this either.
    """

    @staticmethod
    def forward(
        ctx: Any, output: torch.Tensor, kept: torch.Tensor, see: Callable[[torch.Tensor, torch.Tensor], None]
    ) -> torch.Tensor:
        ctx.save_for_backward(kept)
        ctx.see = see
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        ctx.see(kept, gradients[0])
        return gradients[0], None, None


def why_not_by_sample(model: nn.Module) -> str | None:
    """Return what rules out `SampleNorms`, None if nothing does."""
    known = nn.Linear | nn.LayerNorm | nn.RMSNorm
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            return "batch norm ties the gradients of a batch's images together"
        if getattr(module, "_compiled_call_impl", None) is not None:
            return "a compiled model does not show the gradients of single images"
        if not isinstance(module, known) and any(one.requires_grad for one in module.parameters(recurse=False)):
            return f"{type(module).__name__} does not show the gradients of single images"
    return None


def _grams(rows_BD: torch.Tensor, samples_per_part: int) -> torch.Tensor:
    """Return float32 (P, K*K), the dot products of the rows of each part."""
    if samples_per_part == 1:
        norms_B1: torch.Tensor = torch.linalg.vector_norm(rows_BD, dim=1, keepdim=True, dtype=torch.float32)
        return norms_B1.square_()
    rows_PKD = _by_part(rows_BD.float(), samples_per_part)
    return (rows_PKD @ rows_PKD.mT).flatten(1)


def _by_part(rows_BD: torch.Tensor, samples_per_part: int) -> torch.Tensor:
    """Return (P, K, D)."""
    return rows_BD.reshape(-1, samples_per_part, rows_BD.shape[1])


def _normalised(layer: nn.LayerNorm | nn.RMSNorm, input_BD: torch.Tensor) -> torch.Tensor:
    """Return a norm's output without gain and offset."""
    shape = list(layer.normalized_shape)
    if isinstance(layer, nn.LayerNorm):
        return functional.layer_norm(input_BD, shape, eps=layer.eps)
    return functional.rms_norm(input_BD, shape, eps=layer.eps)
