"""The learning rate as a pure function of the step: nothing to save, nothing to restore.

rate_factor(step=0, total_steps=1000, warmup_steps=100, shape="cosine")      # 0.01
"""

from __future__ import annotations

import math


def rate_factor(
    *, step: int, total_steps: int, warmup_steps: int = 0, shape: str = "constant", final_frac: float = 0.0
) -> float:
    """Return the share of the peak rate for update `step` (0-based).

    Linear warm-up reaches 1 with update `warmup_steps - 1`; then constant, or half a cosine that would reach
    `final_frac` with update `total_steps`, one past the last (SGDR, arXiv 1608.03983, without restarts).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if shape == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_frac + (1 - final_frac) * 0.5 * (1 + math.cos(math.pi * progress))
