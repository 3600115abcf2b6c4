"""A sharded model goes from rank 0, or from a file, to all ranks: equal weights, and only the first ever holds all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy

from benchmarks.plan_memory import Watched, private_bytes
from pipeline.model.blocks import shardable_units
from pipeline.model.bottleneck import bottleneck_mlp
from pipeline.model.mlp import mlp
from pipeline.training.background import BackgroundWriter
from pipeline.training.checkpoint import load_checkpoint, write_checkpoint
from pipeline.training.sharding import fill_weights, gather_whole, shard_model, spread_weights
from spawned import on_ranks

pytestmark = pytest.mark.slow


def make_model(name: str) -> nn.Module:
    torch.manual_seed(5)
    if name == "batch norm":  # its buffers are whole on every rank, one of them a whole number
        return mlp(in_features=7, widths=[10, 10], num_classes=5, norm="batch")
    return bottleneck_mlp(in_features=7, depth=2, width=10, num_classes=5)


def cut(model: nn.Module, mesh_shape: tuple[int, ...]) -> nn.Module:
    mesh = init_device_mesh("cpu", mesh_shape, mesh_dim_names=("copies", "shards")[-len(mesh_shape) :])
    shard_model(model.to("meta"), shardable_units(model), mesh=mesh, policy=MixedPrecisionPolicy())
    return model.to_empty(device="cpu")


def spread(rank: int, name: str, mesh_shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    with torch.device("cpu" if rank == 0 else "meta"):
        model = make_model(name)
    drawn = model.state_dict() if rank == 0 else None
    model = cut(model, mesh_shape)
    spread_weights(model, drawn)
    model(torch.randn(4, 7)).sum().backward()
    state: dict[str, torch.Tensor] = gather_whole(model.eval().state_dict(), keep=True)
    return state


@pytest.mark.parametrize("mesh_shape", [(2,), (3,), (2, 2)], ids=["2 ranks", "3 ranks", "2 copies of 2 shards"])
@pytest.mark.parametrize("name", ["batch norm", "bottleneck"])
def test_every_rank_has_its_part_of_what_the_first_drew(tmp_path: Path, name: str, mesh_shape: tuple[int, ...]) -> None:
    drawn = make_model(name).state_dict()
    for found in on_ranks(torch.Size(mesh_shape).numel(), spread, tmp_path, name, mesh_shape):
        assert found.keys() == drawn.keys()
        for key, value in drawn.items():
            if "running" not in key and "tracked" not in key:  # of the pass that was made since
                assert torch.equal(found[key], value), key


WIDTH = 3000
WEIGHT_BYTES = 4 * WIDTH * (WIDTH + 1)


def wide(widths: int) -> nn.Module:
    return mlp(in_features=WIDTH, widths=[WIDTH] * widths, num_classes=1)


def growth(rank: int, path: str | None) -> dict[str, Any]:
    """Return the most by which a rank grew while it got its part of six weights of 36 MB, and what it has then."""
    path_of_weights = Path(path) if path is not None else None
    cut(wide(1), (2,))  # what is loaded once is loaded before
    before = private_bytes()
    with Watched() as seen:
        with torch.device("meta" if rank or path_of_weights else "cpu"):
            model = wide(6)
        drawn = None if rank or path_of_weights else model.state_dict()
        model = cut(model, (2,))
        if path_of_weights is None:
            spread_weights(model, drawn)
        else:
            fill_weights(model, load_checkpoint(path_of_weights, mapped=True)["weights"])
    sums = {name: float(value.full_tensor().double().sum()) for name, value in model.state_dict().items()}
    return {"grown": seen.peak_bytes - before, "sums": sums}


@pytest.mark.parametrize("from_file", [False, True], ids=["drawn", "stored"])
def test_a_rank_holds_its_part_and_one_tensor(tmp_path: Path, from_file: bool) -> None:
    torch.manual_seed(1)
    model, path = wide(6), tmp_path / "weights.ckpt"
    if from_file:
        write_checkpoint({"weights": model.state_dict()}, path)
    results = on_ranks(2, growth, tmp_path, str(path) if from_file else None)
    part = 6 * WEIGHT_BYTES // 2
    for rank, result in enumerate(results):
        if from_file:
            sums = {name: float(value.double().sum()) for name, value in model.state_dict().items()}
            assert result["sums"] == pytest.approx(sums)
        if from_file or rank:
            # Of its part a little may lie in memory that was free before.
            assert 0.9 * part <= result["grown"] < part + 2 * WEIGHT_BYTES
    assert results[0]["sums"] == results[1]["sums"]


def copied(rank: int) -> dict[str, Any]:
    """Return the most by which a rank grew while six weights of 36 MB were copied for a checkpoint, and the copy."""
    model = cut(wide(6), (2,))
    spread_weights(model, wide(6).state_dict() if rank == 0 else None)
    stored: dict[str, float] = {}

    def write(step: int, content: Mapping[str, Any]) -> None:
        stored.update({name: float(value.double().sum()) for name, value in content["weights"].items()})

    writer = BackgroundWriter(write)
    before = private_bytes()
    with Watched() as seen:
        writer.write(1, {"weights": model.state_dict()}, is_writer=rank == 0)
    writer.wait()
    writer.close()
    sums = {name: float(value.full_tensor().double().sum()) for name, value in model.state_dict().items()}
    return {"grown": seen.peak_bytes - before, "stored": stored, "sums": sums}


def test_a_checkpoint_is_gathered_into_one_copy_on_one_rank(tmp_path: Path) -> None:
    first, second = on_ranks(2, copied, tmp_path)
    assert first["stored"] == pytest.approx(first["sums"])
    assert second["stored"] == {}
    assert 6 * WEIGHT_BYTES <= first["grown"] < 9 * WEIGHT_BYTES
    assert second["grown"] < 3 * WEIGHT_BYTES


def test_a_file_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    on_ranks(1, refuse_others, tmp_path)


def refuse_others(rank: int) -> None:
    model = cut(make_model("bottleneck"), (1,))
    with pytest.raises(RuntimeError, match=r"2\.norm\.bias"):
        fill_weights(model, {name: value for name, value in model.state_dict().items() if name != "2.norm.bias"})
    with pytest.raises(RuntimeError, match=r"0\.weight is \(10, 8\) in the file, \(10, 7\) in the model"):
        fill_weights(model, {**make_model("bottleneck").state_dict(), "0.weight": torch.zeros(10, 8)})
