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

    def __init__(self, *, total: int | None, unit: str, label: str) -> None:
        """Start counting; `total` is None where it is not known beforehand."""
        self.total, self.unit, self.label = total, unit, label
        self._notes: dict[str, int] = {}
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
            rate = f"{self.bytes / 1e6 / max(self.seconds, 1e-9):.0f} MB/s" if self.bytes else ""
            self._bar.set_postfix_str(", ".join([*filter(None, [rate]), *self._told()]), refresh=False)
            self._bar.update(items)
        elif time.monotonic() - self._last_line_s >= LINE_EVERY_S:
            self._last_line_s = time.monotonic()
            left = ""
            if self.total is not None:
                left = f", {self.seconds / max(self.items, 1) * (self.total - self.items):.0f} s left"
            sys.stderr.write(f"{self.label}: {self.summary()}{left}\n")
            sys.stderr.flush()

    def note(self, **counts: int) -> None:
        """Set counts to show beside the rate; those of 0 are not shown."""
        self._notes.update(counts)

    def _told(self) -> list[str]:
        return [f"{count:,} {name}" for name, count in self._notes.items() if count]

    def summary(self) -> str:
        """Return the line for people: items of total, items/s, MB/s and notes so far."""
        seconds = max(self.seconds, 1e-9)
        total = "" if self.total is None else f" of {self.total:,}"
        rates = [f"{self.items / seconds:,.0f} {self.unit}/s"]
        if self.bytes:
            rates.append(f"{self.bytes / 1e6 / seconds:.0f} MB/s")
        return ", ".join([f"{self.items:,}{total} {self.unit}", *rates, *self._told()])
