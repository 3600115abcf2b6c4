"""The gradient noise scale: up to which batch more images a step still make its gradient better. Plain numbers alone.

    measured = Measurement(step=0, small_images=1, small_sq=9.7, big_images=256, big_sq=0.31)
    measured.trace, measured.signal_sq          # 9.43 and 0.273: tr(Sigma) and |G|^2
    noise_scale([measured, ...])                # NoiseScale(images=34.5, low=31.0, high=38.9, ...)

G is the gradient over all data, Sigma the covariance of one image's gradient about it; B_simple = tr(Sigma) / |G|^2, in
images (McCandlish et al. 2018, "An empirical model of large-batch training", arXiv 1812.06162, sections 2.2 and A.1).
The mean of n independent images' gradients has E|g_n|^2 = |G|^2 + tr(Sigma)/n, so two sizes of batch tell both terms
without bias. Their ratio is not without bias, and one step's says next to nothing: |G|^2 is a small difference of two
large numbers. So each term is averaged over many steps first, and the ratio of the averages has a band.

The band is Fieller's (1954, "Some problems in interval estimation"): those ratios r for which mean(trace) - r *
mean(signal) is within Student's quantile of 0. It is open upwards where the signal cannot be told from 0, as late in
training with small batches: then no ratio is given either.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The band holds the ratio so often.
CONFIDENCE = 0.95
# Of fewer measurements the spread is not known well enough.
LEAST = 5
# What is averaged: the measurements of the last quarter of the steps, at least and at most so many.
WINDOW_FRAC, WINDOW_LEAST, WINDOW_MOST = 0.25, 20, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Mean squared norms of the gradients of one step, over two numbers of images.

    Attributes:
        step: finished updates before it.
        small_images, small_sq: images of a part of the batch, and the mean of its gradient's squared norm over parts.
        big_images, big_sq: the same of the whole batch; more images than a part has.
    """

    step: int
    small_images: float
    small_sq: float
    big_images: float
    big_sq: float

    def __post_init__(self) -> None:
        if not 0 < self.small_images < self.big_images:
            raise ValueError(f"small_images={self.small_images}: over 0 and below big_images={self.big_images} wanted")

    @property
    def trace(self) -> float:
        """An unbiased estimate of tr(Sigma)."""
        return (self.small_sq - self.big_sq) / (1 / self.small_images - 1 / self.big_images)

    @property
    def signal_sq(self) -> float:
        """An unbiased estimate of |G|^2; it may be negative."""
        difference = self.big_images * self.big_sq - self.small_images * self.small_sq
        return difference / (self.big_images - self.small_images)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseScale:
    """The ratio of averages over a window of measurements.

    Attributes:
        trace, signal_sq: the averages of both terms.
        images: the noise scale; None where the signal cannot be told from 0.
        low, high: the band in images; `high` is infinite where `images` is None.
        measurements: how many were averaged.
    """

    trace: float
    signal_sq: float
    images: float | None
    low: float
    high: float
    measurements: int


def in_window(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return what is averaged after the last of `measurements`, which ascend by step.

    A share of the run, not a number of steps: the noise scale grows over a run, slower and slower, and needs the more
    measurements the larger it is.
    """
    if not measurements:
        return []
    first = (1 - WINDOW_FRAC) * measurements[-1].step
    recent = sum(measurement.step >= first for measurement in measurements)
    return list(measurements[-min(max(recent, WINDOW_LEAST), WINDOW_MOST) :])


def noise_scale(measurements: Sequence[Measurement]) -> NoiseScale | None:
    """Return the noise scale of a window of measurements, None where they are too few."""
    if len(measurements) < LEAST:
        return None
    traces = [measurement.trace for measurement in measurements]
    signals = [measurement.signal_sq for measurement in measurements]
    trace, signal = statistics.fmean(traces), statistics.fmean(signals)
    low, high = ratio_band(traces, signals)
    return NoiseScale(
        trace=trace,
        signal_sq=signal,
        images=max(0.0, trace / signal) if math.isfinite(high) else None,
        low=low,
        high=high,
        measurements=len(measurements),
    )


def ratio_band(tops: Sequence[float], bottoms: Sequence[float]) -> tuple[float, float]:
    """Return Fieller's band of mean(tops) / mean(bottoms), both known to be 0 or more; the second may be infinite.

    Args:
        tops, bottoms: pairs, independent of each other, at least two.
    """
    num = len(tops)
    top, bottom = statistics.fmean(tops), max(0.0, statistics.fmean(bottoms))
    square = student_quantile(0.5 + CONFIDENCE / 2, freedom=num - 1) ** 2 / num
    # Not of `statistics`, whose exact fractions take 8 ms of a full window.
    (top_variance, covariance), (_, bottom_variance) = np.cov(tops, bottoms).tolist()
    # r is in the band where a r^2 - 2 b r + c <= 0.
    a = bottom**2 - square * bottom_variance
    b = top * bottom - square * covariance
    c = top**2 - square * top_variance
    root = math.sqrt(max(0.0, b * b - a * c))
    # One root is c / (b + root) and the other (b + root) / a, without the cancellation of b - root. With c <= 0 the
    # band reaches down to 0; with a <= 0 it has no upper end.
    low = max(0.0, c / (b + root)) if c > 0 and b + root > 0 else 0.0
    high = max(0.0, (b + root) / a) if a > 0 else math.inf
    return low, high


def student_quantile(probability: float, *, freedom: int) -> float:
    """Return the quantile of Student's t, right to 0.5 % from 4 degrees of freedom on.

    Hill's expansion about the normal quantile (Abramowitz and Stegun, 26.7.5).
    """
    z = statistics.NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))
