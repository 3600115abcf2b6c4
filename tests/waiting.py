"""Waiting for what other processes do, without a guess at how long a busy machine takes."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_S = 60.0


def wait_until(holds: Callable[[], bool], *, what: str, every_s: float = 0.02, patience_s: float = DEADLINE_S) -> None:
    """Return as soon as a condition holds; fail with `what` when it does not within `patience_s`."""
    deadline_s = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline_s, f"waited {patience_s:g} s in vain: {what}"
        time.sleep(every_s)
