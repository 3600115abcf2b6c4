"""How the targets of a split's samples lie: least, mean, standard deviation, most.

sums = TargetSums(1)
sums.add(rows["targets"])                   # of each shard in turn
sums.facts()[0].mean
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.card.facts import TargetFacts


class TargetSums:
    """Sums over samples; deviations are from the first sample's targets, against cancellation."""

    def __init__(self, num_targets: int) -> None:
        self._least, self._most = np.full(num_targets, np.inf), np.full(num_targets, -np.inf)
        self._sums = np.zeros((2, num_targets))
        self._first: npt.NDArray[np.float64] | None = None
        self._count = 0

    def add(self, targets: npt.NDArray[np.float32]) -> None:
        """Add the targets of samples, (samples, targets), at least one."""
        values = targets.astype(np.float64)
        self._first = values[0] if self._first is None else self._first
        self._least, self._most = (
            np.minimum(self._least, values.min(axis=0)),
            np.maximum(self._most, values.max(axis=0)),
        )
        off = values - self._first
        self._sums += np.stack([off.sum(axis=0), (off**2).sum(axis=0)])
        self._count += len(values)

    def facts(self) -> tuple[TargetFacts, ...]:
        """Return the facts of each target, after at least one `add`."""
        assert self._first is not None
        mean_off, square_off = self._sums / self._count
        stds = np.sqrt(np.maximum(square_off - mean_off**2, 0.0))
        columns = (self._least, self._first + mean_off, stds, self._most)
        return tuple(
            TargetFacts(least=least, mean=mean, std=std, most=most)
            for least, mean, std, most in zip(*(column.tolist() for column in columns), strict=True)
        )
