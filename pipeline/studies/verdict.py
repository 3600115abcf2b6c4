"""From numbers to a verdict, by rule: nobody decides it by hand.

A claim is cut into checks, each an estimate that must lie, interval and all, on one side of a bound that the study
states before it runs. All of them: the claim holds. Some: it holds under conditions, which are those that passed. None:
it does not hold here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pipeline.studies.estimate import Estimate


class Verdict(Enum):
    holds = "holds"
    conditions = "holds under conditions"
    fails = "does not hold here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One part of a claim.

    Attributes:
        claim: in words, as a sentence that is true when the check passes.
        statistic: what was estimated, with its unit.
        above, below: the bounds; at least one.
    """

    claim: str
    statistic: str
    estimate: Estimate
    above: float | None = None
    below: float | None = None

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise ValueError(f"check {self.statistic!r}: a bound wanted, above or below")

    @property
    def passes(self) -> bool:
        """Whether the whole interval lies within the bounds; without an interval (one seed) nothing passes."""
        low, high = self.estimate.low, self.estimate.high
        if math.isnan(low) or math.isnan(high):
            return False
        return (self.above is None or low > self.above) and (self.below is None or high < self.below)

    @property
    def bounds_text(self) -> str:
        """The bounds as people write them: "over 5", "between -1.1 and -0.9"."""
        if self.above is not None and self.below is not None:
            return f"between {self.above:g} and {self.below:g}"
        return f"over {self.above:g}" if self.above is not None else f"under {self.below:g}"


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """Return what the checks say together.

    Raises:
        ValueError: there are none.
    """
    if not checks:
        raise ValueError("checks: at least one wanted")
    passed = sum(check.passes for check in checks)
    return Verdict.holds if passed == len(checks) else Verdict.conditions if passed else Verdict.fails
