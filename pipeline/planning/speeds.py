"""What this machine does, measured in a second: FLOP/s of the model's largest product, bytes/s of its memory.

    flops_per_s = product_flops_per_s(in_features=1024, out_features=4096, slots=256, bf16=False, device=device)
    bytes_per_s = update_bytes_per_s(device=device)

Medians of a few turns, on the threads that torch has here. Ranks that share a machine get a share of it: measure as
many at once, or state the numbers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

MEASURE_S = 0.3
TURNS = 5
# More than caches hold, little enough for any device.
UPDATE_NUMBERS = 1 << 24


def product_flops_per_s(*, in_features: int, out_features: int, slots: int, bf16: bool, device: torch.device) -> float:
    """Return the rate of the three products of a linear layer's forward and backward pass."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    inputs = torch.randn(slots, in_features, device=device, dtype=dtype)
    weight = torch.randn(out_features, in_features, device=device, dtype=dtype)
    errors = torch.randn(slots, out_features, device=device, dtype=dtype)

    def products() -> None:
        torch.mm(inputs, weight.t())
        torch.mm(errors, weight)
        torch.mm(errors.t(), inputs)

    return 6 * slots * in_features * out_features / _seconds(products, device)


def update_bytes_per_s(*, device: torch.device) -> float:
    """Return the rate of reading two numbers and writing one, as in an update of weights."""
    left, right = (torch.zeros(UPDATE_NUMBERS, device=device) for _ in range(2))
    return 3 * left.nbytes / _seconds(lambda: left.add_(right), device)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the median time of one run, of a few turns."""

    def timed(times: int) -> float:
        started_s = time.perf_counter()
        for _ in range(times):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - started_s) / times

    timed(1)  # allocates, and wakes threads
    times = max(1, round(MEASURE_S / TURNS / max(timed(1), 1e-9)))
    return statistics.median(timed(min(times, 10_000)) for _ in range(TURNS))
