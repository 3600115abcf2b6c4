"""How much of the targets' variance a model explains, exact over all ranks: R squared.

    explained = ExplainedVariance(num_targets=1, device=device)
    explained.add(outputs_BK, targets_BK, weights_B)        # no synchronisation
    explained.read()                                        # on all ranks together, one all-reduce: 0.98

1 is a model that is right everywhere, 0 one that gives the mean of each target, less than 0 a worse one. Of several
targets it is the share of their variances' sum.

Axes: B batch, K targets.
"""

from __future__ import annotations

import torch

from pipeline.training.metrics import sum_over_ranks

# Of the mean square of the targets, the least variance that is told from rounding.
LEAST_VARIANCE_FRAC = 1e-12


class ExplainedVariance:
    """Sums over samples of weights, targets, their squares, and squared errors."""

    def __init__(self, *, num_targets: int, device: torch.device | str) -> None:
        self._num_targets = num_targets
        self._sums = torch.zeros(1 + 3 * num_targets, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, outputs_BK: torch.Tensor, targets_BK: torch.Tensor, weights_B: torch.Tensor) -> None:
        """Add a batch; samples of weight 0 add nothing."""
        targets_BK = targets_BK.double()
        columns = [targets_BK, targets_BK.square(), (outputs_BK.double() - targets_BK).square()]
        values_BX = torch.cat([torch.ones_like(weights_B, dtype=torch.float64)[:, None], *columns], dim=1)
        # where, not a product: the output of a padded slot may be anything.
        self._sums += torch.where(weights_B[:, None] > 0, values_BX * weights_B[:, None], 0.0).sum(dim=0)

    def read(self) -> float:
        """Return the share over all ranks, which call this together.

        Targets that do not vary have none to explain: 1 where they are met exactly, else 0.
        """
        weight, *sums = sum_over_ranks(self._sums).tolist()  # the host waits for the device here
        num = self._num_targets
        totals, squares, errors = sums[:num], sums[num : 2 * num], sum(sums[2 * num :])
        means = [total / max(weight, 1e-300) for total in totals]
        variation = sum(squares) - sum(mean * total for mean, total in zip(means, totals, strict=True))
        if variation <= LEAST_VARIANCE_FRAC * sum(squares):
            return float(errors == 0)
        return float(1 - errors / variation)
