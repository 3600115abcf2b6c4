"""How large the outputs of a model's layers are, and how far a few updates move them: the check of width transfer.

    rows = list(coordinates(model, optimizer, pixels_BD, labels_B, steps=3))
    rows[3]["logits"].change                    # root mean square of what three updates added to the logits
    slope([64, 128, 256], [0.5, 0.5, 0.5])      # 0.0: as large at every width

Under the maximal-update parametrisation no layer's change depends on the width, while with ordinary rates it grows,
and rates must be tuned again ("coordinate checking", Tensor Programs V, arXiv 2203.03466, appendix D.1).

Axes: B batch, D input features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from pipeline.model.roles import linear_layers, output_layer

LOGITS = "logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinate:
    """Root mean squares over a batch and a layer's units.

    Attributes:
        size: of the layer's output, before norm and activation.
        change: of the difference to its output before the first update.
    """

    size: float
    change: float


def coordinates(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs_BD: torch.Tensor, labels_B: torch.Tensor, *, steps: int
) -> Iterator[dict[str, Coordinate]]:
    """Yield every linear layer's coordinate before the first and after each of `steps` updates on one batch."""
    first = _outputs(model, inputs_BD)
    for step in range(steps + 1):
        outputs = _outputs(model, inputs_BD)
        yield {name: Coordinate(size=_rms(out), change=_rms(out - first[name])) for name, out in outputs.items()}
        if step < steps:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs_BD), labels_B).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def slope(widths: Sequence[int], values: Sequence[float]) -> float:
    """Return the least-squares slope of log value over log width: 1 for what doubles with the width, 0 for a constant.

    It is not a number where a value is zero, infinite or not a number.
    """
    if not all(0 < value < math.inf for value in values):
        return math.nan
    xs, ys = [math.log(width) for width in widths], [math.log(value) for value in values]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread


@torch.no_grad()
def _outputs(model: nn.Module, inputs_BD: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the output of each linear layer by name, the last one's as LOGITS."""
    outputs: dict[str, torch.Tensor] = {}
    last, _ = output_layer(model)
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, out, name=name: outputs.update({name: out.float()}))
        for name, layer in linear_layers(model).items()
    ]
    try:
        # The same dropout each time, or a change would be seen where there is none.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model(inputs_BD)
    finally:
        for hook in hooks:
            hook.remove()
    return {LOGITS if name == last else name: out for name, out in outputs.items()}


def _rms(values: torch.Tensor) -> float:
    return values.double().square().mean().sqrt().item()
