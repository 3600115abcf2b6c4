"""Progress of long work: a bar on a terminal, plain lines elsewhere.

with Progress(total=60_000, unit="images", label="preparing") as progress:
    progress.update(64, 327_680)
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_EVERY_S = 10.0


class Progress:
    """Counts items and bytes and shows rate and time left."""

    def __init__(self, *, total: int, unit: str, label: str) -> None:
        self.total, self.unit, self.label = total, unit, label
        self.items = self.bytes = 0
        self.started_s = self._last_line_s = time.monotonic()
        self._bar = tqdm(
            total=total, unit=f" {unit}", desc=label, unit_scale=True, disable=not sys.stderr.isatty(), leave=False
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started_s

    def update(self, items: int, num_bytes: int = 0) -> None:
        """Add what was newly done."""
        self.items += items
        self.bytes += num_bytes
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{self.bytes / 1e6 / max(self.seconds, 1e-9):.0f} MB/s", refresh=False)
            self._bar.update(items)
        elif time.monotonic() - self._last_line_s >= LINE_EVERY_S:
            self._last_line_s = time.monotonic()
            left_s = self.seconds / max(self.items, 1) * (self.total - self.items)
            sys.stderr.write(f"{self.label}: {self.summary()}, {left_s:.0f} s left\n")
            sys.stderr.flush()

    def summary(self) -> str:
        """Return the line for people: items of total, items/s and MB/s so far."""
        seconds = max(self.seconds, 1e-9)
        return (
            f"{self.items:,} of {self.total:,} {self.unit}, {self.items / seconds:,.0f} {self.unit}/s,"
            f" {self.bytes / 1e6 / seconds:.0f} MB/s"
        )
