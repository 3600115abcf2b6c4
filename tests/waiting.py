"""Waiting for what other processes do, without a guess at how long a busy machine takes."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_S = 60.0


def wait_until(holds: Callable[[], bool], *, what: str, every_s: float = 0.02) -> None:
    """Return as soon as a condition holds; fail with `what` when it does not within a minute."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"waited a minute in vain: {what}"
        time.sleep(every_s)
