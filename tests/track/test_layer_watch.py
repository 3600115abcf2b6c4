"""Rows on layers are what autograd says of the very batch, however it is cut, and the training is none the wiser.

Axes: B batch, D features.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.model.blocks import wrappable_blocks
from pipeline.model.bottleneck import BottleneckBlock, bottleneck_mlp
from pipeline.model.hidden_layer import HiddenLayer
from pipeline.model.mlp import mlp
from pipeline.shards.manifest import DataSet
from pipeline.track.layers import LayerSums, layers_of
from pipeline.training.checkpoint import checkpoint_name, load_checkpoint
from pipeline.training.recompute import checkpoint_activations
from runs import SMALL, assert_equal_weights, metric_rows, run_ranks, train_here

FEATURES, WIDTH, CLASSES, BATCH = 9, 12, 5, 10
# Two slots stand for nothing.
WEIGHTS_B = torch.tensor([1.0] * 8 + [0.0] * 2)
ALL = ("weight_norm", "weight_grad_norm", "activation_rms", "activation_grad_rms")
WATCHED = ["track.layers_every_steps=3", "trainer.log_every_steps=100"]
DEEP = ["model.hidden=[16,16]", "trainer.max_epochs=1"]


def make(kind: str) -> nn.Module:
    torch.manual_seed(5)
    if kind == "bottleneck":
        return bottleneck_mlp(in_features=FEATURES, depth=2, width=WIDTH, num_classes=CLASSES)
    model = mlp(
        in_features=FEATURES,
        widths=[WIDTH] * 3,
        num_classes=CLASSES,
        activation=kind,
        norm="layer",
        skip=kind == "relu",
    )
    with torch.no_grad():  # some units are at an end for most samples, some for all
        first = model[0].norm
        first.bias[:4] = torch.tensor([-20.0, -3.0, 3.0, 20.0])
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    inputs_BD = 2 * torch.randn(BATCH, FEATURES, generator=generator)
    inputs_BD[-1] = 1e4  # a slot of weight 0 may hold anything finite
    return inputs_BD, torch.randint(CLASSES, (BATCH,), generator=generator)


def measured(model: nn.Module, *, sizes: tuple[int, ...] = (BATCH,)) -> dict[str, float]:
    """Train a step on the batch in parts, as the trainer would, and return the row."""
    sums = LayerSums(layers_of(model), device=torch.device("cpu"))
    total = float(WEIGHTS_B.sum())
    for inputs_BD, labels_B, weights_B in zip(*(part.split(sizes) for part in (*batch(), WEIGHTS_B)), strict=True):
        sums.attach(weights_B, grad_scale=total)
        losses_B = nn.functional.cross_entropy(model(inputs_BD), labels_B, reduction="none")
        loss = torch.where(weights_B > 0, losses_B, 0.0).sum() / total
        sums.end_forward()
        loss.backward()
        sums.detach()
    sums.add_weight_gradients()
    sums.add_weights()
    return sums.read()


def by_hand(model: nn.Module) -> dict[str, float]:
    """The oracle: values kept in a forward pass that is written out, of the samples that count, by plain autograd."""
    inputs_BD, labels_B = (tensor[WEIGHTS_B > 0] for tensor in batch())
    values: dict[str, torch.Tensor] = {}
    z = inputs_BD
    for name, block in model.named_children():
        if isinstance(block, HiddenLayer):
            values[f"{name}.linear"] = value = block.activation(block.norm(block.linear(z)))
            z = z + value if block.skip else value
        elif isinstance(block, BottleneckBlock):
            values[f"{name}.expand"] = inner = nn.functional.gelu(block.expand(block.norm(z)))
            values[f"{name}.contract"] = value = block.contract(inner)
            z = z + value
        else:
            values[name] = z = block(z)
    for value in values.values():
        value.retain_grad()
    losses_B = nn.functional.cross_entropy(z, labels_B, reduction="none")
    losses_B.mean().backward(retain_graph=True)
    modules = dict(model.named_modules())
    row = {}
    for name, value in values.items():
        weight = modules[name].weight
        row[f"layers/weight_norm/{name}"] = weight.norm().item()
        row[f"layers/weight_grad_norm/{name}"] = weight.grad.norm().item()
        row[f"layers/activation_rms/{name}"] = value.square().mean().sqrt().item()
        value.grad = None
    losses_B.sum().backward()
    for name, value in values.items():
        row[f"layers/activation_grad_rms/{name}"] = value.grad.square().mean().sqrt().item()
        match getattr(modules[name.removesuffix(".linear")], "activation", None):
            case nn.Sigmoid():
                dead = (value * (1 - value) < 0.25 / 20).double().mean()
            case nn.Tanh():
                dead = (1 - value.square() < 1 / 20).double().mean()
            case nn.ReLU() | nn.SiLU():
                dead = (value.amax(dim=0) <= 0).double().mean()
            case _ if name.endswith("expand"):
                dead = (value.amax(dim=0) <= 0).double().mean()
            case _:
                continue
        row[f"layers/dead_frac/{name}"] = dead.item()
    return row


@pytest.mark.parametrize("kind", ["relu", "silu", "sigmoid", "tanh", "leaky_relu", "softmax", "bottleneck"])
@pytest.mark.parametrize("sizes", [(BATCH,), (3, 4, 3)], ids=["whole", "micro-batches"])
def test_every_number_is_that_of_autograd_over_the_samples_that_count(kind: str, sizes: tuple[int, ...]) -> None:
    expected = by_hand(make(kind))
    assert measured(make(kind), sizes=sizes) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    dead = [value for key, value in expected.items() if "dead" in key]
    assert bool(dead) == (kind not in ("leaky_relu", "softmax"))
    assert kind not in ("relu", "silu", "sigmoid", "tanh") or dead[0] > 0


@pytest.mark.parametrize("kind", ["relu", "bottleneck"])
def test_what_is_computed_again_in_the_backward_pass_counts_once(kind: str) -> None:
    model = make(kind)
    checkpoint_activations(wrappable_blocks(model))
    assert measured(model) == measured(make(kind))


def test_a_relu_that_is_on_for_padding_alone_is_dead() -> None:
    model = mlp(in_features=1, widths=[4], num_classes=CLASSES)
    with torch.no_grad():
        model[0].linear.weight.copy_(torch.tensor([[1.0], [1.0], [-1.0], [0.0]]))
        model[0].linear.bias.copy_(torch.tensor([0.0, 2.0, 0.0, 0.0]))
    sums = LayerSums(layers_of(model), device=torch.device("cpu"))
    sums.attach(torch.tensor([1.0, 0.0]), grad_scale=1.0)
    model(torch.tensor([[-1.0], [5.0]]))
    sums.detach()
    assert sums.read()["layers/dead_frac/0.linear"] == 0.5  # the first, and the last, which is 0 for everything


def test_no_hook_is_left_behind() -> None:
    model = make("bottleneck")
    measured(model)
    parts = list(model.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts)


def gradients_by_layer(activation: str) -> list[float]:
    torch.manual_seed(1)
    model = mlp(in_features=FEATURES, widths=[64] * 10, num_classes=CLASSES, activation=activation, init="kaiming")
    row = measured(model)
    return [row[f"layers/activation_grad_rms/{number}.linear"] for number in range(10)]


def test_vanishing_gradients_show() -> None:
    """A sigmoid's slope is at most a quarter (Hochreiter 1991); with He's initial weights a relu keeps gradients."""
    sigmoid, relu = gradients_by_layer("sigmoid"), gradients_by_layer("relu")
    assert all(before < after for before, after in itertools.pairwise(sigmoid))
    assert sigmoid[0] < sigmoid[-1] / 1000
    assert relu[0] > relu[-1] / 10


def layer_rows(run_dir: Path) -> dict[int, dict[str, Any]]:
    """Return the rows on layers by step."""
    return {row["step"]: row for row in metric_rows(run_dir) if any(key.startswith("layers/") for key in row)}


def test_rows_come_at_the_first_step_every_few_and_the_last(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path / "run", *DEEP, *WATCHED, "batch.micro_size=5")
    rows = layer_rows(tmp_path / "run")
    assert list(rows) == [1, 3, 6, 8]
    layers = ("0.linear", "1.linear", "2")
    wanted = {f"layers/{quantity}/{layer}" for quantity in ALL for layer in layers}
    wanted |= {f"layers/dead_frac/{layer}" for layer in layers[:2]}
    assert all(row.keys() == {"step"} | wanted for row in rows.values())
    weights = load_checkpoint(tmp_path / "run" / "checkpoints" / checkpoint_name(8))["state_dict"]
    for layer in layers:
        norm = weights[f"model.{layer}.weight"].norm().item()
        assert rows[8][f"layers/weight_norm/{layer}"] == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        ["model.norm=batch", "model.dropout=0.3", "batch.micro_size=5", "trainer.clip_norm=0.1"],
        ["model.activation=tanh", "trainer.precision=bf16", "trainer.activation_checkpointing=true", "model.skip=true"],
    ],
    ids=["batch norm, dropout, micro-batches", "bf16, checkpointing, skips"],
)
def test_a_watched_run_ends_with_the_same_weights(synthetic: DataSet, tmp_path: Path, options: list[str]) -> None:
    train_here(synthetic.root, tmp_path / "plain", *DEEP, *options)
    train_here(synthetic.root, tmp_path / "watched", *DEEP, *options, "track.layers_every_steps=1")
    assert_equal_weights(tmp_path / "plain", tmp_path / "watched")
    assert len(layer_rows(tmp_path / "watched")) == 8


def test_a_resumed_run_has_each_row_once_and_equal(synthetic: DataSet, tmp_path: Path) -> None:
    options = ["model.hidden=[16,16]", *WATCHED, "checkpoint.every_steps=4", "checkpoint.keep=9"]
    train_here(synthetic.root, tmp_path / "run", *options, "trainer.max_epochs=1")
    expected = layer_rows(tmp_path / "run")
    for name in (checkpoint_name(8), "../summary.json"):
        (tmp_path / "run" / "checkpoints" / name).unlink()
    train_here(synthetic.root, tmp_path / "run", *options, "trainer.max_epochs=1")
    assert layer_rows(tmp_path / "run") == expected
    steps = [row["step"] for row in metric_rows(tmp_path / "run") if "layers/weight_norm/2" in row]
    assert steps == [1, 3, 6, 8]


def test_of_a_frozen_body_there_are_no_gradients(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path / "body", *DEEP)
    options = [*DEEP, *WATCHED, f"init.run={tmp_path / 'body'}", "init.freeze_body=true"]
    train_here(synthetic.root, tmp_path / "probe", *options)
    row = layer_rows(tmp_path / "probe")[8]
    assert {key for key in row if "grad" in key} == {
        "layers/weight_grad_norm/2",
        "layers/activation_grad_rms/2",
    }
    assert "layers/activation_rms/0.linear" in row


def test_of_a_compiled_model_weights_alone_are_watched_and_that_is_said(
    synthetic: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as ever, but not made into code, which takes a minute."""
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, mode: compile_module(module, backend="eager"))
    train_here(synthetic.root, tmp_path / "compiled", *DEEP, *WATCHED, "trainer.compile=true")
    train_here(synthetic.root, tmp_path / "eager", *DEEP, *WATCHED)
    compiled, eager = (layer_rows(tmp_path / name)[1] for name in ("compiled", "eager"))
    assert {key.split("/")[1] for key in compiled if "/" in key} == {"weight_norm", "weight_grad_norm"}
    for key, value in compiled.items():
        assert value == pytest.approx(eager[key], rel=1e-4), key
    assert caplog.text.count("no activations") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_ranks", "options"),
    [
        (2, ["batch.micro_size=4"]),
        (3, ["batch.size=full", "trainer.strategy=fsdp", "batch.micro_size=42"]),
        (4, ["trainer.strategy=fsdp", "trainer.shard_ranks=2", "trainer.activation_checkpointing=true"]),
    ],
    ids=["2 replicas", "3 shards, padded", "2 copies of 2 shards"],
)
def test_ranks_have_the_rows_of_one_process(
    synthetic: DataSet, tmp_path: Path, num_ranks: int, options: list[str]
) -> None:
    """The full batch of 100 is padded to 102 for 3 ranks; the width 17 divides by none of their numbers."""
    own = ("batch.micro_size", "trainer.strategy", "trainer.shard_ranks")
    every = [*SMALL, "model.hidden=[17,17]", "trainer.max_steps=3", "track.layers_every_steps=1"]
    common = [*every, *(option for option in options if not option.startswith(own))]
    train_here(synthetic.root, tmp_path / "one", *common)
    run_dir = tmp_path / "ranks"
    run_ranks(num_ranks, "pipeline.train", f"data.path={synthetic.root}", f"run_dir={run_dir}", *common, *options)
    expected = layer_rows(tmp_path / "one")
    assert list(expected) == [1, 2, 3]
    for step, row in layer_rows(run_dir).items():
        assert row == pytest.approx(expected[step], rel=1e-4), step
