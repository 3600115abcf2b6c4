"""What bounds a run: data, compute or the framework. Pure functions of what was measured.

    rates = Rates(run=3_900, model_alone=4_100, loader_alone=310_000, data_wait_frac=0.002)      # images/s
    shares_of(rates)            # Shares(compute=0.951, data=0.002, framework=0.047)
    bound_text(rates)           # "compute, 95 % of the time: the model alone does 4,100 images/s, ..."

The rule: a run's time is cut into three shares, and the largest names the bound, since shortening that one gains most
(Amdahl's law).

- compute: run / model_alone, the time that the model needs for the same images when one batch lies on its device and is
  trained on again and again; augmentation, optimiser and exchange of gradients are part of it.
- data: the time waited for the loader, as far as compute leaves room. On a GPU the host also waits there for the device
  to take batches, so waiting counts after compute.
- framework: the rest: the trainer, logging, launches, cores that loader and model share, or other programs that had
  the cores then and have not now.

What readers and feeds count (pipeline/data/counting.py) is logged as rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Counters with metrics of their own. Others are logged as `rate/<name>_per_s`.
READ_BYTES = "read_bytes"
DECODE_S = "decode_s"
CACHE_HITS = "cache_hits"
CACHE_MISSES = "cache_misses"


def counter_rates(counts: Mapping[str, float], *, passed_s: float, num_threads: int) -> dict[str, float]:
    """Return the metrics of what was counted in `passed_s` seconds.

    Args:
        counts: over all ranks, since the row before.
        passed_s: seconds of one rank.
        num_threads: threads that may compute, over all ranks; decode_s over all their time is `rate/decode_frac`.
    """
    passed_s = max(passed_s, 1e-9)
    counts = dict(counts)
    metrics: dict[str, float] = {}
    if READ_BYTES in counts:
        metrics["rate/data_bytes_per_s"] = counts.pop(READ_BYTES) / passed_s
    if DECODE_S in counts:
        metrics["rate/decode_frac"] = counts.pop(DECODE_S) / (passed_s * num_threads)
    if CACHE_HITS in counts and CACHE_MISSES in counts:
        hits, misses = counts.pop(CACHE_HITS), counts.pop(CACHE_MISSES)
        if hits + misses > 0:
            metrics["rate/cache_hit_frac"] = hits / (hits + misses)
    return {**metrics, **{f"rate/{name}_per_s": count / passed_s for name, count in counts.items()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What was measured, in images/s over all ranks, but for `data_wait_frac`, a share of the run's time.

    Attributes:
        loader_alone: None where it was not measured: the loader had never rested, or could not read on.
    """

    run: float
    model_alone: float
    loader_alone: float | None
    data_wait_frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares of the run's time; they sum to 1."""

    compute: float
    data: float
    framework: float

    @property
    def bound(self) -> str:
        """The name of the largest."""
        shares = {"compute": self.compute, "data": self.data, "framework": self.framework}
        return max(shares, key=lambda name: shares[name])


def shares_of(rates: Rates) -> Shares:
    """Cut the run's time by the rule above."""
    compute = min(1.0, rates.run / rates.model_alone)
    data = min(rates.data_wait_frac, 1.0 - compute)
    return Shares(compute=compute, data=data, framework=1.0 - compute - data)


def bound_text(rates: Rates) -> str:
    """Return what bounded the run, as it goes on after "bounded by"."""
    shares = shares_of(rates)
    share = {"compute": shares.compute, "data": shares.data, "framework": shares.framework}[shares.bound]
    name = "the framework" if shares.bound == "framework" else shares.bound
    if rates.loader_alone is not None:
        alone = f"alone {rates.loader_alone:,.0f}"
    else:
        alone = "never rested" if shares.bound == "data" else "was not measured"
    return (
        f"{name}, {100 * share:.0f} % of the time: the model alone does {rates.model_alone:,.0f} images/s,"
        f" the loader {alone}, the run did {rates.run:,.0f}"
    )
