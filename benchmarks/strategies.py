"""What does each way of sharing a step hold on a rank, and what does an update cost?

    python -m benchmarks.strategies                                  # B-6/Wi-256 for 64x64 pixels, two ranks over gloo
    python -m benchmarks.strategies --width 1024 --depth 12 --classes 11230

Each candidate trains in processes of its own, with AdamW. "Held" is what stays between updates: a rank's weights,
gradients and optimiser state, by their bytes. "Peak" is the most that the process had (VmHWM) over what it had before
its model, from the third update on: with activations, gathered weights and buffers of the exchange. On one machine
ranks share processors and the memory's bandwidth: times tell what the ways cost there, not over a network.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.parallel import DistributedDataParallel

from benchmarks.measure import print_conditions, print_table, rate_text
from pipeline.build_optimizer import build_optimizer
from pipeline.model.blocks import shardable_units, wrappable_blocks
from pipeline.model.bottleneck import bottleneck_mlp
from pipeline.optimizer_config import AdamWConfig
from pipeline.shards.errors import run_entry_point
from pipeline.training.compression import average_in_bf16
from pipeline.training.optim_state import local
from pipeline.training.recompute import checkpoint_activations
from pipeline.training.sharding import shard_model

# Name of the row: (sharded, gradients in bf16, activations computed again).
CANDIDATES = {
    "ddp": (False, False, False),
    "ddp, bf16 gradients": (False, True, False),
    "ddp, checkpointing": (False, False, True),
    "fsdp": (True, False, False),
    "fsdp, bf16 gradients": (True, True, False),
    "fsdp, checkpointing": (True, False, True),
}
MIB = 1 << 20


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strategies", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--features", type=int, default=12288)
    parser.add_argument("--classes", type=int, default=11230)
    parser.add_argument("--rank-batch", type=int, default=256, help="samples of each rank in an update")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="updates that are timed")
    parser.add_argument("--only", nargs="*", default=list(CANDIDATES), choices=list(CANDIDATES), help="candidates")
    options = parser.parse_args(argv)
    print_conditions(f"python -m benchmarks.strategies {' '.join(argv)}".rstrip())
    rows = []
    for name in options.only:
        chosen = CANDIDATES[name]
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(_train, args=(options, chosen, Path(folder)), nprocs=options.ranks)  # type: ignore[attr-defined, no-untyped-call]
            results = [torch.load(path, weights_only=True) for path in Path(folder).glob("*.pt")]
        # An update ends when the last rank's does.
        seconds = [max(times) for times in zip(*(result["seconds"] for result in results), strict=True)]
        rows.append(
            [
                name,
                f"{max(result['held'] for result in results) / MIB:,.0f}",
                f"{max(result['peak'] for result in results) / MIB:,.0f}",
                rate_text([1000 * value for value in seconds]),
                str(len(seconds)),
            ]
        )
    print(f"{results[0]['parameters'] / 1e6:.2f} million parameters, {options.ranks} ranks of {options.rank_batch}\n")
    print_table(["candidate", "held, MiB", "peak, MiB", "update, ms, median (min to max)", "n"], rows)
    return 0


def _train(rank: int, options: argparse.Namespace, chosen: tuple[bool, bool, bool], folder: Path) -> None:
    """Train on one rank and leave what was measured in `folder`."""
    sharded, compressed, checkpointed = chosen
    torch.set_num_threads(max(1, torch.get_num_threads() // options.ranks))
    meeting = f"file://{folder / 'meeting-point'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=options.ranks)
    torch.manual_seed(0)
    before_bytes = _memory_bytes("VmRSS")
    model: nn.Module = bottleneck_mlp(
        in_features=options.features, depth=options.depth, width=options.width, num_classes=options.classes
    )
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if checkpointed:
        checkpoint_activations(wrappable_blocks(model))
    forward = model
    if sharded:
        mesh = init_device_mesh("cpu", (options.ranks,))
        policy = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16 if compressed else torch.float32)
        shard_model(model, shardable_units(model), mesh=mesh, policy=policy)
    else:
        forward = DistributedDataParallel(model, gradient_as_bucket_view=True)
        if compressed:
            forward.register_comm_hook(None, average_in_bf16)
    optimizer = build_optimizer(AdamWConfig(), model)
    inputs_BD = torch.randn(options.rank_batch, options.features)
    labels_B = torch.arange(options.rank_batch) % options.classes
    seconds = []
    for update in range(options.repeats + 2):
        if update == 2:
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
        distributed.barrier()
        started_s = time.perf_counter()
        nn.functional.cross_entropy(forward(inputs_BD), labels_B).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if update >= 2:
            seconds.append(time.perf_counter() - started_s)
        if update < options.repeats + 1:
            optimizer.zero_grad(set_to_none=False)
    result = {
        "seconds": seconds,
        "held": _held_bytes(model, optimizer),
        "peak": _memory_bytes("VmHWM") - before_bytes,
        "parameters": num_parameters,
    }
    torch.save(result, folder / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def _held_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of this rank's weights, gradients and optimiser state."""
    tensors: list[Any] = [*model.parameters(), *(parameter.grad for parameter in model.parameters())]
    tensors += [value for state in optimizer.state.values() for value in state.values()]
    return sum(local(value).numel() * value.element_size() for value in tensors if isinstance(value, torch.Tensor))


def _memory_bytes(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
