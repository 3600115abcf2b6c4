"""Mixup (Zhang et al. 2018, arXiv 1710.09412): each sample is trained on blended with another, its target alike.

    quantiles = BetaQuantiles(0.8)
    own_B = own_shares(quantiles, positions_B, seed=7, epoch=3)     # Beta(0.8, 0.8), each a function of its position
    mix_neighbours(pixels_BD, own_B)                                # in place: own * x + (1 - own) * x of the neighbour

The neighbour of slot s of a global batch is slot s ^ 1: slots 0 and 1 blend with each other, 2 and 3, and so on, each
with a share of its own. Since the order is random, so are the pairs; and since every rank has a run of whole pairs, a
blend does not depend on the number of ranks or micro-batches, nothing is sent between ranks and nothing is read twice.
(timm pairs slot s with B-1-s of a rank's batch, which is as random but another pair for every number of ranks.)

Axes: B batch, an even number of consecutive slots from an even one on; D pixels of an image; K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.augment import hashed
from pipeline.shards.keyed import make_key

# Nodes of the stored quantiles, and of the integral that gives them.
NODES, STEPS = 4096, 1 << 16


class BetaQuantiles:
    """The quantile function of Beta(alpha, alpha), on the device of what it is asked for.

    Half of it is stored, as the distribution is symmetric, and not x itself but x**alpha, which goes through 0 as a
    straight line for every alpha, so that linear interpolation between 4,096 nodes is right to 1e-6.
    """

    def __init__(self, alpha: float) -> None:
        if not 0 < alpha < float("inf"):
            raise ValueError(f"alpha={alpha}: more than 0 wanted")
        self.alpha = alpha
        self._powers = torch.from_numpy(_powers_of_quantiles(alpha))
        self._on_device = self._powers

    def __call__(self, u_B: torch.Tensor) -> torch.Tensor:
        """Return x with P(X < x) = u, for float64 u in (0, 1)."""
        if self._on_device.device != u_B.device:
            self._on_device = self._powers.to(u_B.device)
        places = torch.minimum(u_B, 1 - u_B) * (2 * NODES)
        nodes = places.long().clamp_(max=NODES - 1)
        first, second = self._on_device[nodes], self._on_device[nodes + 1]
        lower = 0.5 * torch.lerp(first, second, places - nodes).pow(1 / self.alpha)
        return torch.where(u_B <= 0.5, lower, 1 - lower)


def own_shares(quantiles: BetaQuantiles, positions_B: torch.Tensor, *, seed: int, epoch: int) -> torch.Tensor:
    """Return the share, float32, that each sample keeps of itself; `positions_B` are places in the epoch's order."""
    bits_B = hashed(positions_B, key=make_key("mixup", seed, epoch))
    return quantiles(((bits_B >> 32 & 0xFFFFFFFF).double() + 0.5) / 2.0**32).float()


def mix_neighbours(values_BX: torch.Tensor, own_B: torch.Tensor) -> torch.Tensor:
    """Blend each row with its neighbour's, in place, and return them.

    Three passes over half of the values, instead of a gather of all and three passes over them.
    """
    pairs = values_BX.view(len(values_BX) // 2, 2, -1)
    first, second = pairs[:, 0], pairs[:, 1]
    given = (1 - own_B).to(values_BX.dtype).view(-1, 2, 1)
    difference = first - second
    first.addcmul_(difference, given[:, 0], value=-1)
    second.addcmul_(difference, given[:, 1])
    return values_BX


def of_neighbours(values_B: torch.Tensor) -> torch.Tensor:
    """Return the rows of the neighbours: rows 1, 0, 3, 2 and so on; any further axes."""
    return values_B.reshape(-1, 2, *values_B.shape[1:]).flip(1).flatten(0, 1)


def _powers_of_quantiles(alpha: float) -> npt.NDArray[np.float64]:
    """Return (2 * quantile(k / (2 * NODES))) ** alpha for k = 0..NODES, from 0 to 1.

    The density x^(a-1) (1-x)^(a-1) is integrated over s with x = s^p / 2, p = max(1, 1/a), where it is bounded.
    """
    power = max(1.0, 1 / alpha)
    s = np.linspace(0.0, 1.0, STEPS + 1)
    x = 0.5 * s**power
    with np.errstate(divide="ignore"):
        # Logarithms, as for large alpha both factors are beyond what a float holds.
        logs = np.log(s) * (power * alpha - 1) if power * alpha > 1 else np.zeros_like(s)
    density = np.exp(logs + (alpha - 1) * (np.log1p(-x) + np.log(2.0)))
    integral = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    powers = np.interp(np.linspace(0.0, 1.0, NODES + 1), integral / integral[-1], s ** (power * alpha))
    return np.asarray(powers, dtype=np.float64)
