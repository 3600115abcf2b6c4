"""A loss that has left for good: over so many times the highest of its first rows.

    limit = LossLimit(10.0)
    [limit.is_over(loss) for loss in (2.3, 2.4, *[2.2] * 8, 23.9, 24.1)]     # twelve rows: the last alone is over

Of the first rows, and not of the first: a batch of few samples may have almost no loss by luck. Where all of them were
0 there is nothing to be a multiple of, so nothing is over.
"""

from __future__ import annotations

FIRST_ROWS = 10


class LossLimit:
    """Args: ratio: over how many times the start a loss is over; None: never."""

    def __init__(self, ratio: float | None) -> None:
        self.ratio = ratio
        self._num_rows = 0
        self._highest = 0.0

    def is_over(self, loss: float) -> bool:
        """Take the next row's loss, and tell whether it is over the limit; the first rows never are."""
        if self.ratio is None:
            return False
        if self._num_rows < FIRST_ROWS:
            self._num_rows, self._highest = self._num_rows + 1, max(self._highest, loss)
            return False
        return loss > self.ratio * self._highest > 0

    def state(self) -> dict[str, float]:
        """Return what a resumed run must know; nothing where there is no limit."""
        return {} if self.ratio is None else {"rows": self._num_rows, "highest": self._highest}

    def put_back(self, state: dict[str, float]) -> None:
        self._num_rows, self._highest = int(state["rows"]), state["highest"]
