"""Activation checkpointing: a block's inner values are thrown away and computed again in its backward pass.

    checkpoint_activations(wrappable_blocks(model))

Of each block the input alone is kept: for the bottleneck MLP one value of width D in place of about ten, for a third
more computing (Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv 1604.06174). Gradients are the
same to the last bit, dropout included: the generator is put back to where the block's first pass had it. Batch norm
counts a batch once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(blocks: Iterable[nn.Module]) -> None:
    """Let each block keep nothing but its input; names of parameters and of modules stay as they are."""
    for block in blocks:
        norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
        # Partials, not lambdas: a copy of the model then holds its own blocks and not the original's.
        options: dict[str, Any] = {"context_fn": functools.partial(_contexts, norms)} if norms else {}
        # Inside the module's hooks, so that a sharded block is gathered once for recomputing and backward together.
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, **options)


def _contexts(norms: list[_BatchNorm]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what surrounds the first pass and what surrounds the second."""
    return nullcontext(), _without_counting(norms)


@contextmanager
def _without_counting(norms: list[_BatchNorm]) -> Iterator[None]:
    """Leave running statistics as they are: the first pass has counted this batch.

    Not by `track_running_stats`, without which fewer tensors are saved for backward, and checkpoint refuses that.
    """
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, counted in before:
            norm.momentum, norm.num_batches_tracked = momentum, counted
