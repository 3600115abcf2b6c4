"""Optimisers and the moving average where FSDP2 has cut the weights: on real ranks, equal to the whole model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from pipeline.build_model import build_model
from pipeline.build_optimizer import build_optimizer
from pipeline.model_config import BottleneckMlpConfig
from pipeline.optimizer_config import AdamWConfig, LionConfig, MuonConfig, SgdConfig
from pipeline.training.ema import WeightAverage
from pipeline.training.sharding import gather_whole
from spawned import on_ranks
from test_sharding import multiply_in_fp32

CONFIGS = {"sgd": SgdConfig(), "adamw": AdamWConfig(), "lion": LionConfig(rate=1e-3), "muon": MuonConfig(rate=1e-2)}
STEPS = 5


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_model_that_is_cut_is_trained_as_the_whole_one(tmp_path: Path, num_ranks: int) -> None:
    on_ranks(num_ranks, compare_all, tmp_path)


def compare_all(rank: int) -> None:
    multiply_in_fp32()
    for name in CONFIGS:
        compare(name)


def compare(name: str) -> None:
    """Assert that a model ends with the weights and the average that it has uncut."""
    # 6 rows cannot be cut evenly: one rank of four has none of them.
    whole = build_model(BottleneckMlpConfig(depth=3, width=6), in_features=5, num_classes=3, seed=0)
    cut = copy.deepcopy(whole)
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for module in cut:
        fully_shard(module, mesh=mesh)
    fully_shard(cut, mesh=mesh)
    (weights, average), (cut_weights, cut_average) = (trained(model, name) for model in (whole, cut))
    for found, expected, what in [(cut_weights, weights, "weights"), (cut_average, average, "average")]:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=lambda m, w=what: f"{name}, {w}: {m}")


def trained(model: nn.Module, name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the weights after some steps on the same batch on all ranks, and their average, both whole."""
    optimizer = build_optimizer(CONFIGS[name], model)
    average = WeightAverage(decay=0.5)
    average.start(model)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        inputs, labels = torch.randn(8, 5, generator=generator), torch.arange(8) % 3
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(model, finished_steps=1000)
    checkpoint: dict[str, dict[str, torch.Tensor]] = {}
    average.on_save_checkpoint(None, None, checkpoint)  # type: ignore[arg-type]
    checkpoint = gather_whole(checkpoint, keep=True)
    # A state that was stored is laid out again as the model lies, and lent to it.
    again = WeightAverage(decay=0.5)
    again.on_load_checkpoint(None, None, checkpoint)  # type: ignore[arg-type]
    again.start(model)
    weights = {key: whole_of(value) for key, value in model.state_dict().items()}
    with again.in_place(model):
        lent = {key: whole_of(value) for key, value in model.state_dict().items()}
    assert all(torch.equal(lent[key], value) for key, value in checkpoint["ema"].items())
    assert all(torch.equal(whole_of(value), weights[key]) for key, value in model.state_dict().items())
    return weights, checkpoint["ema"]


def whole_of(value: torch.Tensor) -> torch.Tensor:
    whole: torch.Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value.clone()
    return whole.detach()
