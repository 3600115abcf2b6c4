"""What does an update cost: torch's AdamW as it comes, fused, and the optimisers of this package?

    python -m benchmarks.optimizers                                  # the embedded default model
    python -m benchmarks.optimizers --depth 12 --width 1024 --features 12288 --classes 11230

Each candidate takes turns on a bottleneck MLP of its own with the same gradients; only `optimizer.step()` is timed, on
the GPU where there is one. State is counted in bytes beside those of the weights. Muon's step is mostly matrix
products, whose cost grows with the width and not with the batch, so the last column has the step as a share of a
training step (forward, backward, update) at the batch size that is given.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.measure import print_conditions, print_table, rate_text, take_turns
from pipeline.build_optimizer import build_optimizer
from pipeline.model.bottleneck import bottleneck_mlp
from pipeline.model.roles import Role, roles_of
from pipeline.optimizer_config import AdamWConfig, LionConfig, MuonConfig, SgdConfig
from pipeline.shards.errors import run_entry_point

MakeOptimizers = Callable[[nn.Module], list[torch.optim.Optimizer]]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimizers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--features", type=int, default=3072)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256, help="of the training step in the last column")
    parser.add_argument("--steps", type=int, default=20, help="timed in a turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    candidates: dict[str, MakeOptimizers] = {
        "torch AdamW": lambda model: [torch.optim.AdamW(model.parameters())],
        "AdamW": lambda model: [build_optimizer(AdamWConfig(), model)],
        "SGD, momentum": lambda model: [build_optimizer(SgdConfig(), model)],
        "Lion": lambda model: [build_optimizer(LionConfig(), model)],
        "torch Muon + AdamW": _torch_muon,
        "Muon + AdamW": lambda model: [build_optimizer(MuonConfig(), model)],
    }
    timed = {name: Timed(make, options, device) for name, make in candidates.items()}
    seconds = take_turns(
        {name: partial(one.step_s, options.steps) for name, one in timed.items()}, repeats=options.repeats
    )
    pass_s = statistics.median(timed["AdamW"].pass_s() for _ in range(options.repeats))
    parameters = sum(parameter.numel() for parameter in timed["AdamW"].model.parameters())
    print_conditions(f"python -m benchmarks.optimizers {' '.join(argv)}".rstrip())
    print(f"{parameters / 1e6:.2f} million parameters on {device.type}, {torch.get_num_threads()} threads\n")
    base = statistics.median(seconds["torch AdamW"])
    rows = []
    for name, values in seconds.items():
        median = statistics.median(values)
        rows.append(
            [
                name,
                rate_text([1000 * value for value in values], decimals=2),
                f"{median / base:.2f}",
                f"{timed[name].state_bytes() / (4 * parameters):.2f}",
                f"{100 * median / (median + pass_s):.0f}%",
                str(len(values)),
            ]
        )
    share = f"of a training step, batch {options.batch_size}"
    print_table(["update", "ms, median (min to max)", "times torch AdamW", "state / weights", share, "n"], rows)
    return 0


class Timed:
    """A model of its own with gradients, and what updates it."""

    def __init__(self, make: MakeOptimizers, options: argparse.Namespace, device: torch.device) -> None:
        self.device, self.batch_size, self.classes = device, options.batch_size, options.classes
        self.model = bottleneck_mlp(
            in_features=options.features, depth=options.depth, width=options.width, num_classes=options.classes
        ).to(device)
        self.inputs = torch.randn(options.batch_size, options.features, device=device)
        self.optimizers = make(self.model)
        self.pass_s()  # gradients
        self.step_s(2)  # states

    def step_s(self, steps: int) -> float:
        """Return the seconds of one update."""
        started_s = self._now_s()
        for _ in range(steps):
            for optimizer in self.optimizers:
                optimizer.step()
        return (self._now_s() - started_s) / steps

    def pass_s(self) -> float:
        """Return the seconds of a forward and a backward pass."""
        self.model.zero_grad()
        started_s = self._now_s()
        labels = torch.arange(self.batch_size, device=self.device) % self.classes
        nn.functional.cross_entropy(self.model(self.inputs), labels).backward()  # type: ignore[no-untyped-call]
        return self._now_s() - started_s

    def state_bytes(self) -> int:
        """Return the bytes of what the optimisers keep between updates."""
        kept = [
            value for optimizer in self.optimizers for state in optimizer.state.values() for value in state.values()
        ]
        return sum(value.numel() * value.element_size() for value in kept if isinstance(value, torch.Tensor))

    def _now_s(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _torch_muon(model: nn.Module) -> list[torch.optim.Optimizer]:
    """The same split with torch's own classes: two optimisers, which Lightning's automatic optimisation cannot take."""
    roles = roles_of(model)
    hidden = [parameter for name, parameter in model.named_parameters() if roles[name] is Role.hidden]
    rest = [parameter for name, parameter in model.named_parameters() if roles[name] is not Role.hidden]
    muon = torch.optim.Muon(hidden, lr=1e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, fused=True)]


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
