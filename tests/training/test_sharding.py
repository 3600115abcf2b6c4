"""Sharded training on real ranks equals training in one process, also when it is loaded again half-way."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.parallel import DistributedDataParallel

from pipeline.build_optimizer import build_optimizer
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS
from pipeline.model.blocks import shardable_units
from pipeline.model.bottleneck import bottleneck_mlp
from pipeline.model.mlp import mlp
from pipeline.training import optim_muon
from pipeline.training.compression import average_in_bf16
from pipeline.training.sharding import (
    gather_whole,
    is_sharded,
    load_optimizer_state,
    shard_model,
    weights_put_back,
    whole,
)
from spawned import on_ranks

pytestmark = pytest.mark.slow

# 12 divides by every number of ranks here, the widths 10 and the 5 classes by none but 2 and 5.
BATCH, FEATURES, WIDTH, CLASSES = 12, 7, 10, 5
STEPS = 3
OPTIMIZERS = ("sgd", "adamw", "lion", "muon")


def make_model() -> nn.Module:
    torch.manual_seed(3)
    return bottleneck_mlp(in_features=FEATURES, depth=2, width=WIDTH, num_classes=CLASSES)


def make_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    options = [f"optimizer={name}", "optimizer.rate=0.01", "optimizer.weight_decay=0.1"]
    config = compose("train", TRAIN_SCHEMAS, ["data.path=x", *options])
    return build_optimizer(config.optimizer, model)


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    images_BD = torch.randn(BATCH, FEATURES, generator=generator)
    return images_BD, torch.randint(CLASSES, (BATCH,), generator=generator)


def train_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, first: int, last: int, share: slice = slice(None)
) -> list[float]:
    """Train on each step's batch, or on a share of it; return the norms of the gradients before they were clipped."""
    norms = []
    for step in range(first, last):
        images_BD, labels_B = batch_of(step)
        nn.functional.cross_entropy(model(images_BD[share]), labels_B[share]).backward()
        norms.append(float(whole(nn.utils.clip_grad_norm_(model.parameters(), 0.5))))
        optimizer.step()
        optimizer.zero_grad()
    return norms


def sharded(model: nn.Module, mesh_shape: tuple[int, ...]) -> nn.Module:
    mesh = init_device_mesh("cpu", mesh_shape, mesh_dim_names=("copies", "shards")[-len(mesh_shape) :])
    shard_model(model, shardable_units(model), mesh=mesh, policy=MixedPrecisionPolicy())
    return model


def multiply_in_fp32() -> None:
    """Let Muon compute alike on every processor; the rounding of bfloat16 would hide what is compared."""
    optim_muon._cpu_type = lambda: torch.float32  # type: ignore[assignment]


def train_sharded(rank: int, mesh_shape: tuple[int, ...]) -> dict[str, Any]:
    """Train with each optimiser; then again from what was gathered half-way, which must end the same."""
    multiply_in_fp32()
    size = BATCH // int(torch.tensor(mesh_shape).prod())
    share = slice(rank * size, (rank + 1) * size)
    results: dict[str, Any] = {}
    for name in OPTIMIZERS:
        model = sharded(make_model(), mesh_shape)
        optimizer = make_optimizer(name, model)
        norms = train_steps(model, optimizer, first=0, last=STEPS, share=share)
        weights = gather_whole(model.state_dict(), keep=True)
        state = copy.deepcopy(gather_whole(optimizer.state_dict(), keep=True))
        norms += train_steps(model, optimizer, first=STEPS, last=2 * STEPS, share=share)

        again = make_model()
        again.load_state_dict(weights)
        again = sharded(again, mesh_shape)
        other = make_optimizer(name, again)
        load_optimizer_state(other, state)
        train_steps(again, other, first=STEPS, last=2 * STEPS, share=share)
        results[name] = {
            "norms": norms,
            "weights": gather_whole(model.state_dict(), keep=True),
            "reloaded": gather_whole(again.state_dict(), keep=True),
            "state": gather_whole(optimizer.state_dict(), keep=True)["state"],
            "held": sum(parameter.to_local().numel() for parameter in model.parameters()),
        }
    return results


@pytest.mark.parametrize("mesh_shape", [(2,), (3,), (2, 2)], ids=["2 ranks", "3 ranks", "2 copies of 2 shards"])
def test_a_sharded_model_trains_like_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mesh_shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(optim_muon, "_cpu_type", lambda: torch.float32)
    num_ranks = int(torch.tensor(mesh_shape).prod())
    results = on_ranks(num_ranks, train_sharded, tmp_path, mesh_shape)
    for name in OPTIMIZERS:
        model = make_model()
        optimizer = make_optimizer(name, model)
        norms = train_steps(model, optimizer, first=0, last=2 * STEPS)
        expected = optimizer.state_dict()["state"]
        for result in (ranks[name] for ranks in results):
            assert result["norms"] == pytest.approx(norms, rel=1e-4)
            torch.testing.assert_close(result["weights"], dict(model.state_dict()), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(result["state"], expected, rtol=1e-4, atol=1e-5)
            for key, value in result["weights"].items():
                assert torch.equal(value, result["reloaded"][key]), (name, key)
        copies = num_ranks // mesh_shape[-1]
        held = sum(ranks[name]["held"] for ranks in results)
        assert held == copies * sum(parameter.numel() for parameter in model.parameters())
        assert max(ranks[name]["held"] for ranks in results) < 0.6 * held / copies


def evaluate_between(rank: int) -> dict[str, Any]:
    """Evaluate, change the weights, and evaluate again: an evaluation must see the weights as they are."""
    model = sharded(make_model(), (2,))
    images_BD, _ = batch_of(0)
    with torch.no_grad():
        before = model(images_BD)
        for parameter in model.parameters():
            parameter.mul_(2)
        after = model(images_BD)
    with weights_put_back(model):
        train_steps(model, make_optimizer("sgd", model), first=0, last=2)
    with torch.inference_mode():
        put_back = model(images_BD)
    train_steps(model, make_optimizer("sgd", model), first=0, last=1)  # goes on after inference mode
    return {"before": before, "after": after, "put_back": put_back.clone(), "sharded": is_sharded(model)}


def test_an_evaluation_sees_the_weights_as_they_are(tmp_path: Path) -> None:
    model, images_BD = make_model(), batch_of(0)[0]
    with torch.no_grad():
        before = model(images_BD)
        for parameter in model.parameters():
            parameter.mul_(2)
        after = model(images_BD)
    for result in on_ranks(2, evaluate_between, tmp_path):
        torch.testing.assert_close(result["before"], before)
        torch.testing.assert_close(result["after"], after)
        assert torch.equal(result["after"], result["put_back"])
        assert result["sharded"]


def normalised_outputs(rank: int) -> dict[str, Any]:
    """Train on other samples on each rank and return batch norm's statistics, before and after an evaluation."""
    torch.manual_seed(3)
    model = sharded(mlp(in_features=FEATURES, widths=[WIDTH], num_classes=CLASSES, norm="batch"), (2,))
    train_steps(model, make_optimizer("sgd", model), first=0, last=2, share=slice(6 * rank, 6 * rank + 6))
    trained = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        model.eval()(batch_of(0)[0])
    return {"trained": trained, "evaluated": dict(model.named_buffers())}


def replicated_outputs(rank: int) -> dict[str, Any]:
    torch.manual_seed(3)
    model = mlp(in_features=FEATURES, widths=[WIDTH], num_classes=CLASSES, norm="batch")
    train_steps(
        DistributedDataParallel(model),
        make_optimizer("sgd", model),
        first=0,
        last=2,
        share=slice(6 * rank, 6 * rank + 6),
    )
    return dict(model.named_buffers())


def test_batch_norm_has_the_statistics_that_ddp_gives_it(tmp_path: Path) -> None:
    """Rank 0's are everyone's before each forward pass; an evaluation uses the same ones on every rank."""
    for name in ("sharded", "replicated"):
        (tmp_path / name).mkdir()
    replicated = on_ranks(2, replicated_outputs, tmp_path / "replicated")
    results = on_ranks(2, normalised_outputs, tmp_path / "sharded")
    for rank in range(2):
        torch.testing.assert_close(results[rank]["trained"], replicated[rank])
    torch.testing.assert_close(results[1]["evaluated"], results[0]["trained"])


def compressed_gradients(rank: int) -> dict[str, Any]:
    """Return a rank's own gradients of two micro-batches and what DDP made of them with the hook."""
    model = nn.Linear(FEATURES, CLASSES)
    model.load_state_dict(nn.Linear(FEATURES, CLASSES).state_dict() if rank else model.state_dict())
    exchanging = DistributedDataParallel(model, gradient_as_bucket_view=True)
    exchanging.register_comm_hook(None, average_in_bf16)
    images_BD, labels_B = batch_of(rank)
    nn.functional.cross_entropy(exchanging(images_BD), labels_B).backward()
    mine = nn.Linear(FEATURES, CLASSES)
    mine.load_state_dict(model.state_dict())
    nn.functional.cross_entropy(mine(images_BD), labels_B).backward()
    assert model.weight.grad is not None
    assert mine.weight.grad is not None
    return {"exchanged": model.weight.grad, "mine": mine.weight.grad}


def test_a_compressed_gradient_is_the_sum_of_halves_rounded_to_bfloat16(tmp_path: Path) -> None:
    results = on_ranks(2, compressed_gradients, tmp_path)
    first, second = ((result["mine"] / 2).bfloat16() for result in results)
    expected = (first.float() + second.float()).bfloat16().float()
    exact = (results[0]["mine"] + results[1]["mine"]) / 2
    for result in results:
        assert torch.equal(result["exchanged"], expected)
        assert not torch.equal(result["exchanged"], exact)
        torch.testing.assert_close(result["exchanged"], exact, rtol=0, atol=float(exact.abs().max()) / 128)
