"""The learning rate, and the noise of the gradient, as pure functions of the step: nothing to save or to restore.

rate_factor(step=0, total_steps=1000, warmup_steps=100, shape="cosine")      # 0.01
scaled_rate(0.1, batch_size=1024, reference_batch=256, scaling="linear")     # 0.4
noise_std(99, std=0.1, decay=0.55)                                           # 0.028
"""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["constant", "cosine", "linear", "exponential"]


def rate_factor(
    *,
    step: int,
    total_steps: int,
    warmup_steps: int = 0,
    decay_steps: int | None = None,
    shape: Shape = "constant",
    final_frac: float = 0.0,
) -> float:
    """Return the share of the peak rate for update `step` (0-based).

    Linear warm-up reaches 1 with update `warmup_steps - 1`. Then the rate is constant, or falls over the last
    `decay_steps` updates (None: over all that follow the warm-up) along half a cosine, a straight line, or by one
    factor a step, so that it would reach `final_frac` with update `total_steps`, one past the last. (Cosine: SGDR,
    arXiv 1608.03983, without restarts; linear after a constant part: "warm-up, stable, decay", arXiv 2405.18392.)
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if shape == "constant":
        return 1.0
    longest = max(1, total_steps - warmup_steps)
    decay_steps = longest if decay_steps is None else min(decay_steps, longest)
    progress = (step - (total_steps - decay_steps)) / max(1, decay_steps)
    progress = min(1.0, max(0.0, progress))
    if shape == "exponential":
        return math.pow(final_frac, progress)
    fallen = 0.5 * (1 - math.cos(math.pi * progress)) if shape == "cosine" else progress
    return 1 - (1 - final_frac) * fallen


def scaled_rate(rate: float, *, batch_size: int, reference_batch: int, scaling: Literal["linear", "sqrt"]) -> float:
    """Return the rate for batches of `batch_size`, where `rate` is right for `reference_batch`.

    Linear for SGD (Goyal et al., arXiv 1706.02677, section 2.1); by the square root for optimisers whose step does not
    depend on the gradient's scale (Malladi et al., arXiv 2205.10287, section 5).
    """
    ratio = batch_size / reference_batch
    return rate * (ratio if scaling == "linear" else math.sqrt(ratio))


def noise_std(age: int, *, std: float, decay: float) -> float:
    """Return the standard deviation of the gradient's noise `age` updates after it began.

    Its square is std**2 / (1 + age)**decay (Neelakantan et al. 2015, arXiv 1511.06807, equation 1: decay 0.55).
    """
    return std * math.pow(1 + age, -decay / 2)
