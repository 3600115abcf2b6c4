"""Width transfer: the rates found on a narrow model hold on a wide one (maximal-update parametrisation, muP).

    model = mlp(in_features=3072, widths=[4096, 4096], num_classes=10, base_width=256)     # 16 times as wide
    rate_scales(model, rule="adam")
    # {"0.linear.weight": 1.0, "0.linear.bias": 1.0, "1.linear.weight": 0.0625, ..., "3.weight": 1.0, "3.bias": 1.0}

Tensor Programs V (arXiv 2203.03466), table 8: with m, a model's width over that of the model that was tuned,

| role          | initial variance | multiplier | rate, SGD | rate, Adam and other rules of a fixed step size |
|---------------|------------------|------------|-----------|-------------------------------------------------|
| input         | 1                | 1          | m         | 1                                               |
| hidden        | 1/m              | 1          | 1         | 1/m                                             |
| output        | 1                | 1/m        | m         | 1                                               |
| vector        | 1                | 1          | m         | 1                                               |
| logits' bias  | 1                | 1          | 1         | 1                                               |

each relative to the narrow model, whose own numbers (m = 1) are those of an ordinary model. The multiplier is a module
before the last layer, `WidthMultiplier`; as it knows m, the rest follows from the tree of modules. Momentum is free;
Adam's epsilon must stay small beside gradients, which shrink as 1/m; the optimisers' decay is divided by the same
factor as the rate is multiplied by, so that their product stays (arXiv 2405.13698). An optimiser whose update has one
spectral norm for any width, as Muon's has, wants 1 where the table says 1/m (arXiv 2310.17813, condition 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pipeline.model.initialise import initial_std
from pipeline.model.roles import Role, linear_layers, output_layer, roles_of

Rule = Literal["adam", "sgd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthScale:
    """Factors for one parameter, relative to a model that knows of no width.

    Attributes:
        rate_scale: of the learning rate.
        init_scale: of the initial values, as the initialisation drew them at this width.
    """

    rate_scale: float
    init_scale: float


class WidthMultiplier(nn.Module):
    """Divides the last layer's input by m, the model's width over its base width."""

    def __init__(self, width_ratio: float) -> None:
        super().__init__()
        self.width_ratio = width_ratio

    def forward(self, z_BD: torch.Tensor) -> torch.Tensor:
        return z_BD / self.width_ratio

    def extra_repr(self) -> str:
        return f"width_ratio={self.width_ratio:g}"


def width_ratio(model: nn.Module) -> float:
    """Return m, 1 for a model without a base width."""
    return next((module.width_ratio for module in model.modules() if isinstance(module, WidthMultiplier)), 1.0)


def rate_scales(model: nn.Module, *, rule: Rule = "adam") -> dict[str, float]:
    """Return the factor of the learning rate of every parameter, by name; all 1 without a base width.

    Args:
        rule: "sgd" where an update grows with the gradient; "adam" where its size is that of the rate (also Lion).
    """
    ratio = width_ratio(model)
    logits_bias = f"{output_layer(model)[0]}.bias".removeprefix(".")
    return {
        name: _rate_scale(role, ratio, rule, is_logits=name == logits_bias) for name, role in roles_of(model).items()
    }


def width_scales(model: nn.Module, *, init: str = "torch", rule: Rule = "adam") -> dict[str, WidthScale]:
    """Return all factors of every parameter, by name, for a model that was initialised by `init`."""
    rates, initials = rate_scales(model, rule=rule), _init_scales(model, init=init)
    return {name: WidthScale(rate_scale=rate, init_scale=initials[name]) for name, rate in rates.items()}


@torch.no_grad()
def scale_initial_weights(model: nn.Module, *, init: str) -> None:
    """Scale what `initialise` drew to what the base width asks for; without one nothing changes, to the last bit."""
    if width_ratio(model) != 1:
        scales = _init_scales(model, init=init)
        for name, parameter in model.named_parameters():
            parameter.mul_(scales[name])


def _rate_scale(role: Role, ratio: float, rule: Rule, *, is_logits: bool) -> float:
    if rule == "adam":
        return 1 / ratio if role is Role.hidden else 1.0
    return 1.0 if role is Role.hidden or is_logits else ratio


def _init_scales(model: nn.Module, *, init: str) -> dict[str, float]:
    """Return, by name, the wanted standard deviation of the initial values over the one that was drawn.

    Wanted is that of the narrow model's own layer, and on hidden matrices a further 1/sqrt(m).
    """
    ratio, roles = width_ratio(model), roles_of(model)
    scales = dict.fromkeys(roles, 1.0)
    _, head = output_layer(model)
    for name, layer in linear_layers(model).items():
        prefix = f"{name}." if name else ""
        role = roles[f"{prefix}weight"]
        fan_in, fan_out, is_head = layer.in_features, layer.out_features, layer is head
        narrow_in = fan_in if role is Role.input else fan_in / ratio
        narrow_out = fan_out if role is Role.output else fan_out / ratio
        drawn = initial_std(init, fan_in=fan_in, fan_out=fan_out, is_head=is_head)
        narrow = initial_std(init, fan_in=narrow_in, fan_out=narrow_out, is_head=is_head)
        scales[f"{prefix}weight"] = narrow / drawn / (math.sqrt(ratio) if role is Role.hidden else 1)
        # Biases are zero, or drawn with torch's 1/sqrt(fan_in).
        scales[f"{prefix}bias"] = math.sqrt(fan_in / narrow_in)
    return scales
