"""Isotropic noise in the gradient: the same on every number of ranks, and after a resume.

    add_noise(model, std=noise_std(step, std=0.1, decay=0.55), seed=7, step=step)       # of schedule.py: how much

Each value of the gradient gets a Gaussian number of its own just before the update, after the gradient was measured and
clipped (Neelakantan et al. 2015, "Adding gradient noise improves learning for very deep networks", arXiv 1511.06807).
The noise of mini-batches treats neurons alike that are alike; this noise does not.
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline.shards.keyed import make_key
from pipeline.training.optim_state import local
from pipeline.training.sharding import shard_like


@torch.no_grad()
def add_noise(model: nn.Module, *, std: float, seed: int, step: int) -> None:
    """Add Gaussian numbers to the gradients of a model, a function of seed, step and the parameter's place in it.

    A sharded gradient gets this rank's part of the noise of the whole one. A GPU draws other numbers than a CPU.
    """
    if std == 0:
        return
    for number, parameter in enumerate(model.parameters()):
        gradient = parameter.grad
        if gradient is not None:
            _add_to(gradient, std=std, key=make_key("gradient noise", seed, step, number))


def _add_to(gradient: torch.Tensor, *, std: float, key: int) -> None:
    """Add the noise of one gradient, which is let go before the next one's is drawn."""
    generator = torch.Generator(gradient.device)
    generator.manual_seed(key >> 1)
    noise = torch.empty(gradient.shape, dtype=gradient.dtype, device=gradient.device)
    noise.normal_(std=std, generator=generator)
    local(gradient).add_(local(shard_like(noise, gradient)))
