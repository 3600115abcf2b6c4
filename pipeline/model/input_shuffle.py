"""A fixed permutation of a model's inputs: the same for every image, in training and ever after.

    model = nn.Sequential(InputShuffle(in_features=3072, seed=5), *mlp(in_features=3072, widths=[512], num_classes=10))
    input_order(8, seed=0)                  # array([4, 2, 6, 1, 7, 5, 0, 3]): value 4 of an image comes first

A layer that is connected to all inputs cannot tell their order, so a multi-layer perceptron learns as well from
shuffled pixels; a convolution does not ("permutation invariance"; Goodfellow, Bengio, Courville, "Deep Learning",
section 9.4; Zhang et al. 2017, arXiv 1611.03530, figure 1). It is the model's first layer, so it comes after flips and
crops, which need to know the pixels' places, and belongs to whatever the model is evaluated, asked or exported by.

The order follows from the seed and the number of inputs, and is stored nowhere.

Axes: B batch, D input features, U units.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.shards.keyed import make_key, random_bits


def input_order(in_features: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Return int64 (D,): which input stands at each place, every permutation being as likely."""
    return np.argsort(random_bits(make_key("input_shuffle", seed), np.arange(in_features)), kind="stable")


class InputShuffle(nn.Module):
    """pixels_BD -> pixels_BD[:, input_order(D, seed=seed)]; it has no weights and no state."""

    def __init__(self, *, in_features: int, seed: int) -> None:
        super().__init__()
        self.in_features, self.seed = in_features, seed
        # Not a buffer: a copy in each checkpoint could differ from the config, and a model that was emptied, as a
        # sharded one is, would have lost it.
        self._order_D = torch.from_numpy(input_order(in_features, seed=seed))
        self._placed_D = self._order_D

    def forward(self, pixels_BD: torch.Tensor) -> torch.Tensor:
        if self._placed_D.device != pixels_BD.device:
            self._placed_D = self._order_D.to(pixels_BD.device)
        return pixels_BD.index_select(1, self._placed_D)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, seed={self.seed}"


def at_image_places(model: nn.Module, weights_UD: torch.Tensor) -> torch.Tensor:
    """Return the first layer's weights with each at the place of its input in the image; the same without a shuffle."""
    seed, in_features = shuffle_seed(model), weights_UD.shape[1]
    if seed is None:
        return weights_UD
    order_D = torch.from_numpy(input_order(in_features, seed=seed)).to(weights_UD.device)
    return torch.empty_like(weights_UD).index_copy_(1, order_D, weights_UD)


def shuffle_seed(model: nn.Module) -> int | None:
    """Return the seed that a model's inputs are shuffled by, None if they are not."""
    return next((module.seed for module in model.modules() if isinstance(module, InputShuffle)), None)
