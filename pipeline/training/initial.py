"""Starting from trained weights: fine-tuning, and a linear probe on a body that stays as it is.

    take_over(model, weights, keep_head=False, source="runs/0001")      # the body's weights; the head starts anew
    freeze_body(model)                                                  # with FrozenBody(model) (frozen_body.py)

The head is the layer that gives the logits, the body is everything before it. As in "Scaling MLPs" (arXiv
2306.13575, section 3.2) the head is replaced for other classes, and the body is trained on at a smaller rate
(`optimizer.body_rate_scale`), or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from pipeline.model.roles import output_layer
from pipeline.shards.errors import UserError


def take_over(model: nn.Module, weights: Mapping[str, torch.Tensor], *, keep_head: bool, source: str) -> None:
    """Put trained weights, buffers included, into a model: all of them, or all but the head's.

    Args:
        weights: a state dict of a model of the same form; of the head's, only those that are kept must fit.
        source: for the error's text.

    Raises:
        UserError: it is a model of another form, or, where the head is kept, of other classes.
    """
    own = model.state_dict()
    head = output_layer(model)[0] + "."
    wanted = {name: value for name, value in own.items() if keep_head or not name.startswith(head)}
    if not wanted:
        raise UserError(f"init.run={source}: a model of one layer has no body to take over; add init.head=keep")
    for name, value in wanted.items():
        if name not in weights or weights[name].shape != value.shape:
            there = f"is {tuple(weights[name].shape)} there" if name in weights else "is not there"
            raise UserError(
                f"init.run={source}: does not fit this model: {name} {there}, {tuple(value.shape)} here; the same model"
                " options and image size are wanted" + (", or init.head=new" if name.startswith(head) else "")
            )
    if surplus := sorted(weights.keys() - own.keys()):
        raise UserError(
            f"init.run={source}: does not fit this model: it has {surplus[0]}, which is not here; the same model"
            " options are wanted"
        )
    model.load_state_dict({name: weights[name] for name in wanted}, strict=False)


def freeze_body(model: nn.Module) -> None:
    """Leave the head alone to be trained: no gradients of anything before it are computed."""
    head, _ = output_layer(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[0] == head)
