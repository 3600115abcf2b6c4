"""Exact metrics: weighted sums on the device, one all-reduce and one host synchronisation when they are read.

    sums = MetricSums(device)
    sums.add(logits_BK, labels_B, losses_B, weights_B)          # no synchronisation, and of small batches no work yet
    sums.read()                                                 # {"loss": ..., "top1_frac": ..., "samples": ...}

Counts are integers below 2**53 held in float64, so accuracies are the same for any number of ranks.

Where samples have several labels, top1_frac is the share of samples whose class of the highest logit is one of them,
and top5_frac the share in which one of the five highest is; a sample without labels counts as a miss. Of a regression
neither is there.

Axes: B batch, K classes, L labels of a sample.
"""

from __future__ import annotations

import torch
from torch import distributed

# Small batches are put aside until they have so many logits together: to count each by itself takes some thirty small
# operations, 0.3 ms on a CPU, and as many kernels on a GPU.
KEPT_LOGITS = 1 << 18


class MetricSums:
    """Sums of weight, loss, top-1 and top-5 hits, squared errors, and what callers add as `extra`."""

    def __init__(
        self, device: torch.device | str, *, num_extra: int = 0, with_mse: bool = False, has_classes: bool = True
    ) -> None:
        """Start from zero.

        Args:
            num_extra: sums that `read` is given.
            with_mse: whether `add` is given squared errors, and `read` returns their mean as mse.
            has_classes: whether outputs stand for classes, so that there are hits to count.
        """
        hits = ("top1_frac", "top5_frac") if has_classes else ()
        # What each sum is of, behind that of the weights.
        self._names = ("loss", *hits, *(("mse",) if with_mse else ()))
        self._has_classes = has_classes
        self._sums = torch.zeros(1 + len(self._names) + num_extra, dtype=torch.float64, device=device)
        self._kept: list[tuple[torch.Tensor, ...]] = []
        self._kept_logits = 0

    @torch.no_grad()
    def add(
        self,
        logits_BK: torch.Tensor,
        labels: torch.Tensor,
        losses_B: torch.Tensor,
        weights_B: torch.Tensor,
        *,
        errors_B: torch.Tensor | None = None,
    ) -> None:
        """Add a batch; samples of weight 0 add nothing.

        Ties count as a miss unless the label is the lower class; a label whose logit is not a number is never a hit.

        Args:
            labels: class numbers (B,), or (B, L) padded with -1; targets (B, K).
            errors_B: mean squared error of each sample, with `with_mse`.
        """
        errors = () if errors_B is None else (errors_B,)
        if logits_BK.numel() >= KEPT_LOGITS:
            self._count(logits_BK, labels, losses_B, weights_B, *errors)
            return
        if self._kept and self._kept[0][1].shape[1:] != labels.shape[1:]:  # padded to the most labels of a batch
            self._count_kept()
        # Copies: a CUDA graph writes the next logits into the same memory.
        self._kept.append((logits_BK.detach().clone(), labels, losses_B.detach(), weights_B, *errors))
        self._kept_logits += logits_BK.numel()
        if self._kept_logits >= KEPT_LOGITS:
            self._count_kept()

    def read(self, *, extra: tuple[float, ...] = ()) -> tuple[dict[str, float], list[float]]:
        """Return the metrics over all ranks and the sums of each rank's `extra`; then start again from zero."""
        self._count_kept()
        if extra:
            self._sums[1 + len(self._names) :] = torch.tensor(extra, dtype=torch.float64)
        weight, *sums = sum_over_ranks(self._sums).tolist()  # the host waits for the device here
        self._sums.zero_()
        divisor = max(weight, 1e-300)
        metrics = {name: value / divisor for name, value in zip(self._names, sums, strict=False)}
        return {**metrics, "samples": weight}, sums[len(self._names) :]

    @torch.no_grad()
    def _count_kept(self) -> None:
        """Add what was put aside to the sums."""
        if self._kept:
            kept, self._kept, self._kept_logits = self._kept, [], 0
            self._count(*(torch.cat(parts) for parts in zip(*kept, strict=True)))

    def _count(
        self,
        logits_BK: torch.Tensor,
        labels: torch.Tensor,
        losses_B: torch.Tensor,
        weights_B: torch.Tensor,
        *errors_B: torch.Tensor,
    ) -> None:
        hits: list[torch.Tensor] = []
        if self._has_classes:
            ahead_B = num_ahead(logits_BK, labels)
            hits = [ahead_B < 1, ahead_B < 5]
        columns = [torch.ones_like(losses_B), losses_B, *hits, *errors_B]
        # where, not a product: the loss of a padded slot may be anything.
        weighted = torch.where(weights_B > 0, torch.stack([column.double() for column in columns]) * weights_B, 0.0)
        self._sums[: len(columns)] += weighted.sum(dim=1)


def num_ahead(logits_BK: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return how many classes come before a sample's own, (B,); of several labels before the one of the highest logit.

    Equal logits are in the order of classes. Where there is no label, or its logit is not a number, all classes do.
    """
    num_classes = logits_BK.shape[1]
    if labels.ndim == 2:
        logits_BL = logits_BK.gather(1, labels.clamp(min=0)).masked_fill(labels < 0, torch.nan)
        # argmax takes nan for the highest; labels ascend, so of equal logits it finds the lowest class.
        best_B1 = torch.where(logits_BL.isnan(), -torch.inf, logits_BL).argmax(dim=1, keepdim=True)
        labels_B1, label_logits_B1 = labels.gather(1, best_B1), logits_BL.gather(1, best_B1)
    else:
        labels_B1 = labels[:, None]
        label_logits_B1 = logits_BK.gather(1, labels_B1)
    classes_K = torch.arange(num_classes, device=logits_BK.device)
    ahead_BK = (logits_BK > label_logits_B1) | ((logits_BK == label_logits_B1) & (classes_K < labels_B1))
    return torch.where(label_logits_B1[:, 0].isnan(), num_classes + 5, ahead_BK.sum(dim=1))


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of all ranks' values, in place; one all-reduce."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(values)
    return values
