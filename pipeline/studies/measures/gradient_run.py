"""One run's noise in the gradient: exact at its checkpoints, and of drawn batches at its start, middle and end.

    measured = measure_run(run)
    measured.error_shares(INDEPENDENT)      # {1: 1.02, 4: 0.249, 16: 0.0627, ...}: |g_B - G|^2 over tr(Sigma)
    measured.own_to_exact()                 # 1.04: what the run tells of its noise scale, over what it is

Axes: N samples, D input features, P parameters, M batches drawn, B samples of each.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from pipeline.shards.keyed import make_key
from pipeline.studies.measures.gradient_batches import (
    BatchErrors,
    ExactNoise,
    batch_errors,
    draw_as_trained,
    draw_independent,
    exact_noise,
    sample_gradients,
)
from pipeline.studies.measures.models_along import models_along, training_samples
from pipeline.studies.study import StudyRun
from pipeline.trained import open_trained
from pipeline.training.noise_scale import WINDOW_FRAC

NOISE_SCALE = "grad/noise_scale_images"
NOISE_SCALE_LOW, NOISE_SCALE_HIGH = "grad/noise_scale_low_images", "grad/noise_scale_high_images"
# No divisor of an epoch's steps: weights at one phase of the epochs are not those at all of them.
CHECKPOINT_STEPS = 10
MOMENTS = ("start", "middle", "end")
INDEPENDENT, AS_TRAINED = "drawn independently", "as an epoch draws them"
SIZE_FACTOR = 4
NUM_DRAWS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One moment's weights: the gradients of all samples, and batches by the way in which they are drawn and by size.

    Of those drawn as an epoch has them, the batch of all samples is left out: it has no error.
    """

    exact: ExactNoise
    drawn: dict[str, dict[int, BatchErrors]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run.

    Attributes:
        moments: by name.
        exact: at each checkpoint, by step.
        steps, scales: the run's own noise scale, None where it could not tell one; low, high: its band.
    """

    seed: int
    num_samples: int
    moments: dict[str, Moment]
    exact: dict[int, ExactNoise]
    steps: list[int]
    scales: list[float | None]
    low: list[float | None]
    high: list[float | None]

    def window_scale(self, step: int) -> float:
        """Return the exact noise scale over the checkpoints of the window that the run's own is an average over.

        Of the population: the run takes its batches, drawn without replacement, for independent ones.
        """
        inside = [
            noise.of_population(self.num_samples)
            for at, noise in self.exact.items()
            if (1 - WINDOW_FRAC) * step <= at <= step
        ]
        return statistics.fmean(noise.trace for noise in inside) / statistics.fmean(noise.signal_sq for noise in inside)

    def own_to_exact(self) -> float:
        """Return the run's last noise scale over the exact one; nan where it could never tell one."""
        told = [(step, scale) for step, scale in zip(self.steps, self.scales, strict=True) if scale is not None]
        return told[-1][1] / self.window_scale(told[-1][0]) if told else math.nan

    def error_shares(self, way: str) -> dict[int, float]:
        """Return |g_B - G|^2 over tr(Sigma) by size, the mean over moments."""
        moments = self.moments.values()
        return {
            size: statistics.fmean(moment.drawn[way][size].error_sq / moment.exact.trace for moment in moments)
            for size in self.moments[MOMENTS[0]].drawn[way]
        }

    def beyond_frac(self) -> float:
        """Return the share of parameters whose mean error is not 0 by a test that is wrong once in twenty times."""
        return statistics.fmean(
            errors.beyond_frac for moment in self.moments.values() for errors in moment.drawn[AS_TRAINED].values()
        )


def measure_run(run: StudyRun) -> Measured:
    """Measure a run's gradients at its checkpoints, and batches of every size at three of them."""
    trained = open_trained(run.record.folder)
    pixels_ND, labels_N = training_samples(trained)
    num_samples = len(pixels_ND)
    sizes = [size for power in range(32) if (size := SIZE_FACTOR**power) < num_samples]
    models = [(step, model) for step, model in models_along(trained) if step % CHECKPOINT_STEPS == 0]
    names = {models[place][0]: name for place, name in zip((0, len(models) // 2, -1), MOMENTS, strict=True)}
    exact: dict[int, ExactNoise] = {}
    moments: dict[str, Moment] = {}
    for step, model in models:
        exact[step] = exact_noise(model, pixels_ND, labels_N)
        if step in names:
            gradients_NP = sample_gradients(model, pixels_ND, labels_N)
            draws = {"num_samples": num_samples, "num_draws": NUM_DRAWS, "seed": make_key("draws", run.seed, step)}
            drawn = {
                INDEPENDENT: {size: draw_independent(size=size, **draws) for size in (*sizes, num_samples)},
                AS_TRAINED: {size: draw_as_trained(size=size, **draws) for size in sizes},
            }
            moments[names[step]] = Moment(
                exact=exact[step],
                drawn={
                    way: {size: batch_errors(gradients_NP, samples_MB) for size, samples_MB in batches.items()}
                    for way, batches in drawn.items()
                },
            )
    own, low, high = (run.record.series[name] for name in (NOISE_SCALE, NOISE_SCALE_LOW, NOISE_SCALE_HIGH))
    return Measured(
        seed=run.seed,
        num_samples=num_samples,
        moments=moments,
        exact=exact,
        steps=own.steps,
        scales=own.values,
        low=low.values,
        high=high.values,
    )
