"""Parameter groups: which parameters are decayed, and at which share of the rate each of them learns.

    scales = layer_rate_scales(model, head=1.0, body=0.1, layer_decay=0.9)     # {"0.weight": 0.081, ...}
    optimizer = torch.optim.SGD(parameter_groups(model, weight_decay=1e-4, layer_scales=scales), lr=0.1)

A group's `rate_scale` multiplies the schedule's rate: the training module does it before each update.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    layer_scales: Mapping[str, float] | None = None,
    width_scales: Mapping[str, float] | None = None,
    rules: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Return the parameters that are trained, in groups of equal options, in the order of the model.

    Matrices get `weight_decay`, biases and norms' vectors none.

    Args:
        model: parameters that need no gradient are left out.
        weight_decay: of matrices.
        layer_scales, width_scales: a factor of the rate for each parameter's name, by default 1. An update shrinks a
            weight by rate times decay. That follows `layer_scales`. It does not follow `width_scales`, whose inverse
            multiplies the decay: how many updates a weight remembers must not depend on the width (Wang and Aitchison,
            arXiv 2405.13698, section 4; also in github.com/microsoft/mup, mup/optim.py).
        rules: for each parameter's name the `rule` of its group, for optimisers with several.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim >= 2
        layer_scale = layer_scales[name] if layer_scales else 1.0
        width_scale = width_scales[name] if width_scales else 1.0
        rule = {"rule": rules[name]} if rules else {}
        options = {
            "weight_decay": weight_decay / width_scale if is_matrix else 0.0,
            "rate_scale": layer_scale * width_scale,
        }
        key = (is_matrix, layer_scale, width_scale, *rule.values())
        groups.setdefault(key, {"params": [], **options, **rule})["params"].append(parameter)
    return list(groups.values())


def layer_rate_scales(
    model: nn.Module, *, head: float = 1.0, body: float = 1.0, layer_decay: float = 1.0
) -> dict[str, float]:
    """Return each parameter's share of the rate: `head` for the last layer, `body * layer_decay**d` for the others.

    d is the distance from the head: 1 for the layer before it (layer-wise decay, as in ELECTRA, arXiv 2003.10555,
    and BEiT, arXiv 2106.08254).
    """
    layers = layers_of(model)
    last = max(layers.values(), default=0)
    return {name: head if layer == last else body * layer_decay ** (last - layer) for name, layer in layers.items()}


def layers_of(model: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter, by name, counted from the input; the head is the last.

    A layer is a child of the model that has matrices, with the children after it that have none (norms): the stem, a
    hidden layer, a residual block, the head.
    """
    path, root = _layers_parent(model)
    numbers: dict[str, int] = {}
    number = -1
    for name, child in root.named_children():
        number += any(parameter.ndim >= 2 for parameter in child.parameters())
        numbers[name] = max(number, 0)
    return {name: numbers.get(name.removeprefix(path).split(".")[0], 0) for name, _ in model.named_parameters()}


def _layers_parent(model: nn.Module) -> tuple[str, nn.Module]:
    """Return the module whose children are the layers, inside any wrappers of one child, and its path with a dot."""
    path, parent = "", model
    while True:
        inner = [(name, child) for name, child in parent.named_children() if [*child.parameters()]]
        if len(inner) != 1 or not [*inner[0][1].children()]:
            return path, parent
        path, parent = f"{path}{inner[0][0]}.", inner[0][1]
