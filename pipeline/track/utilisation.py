"""How much of what the device could compute a run computes: `rate/flops_per_s`, `rate/mfu_frac`, `gpu/use_frac`.

    utilisation = Utilisation(count_flop=lambda: training_flop(model), stated_flops_per_s=None, bf16=False)
    utilisation.row(images_per_s=30_000, peak_flops_per_s=1.1e11, gpu_use=math.nan)
    # {"rate/flops_per_s": 5.1e10, "rate/mfu_frac": 0.46}

Model FLOP utilisation as PaLM counts it (arXiv 2204.02311, appendix B): the matrix products that an image's forward and
backward pass need, 2 FLOP a multiply-add, over the peak of all ranks. Work that could be done without does not count:
what activation checkpointing computes again, and the gradient of the input, which nobody asks for. (Common rules of
"three forward passes" or 6 FLOP a weight count it, and are higher by the first layer's share.)

A rank's peak is, in this order: what the run states; the data sheet's number for dense products of the run's number
format, where the GPU is one of those below; what large products reach here, measured once after some seconds of
training, on all ranks at the same time, since they may share cores.

`gpu/use_frac` is the driver's: the share of the last sample period (up to a second) in which any kernel ran, the mean
over ranks; it needs the package nvidia-ml-py.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

log = logging.getLogger(__name__)

# Data sheets' dense FLOP/s with bfloat16, and with float32 whose products are rounded to TF32. The first match counts.
DATA_SHEETS: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250e12, 1125e12),
    ("GH200", 989.4e12, 494.7e12),
    ("H200 NVL", 835.5e12, 417.5e12),
    ("H200", 989.4e12, 494.7e12),
    ("H100 PCIe", 756e12, 378e12),
    ("H100 NVL", 835.5e12, 417.5e12),
    ("H100", 989.4e12, 494.7e12),
    ("A100", 312e12, 156e12),
    ("L40S", 362e12, 183e12),
    ("L4", 121e12, 60e12),
    ("A10", 125e12, 62.5e12),
    ("RTX 4090", 165.2e12, 82.6e12),
    ("RTX 3090", 71e12, 35.6e12),
)
# Seconds of training after which a peak that nothing states is measured, and for how long: 1 % of it.
MEASURE_AFTER_S, MEASURE_S = 10.0, 0.1
# Sides of the products: large enough to be near the peak, done in 20 ms on two cores.
CPU_SIDE, GPU_SIDE = 1024, 8192
LEAST_TURNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """FLOP/s that a rank's device can do, and who says so."""

    flops_per_s: float
    source: str


def known_peak(*, device_name: str, bf16: bool) -> Peak | None:
    """Return the data sheet's peak of a GPU, or None where it is not known or the GPU is cut into parts (MIG)."""
    for name, bf16_flops_per_s, tf32_flops_per_s in DATA_SHEETS:
        if "MIG" not in device_name and re.search(rf"\b{name}\b", device_name):
            flops_per_s = bf16_flops_per_s if bf16 else tf32_flops_per_s
            return Peak(flops_per_s=flops_per_s, source=f"data sheet of {name}, dense {'bf16' if bf16 else 'TF32'}")
    return None


def measured_peak(*, device: torch.device, bf16: bool) -> Peak:
    """Return the best that square products reach: what disturbs a turn makes it slower, never faster."""
    side = CPU_SIDE if device.type == "cpu" else GPU_SIDE
    dtype = torch.bfloat16 if bf16 else torch.float32
    left, right = (torch.full((side, side), 0.5, dtype=dtype, device=device) for _ in range(2))
    out = torch.mm(left, right)  # allocates, and wakes threads
    best_s, turns, started_s = math.inf, 0, time.perf_counter()
    while turns < LEAST_TURNS or time.perf_counter() - started_s < MEASURE_S:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        before_s = time.perf_counter()
        torch.mm(left, right, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best_s, turns = min(best_s, time.perf_counter() - before_s), turns + 1
    num_threads = torch.get_num_threads()
    on_cpu = f"{num_threads} thread{'' if num_threads == 1 else 's'}"
    where = on_cpu if device.type == "cpu" else "this GPU"
    source = f"measured: {side:,} x {side:,} {'bf16' if bf16 else 'fp32'} products on {where}"
    return Peak(flops_per_s=2 * side**3 / best_s, source=source)


class Utilisation:
    """Follows a run's speed on one rank.

    Args:
        count_flop: returns the FLOP of an image's forward and backward pass; asked once, when training starts.
        stated_flops_per_s: a rank's peak; None: of the data sheet, or measured.
        bf16: whether products are made in bfloat16.
    """

    def __init__(self, *, count_flop: Callable[[], int], stated_flops_per_s: float | None, bf16: bool) -> None:
        self._count_flop, self._stated_flops_per_s, self._bf16 = count_flop, stated_flops_per_s, bf16
        self._device = torch.device("cpu")
        self._flop_per_image = 0
        self._can_ask_gpu = False
        self._can_measure = True
        self._peak: Peak | None = None
        self._peak_of_ranks = math.nan

    def start(self, device: torch.device) -> None:
        """Find what is known before training."""
        self._device, self._flop_per_image = device, self._count_flop()
        self._can_ask_gpu = device.type == "cuda"
        if self._stated_flops_per_s is not None:
            self._peak = Peak(flops_per_s=self._stated_flops_per_s, source="stated: track.peak_flops_per_s")
        elif device.type == "cuda":
            self._peak = known_peak(device_name=torch.cuda.get_device_name(device), bf16=self._bf16)

    def of_this_rank(self) -> tuple[float, float]:
        """Return what is to be summed over ranks for `row`: the peak and the GPU's use, not a number if not known."""
        return math.nan if self._peak is None else self._peak.flops_per_s, self._gpu_use_frac()

    def row(
        self, *, images_per_s: float, peak_flops_per_s: float, gpu_use: float, world_size: int = 1
    ) -> dict[str, float]:
        """Return the metrics; `images_per_s` is of all ranks, and so are the sums of `of_this_rank`."""
        self._peak_of_ranks = peak_flops_per_s
        flops_per_s = images_per_s * self._flop_per_image
        row = {
            "rate/flops_per_s": flops_per_s,
            "rate/mfu_frac": flops_per_s / peak_flops_per_s,
            "gpu/use_frac": gpu_use / world_size,
        }
        return {name: value for name, value in row.items() if not math.isnan(value)}

    def measure_when_due(self, trained_s: float) -> None:
        """Measure an unknown peak when training has taken long enough; all ranks must be told the same seconds."""
        if self._peak is None and self._can_measure and trained_s >= MEASURE_AFTER_S:
            try:
                self._peak = measured_peak(device=self._device, bf16=self._bf16)
            except torch.OutOfMemoryError as error:  # the run needs all of it, on this rank at least
                self._can_measure = False
                log.info("rate/mfu_frac is left out: no room to measure the peak (%s)", error)

    def summary(self, *, images_per_s: float) -> dict[str, Any]:
        """Return what a run's summary says of its speed; `images_per_s` is of the whole run."""
        flops_per_s = images_per_s * self._flop_per_image
        found: dict[str, Any] = {"rate/flops_per_s": flops_per_s}
        if self._peak is not None and not math.isnan(self._peak_of_ranks):
            found["rate/mfu_frac"] = flops_per_s / self._peak_of_ranks
            found["peak_flops_per_s"] = self._peak_of_ranks
            found["peak_source"] = self._peak.source
        return found

    def _gpu_use_frac(self) -> float:
        if self._can_ask_gpu:
            try:
                return torch.cuda.utilization(self._device) / 100
            except Exception as error:  # no nvidia-ml-py, no permission, a driver that does not tell: it stays so
                self._can_ask_gpu = False
                log.info("gpu/use_frac is left out (%s); it needs the package nvidia-ml-py", error)
        return math.nan
