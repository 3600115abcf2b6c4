"""Exact metrics: weighted sums on the device, one all-reduce and one host synchronisation when they are read.

    sums = MetricSums(device)
    sums.add(logits_BK, labels_B, losses_B, weights_B)          # no synchronisation
    sums.read()                                                 # {"loss": ..., "top1_frac": ..., "samples": ...}

Counts are integers below 2**53 held in float64, so accuracies are the same for any number of ranks.

Axes: B batch, K classes.
"""

from __future__ import annotations

import torch
from torch import distributed


class MetricSums:
    """Sums of weight, loss, top-1 and top-5 hits, and what callers add as `extra`."""

    def __init__(self, device: torch.device | str, *, num_extra: int = 0) -> None:
        self._sums = torch.zeros(4 + num_extra, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(
        self, logits_BK: torch.Tensor, labels_B: torch.Tensor, losses_B: torch.Tensor, weights_B: torch.Tensor
    ) -> None:
        """Add a batch; samples of weight 0 add nothing. Ties count as a miss unless the label is the lower class."""
        label_logits_B1 = logits_BK.gather(1, labels_B[:, None])
        classes_K = torch.arange(logits_BK.shape[1], device=logits_BK.device)
        ahead_BK = (logits_BK > label_logits_B1) | ((logits_BK == label_logits_B1) & (classes_K < labels_B[:, None]))
        # A label whose logit is not a number is never a hit.
        rank_B = torch.where(label_logits_B1[:, 0].isnan(), logits_BK.shape[1] + 5, ahead_BK.sum(dim=1))
        columns = torch.stack([torch.ones_like(losses_B), losses_B, (rank_B < 1).float(), (rank_B < 5).float()])
        # where, not a product: the loss of a padded slot may be anything.
        weighted = torch.where(weights_B > 0, columns * weights_B, 0.0)
        self._sums[:4] += weighted.double().sum(dim=1)

    def read(self, *, extra: tuple[float, ...] = ()) -> tuple[dict[str, float], list[float]]:
        """Return the metrics over all ranks and the sums of each rank's `extra`; then start again from zero."""
        for index, value in enumerate(extra):
            self._sums[4 + index] = value
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self._sums)
        weight, loss, top1, top5, *extra_sums = self._sums.tolist()  # the host waits for the device here
        self._sums.zero_()
        divisor = max(weight, 1e-300)
        metrics = {"loss": loss / divisor, "top1_frac": top1 / divisor, "top5_frac": top5 / divisor}
        return {**metrics, "samples": weight}, extra_sums
