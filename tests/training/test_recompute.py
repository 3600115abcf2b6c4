"""Activation checkpointing: the same gradients to the last bit, less memory, and batch norm counts a batch once."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.model.blocks import wrappable_blocks
from pipeline.model.bottleneck import bottleneck_mlp
from pipeline.model.mlp import mlp
from pipeline.shards.manifest import DataSet
from pipeline.training.recompute import checkpoint_activations
from runs import assert_equal_weights, train_here

WIDTH, BATCH, DEPTH = 32, 16, 6


def bottleneck() -> nn.Module:
    return bottleneck_mlp(in_features=WIDTH, depth=DEPTH, width=WIDTH, num_classes=WIDTH, dropout=0.2)


def batch_normalised() -> nn.Module:
    return mlp(in_features=WIDTH, widths=[WIDTH] * DEPTH, num_classes=WIDTH, norm="batch", dropout=0.2)


def saved_bytes_of_a_step(model: nn.Module) -> int:
    """Run forward and backward, with fixed dropout; return the bytes of values that forward kept for backward."""
    images_BD = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1))
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(5)
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(images_BD).square().mean()
    torch.manual_seed(99)  # what has happened to the generator meanwhile must not matter
    loss.backward()
    return sum(kept.values())


@pytest.mark.parametrize("make", [bottleneck, batch_normalised])
def test_gradients_and_statistics_are_equal_to_the_last_bit(make: object) -> None:
    assert callable(make)
    plain = make()
    checkpointed = copy.deepcopy(plain)
    checkpoint_activations(wrappable_blocks(checkpointed))
    copied = copy.deepcopy(checkpointed)
    saved = [saved_bytes_of_a_step(model) for model in (plain, checkpointed, copied)]
    assert saved[1] == saved[2]
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for model in (checkpointed, copied):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter.grad, expected[name]), name
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, dict(plain.named_buffers())[name]), name


def test_of_a_bottleneck_block_the_input_alone_is_kept() -> None:
    """One value of the width for each sample and block, where there were about ten; stem, head and loss keep theirs."""
    plain, checkpointed = bottleneck(), bottleneck()
    checkpoint_activations(wrappable_blocks(checkpointed))
    one_value = 4 * BATCH * WIDTH
    before, after = saved_bytes_of_a_step(plain), saved_bytes_of_a_step(checkpointed)
    assert before >= DEPTH * 10 * one_value
    assert after <= (DEPTH + 4) * one_value


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_with_activation_checkpointing_ends_with_the_same_weights(
    synthetic: DataSet, tmp_path: Path, precision: str
) -> None:
    options = [
        "model=bottleneck_mlp",
        "model.depth=2",
        "model.width=8",
        "model.dropout=0.3",
        "trainer.max_steps=4",
        "batch.micro_size=5",
        f"trainer.precision={precision}",
    ]
    train_here(synthetic.root, tmp_path / "plain", *options)
    train_here(synthetic.root, tmp_path / "less", *options, "trainer.activation_checkpointing=true")
    assert_equal_weights(tmp_path / "plain", tmp_path / "less")
