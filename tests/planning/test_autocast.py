"""The planner's autocast against torch's own: values, types and what is kept, of models of every kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.model.bottleneck import bottleneck_mlp
from pipeline.model.hidden_layer import NORMS
from pipeline.model.mlp import mlp
from pipeline.planning.autocast import cast_products
from pipeline.planning.rehearsal import META

IN, CLASSES, SLOTS = 12, 5, 32
MODELS: dict[str, Callable[[], nn.Module]] = {
    "logistic regression": lambda: mlp(in_features=IN, widths=[], num_classes=CLASSES),
    "bottleneck": lambda: bottleneck_mlp(in_features=IN, depth=2, width=16, num_classes=CLASSES),
    "dropout and skip": lambda: mlp(in_features=IN, widths=[16, 16], num_classes=CLASSES, dropout=0.2, skip=True),
    "softmax": lambda: mlp(in_features=IN, widths=[16, 16], num_classes=CLASSES, activation="softmax"),
    **{
        f"{norm} norm": lambda norm=norm: mlp(in_features=IN, widths=[16, 8], num_classes=CLASSES, norm=norm)
        for norm in NORMS
    },
}


def run(model: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[tuple[torch.dtype, tuple[int, ...]]]]:
    """Return the logits, the gradients, and type and shape of what the forward pass kept for the backward pass."""
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append((tensor.dtype, tuple(tensor.shape)))
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits_BK = model(torch.randn(SLOTS, IN))
    logits_BK.float().square().sum().backward()
    return logits_BK, {name: parameter.grad for name, parameter in model.named_parameters()}, kept


# torch says so of float32 weights of RMS norm, and takes a slower kernel.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("name", MODELS)
def test_on_the_cpu_it_does_what_torch_does(name: str) -> None:
    torch.manual_seed(0)
    model, expected = MODELS[name](), MODELS[name]()
    expected.load_state_dict(model.state_dict())
    copies = cast_products(model, on_cpu=True)
    found = run(model)
    assert len(copies) == sum(len(list(part.parameters())) for part in model.modules() if isinstance(part, nn.Linear))
    with torch.autocast("cpu", torch.bfloat16):
        wanted = run(expected)
    torch.testing.assert_close(found[:2], wanted[:2], rtol=0, atol=0)
    assert found[2] == wanted[2]


# What each module is in torch's lists; what is in none of them gives the type that it is given.
OPERATIONS = {
    nn.Linear: "linear",
    nn.LayerNorm: "layer_norm",
    nn.RMSNorm: "rms_norm",
    nn.BatchNorm1d: "batch_norm",
    nn.Softmax: "softmax",
    nn.ReLU: "relu",
    nn.GELU: "gelu",
}


def operations_of(*lists: str) -> set[str]:
    """Return the operations in lists of torch's own header on autocast."""
    text = (Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h").read_text()
    found: set[str] = set()
    for name in lists:
        definition = re.search(rf"#define {name}\(_\)((?:.*\\\n)*.*\n)", text)
        assert definition, name
        found |= set(re.findall(r"_\((\w+)", definition.group(1)))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu_every_module_gives_the_type_that_torch_lets_it_give(name: str) -> None:
    in_bfloat16 = operations_of("AT_FORALL_LOWER_PRECISION_FP")
    in_float = operations_of("AT_FORALL_FP32", "AT_FORALL_FP32_SET_OPT_DTYPE")
    assert "linear" in in_bfloat16
    assert "layer_norm" in in_float
    with META:
        model = MODELS[name]()
    cast_products(model, on_cpu=False)
    seen: list[str] = []

    def check(module: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        operation = OPERATIONS.get(type(module))
        if operation is not None:
            seen.append(operation)
            usual = torch.float32 if operation in in_float else given[0].dtype
            assert made.dtype == (torch.bfloat16 if operation in in_bfloat16 else usual), operation

    for module in model.modules():
        module.register_forward_hook(check)
    model(torch.empty(SLOTS, IN, device=META))
    assert "linear" in seen
