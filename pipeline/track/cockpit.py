"""The batch-size cockpit: the noise scale beside the batch that is, and those that memory and network allow; in words.

    facts = BatchFacts(images=128, num_ranks=1, memory=Bound(images=20_480, source="planned"), network=Bound(...))
    batch_advice(facts, noise)
    # "The noise scale is about 1,800 images (1,200 to 2,900). Your batch of 128 is well below it: a batch of about
    #  1,800 would take 7.5 times fewer steps for 1.9 times the images. Raise the learning rate with it."

McCandlish et al. 2018 (arXiv 1812.06162), section 2.3: to reach the same loss with a batch of B images takes
S = S_min (1 + B_noise / B) steps and E = E_min (1 + B / B_noise) images. A batch of B_noise takes twice the fewest
steps and twice the fewest images: below it, steps are saved nearly for nothing; above it, images are spent for few
steps. B_simple, which is measured, stands for B_noise; they agree within a factor of a few.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pipeline.track.metric_log import MetricLog
from pipeline.training.noise_scale import LEAST, NoiseScale

log = logging.getLogger(__name__)

TABLE = "batch/cockpit"
# A batch within this factor of the band is about right: it takes at most three times the fewest steps or images.
NEAR = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A number of images that the machine gives, None where it is not known or there is none; and where it is from."""

    images: float | None
    source: str


NOT_LOOKED_AT = Bound(images=None, source="not looked at in a run so short")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFacts:
    """A run's batch, over all ranks.

    Attributes:
        images: of one update.
        num_ranks: that share it.
        memory: the most that all ranks hold in one pass.
        network: the fewest at which ranks compute for as long as they exchange gradients.
    """

    images: int
    num_ranks: int
    memory: Bound
    network: Bound


@dataclass(slots=True, kw_only=True)
class Cockpit:
    """What is known of a run's batch so far; whoever learns more notes it here.

    Attributes:
        find_memory: tells the memory's bound, when it is asked for, since that takes a moment.
        noise: None before it was measured often enough; measurements: how often it was.
        unmeasured: why it is not measured at all.
    """

    images: int
    num_ranks: int
    find_memory: Callable[[], Bound]
    noise: NoiseScale | None = None
    measurements: int = 0
    unmeasured: str | None = None
    memory: Bound = NOT_LOOKED_AT
    network: Bound = Bound(images=None, source="measured after training")

    @property
    def facts(self) -> BatchFacts:
        return BatchFacts(images=self.images, num_ranks=self.num_ranks, memory=self.memory, network=self.network)

    @property
    def advice(self) -> str:
        if self.noise is None:
            counted = f"it was measured {self.measurements} times, and {LEAST} are wanted for its spread"
            return f"The noise scale is not known: {self.unmeasured or counted}."
        return batch_advice(self.facts, self.noise)

    def look_at_memory(self) -> None:
        """Find the memory's bound, if that was not tried yet."""
        if self.memory is not NOT_LOOKED_AT:
            return
        try:
            # An evaluation may be what calls, which needs no gradients.
            with torch.inference_mode(False), torch.enable_grad():
                self.memory = self.find_memory()
        except Exception as error:  # whatever a forecast lacks must not end a run
            log.warning("batch cockpit: how much memory holds cannot be planned (%s)", error)
            self.memory = Bound(images=None, source="could not be planned")

    def log(self, metric_log: MetricLog, *, step: int) -> None:
        """Log the table, with the advice as its caption."""
        columns, rows = cockpit_table(self.facts, self.noise)
        metric_log.table(step=step, name=TABLE, columns=columns, rows=rows, caption=self.advice)


def cockpit_table(facts: BatchFacts, noise: NoiseScale | None) -> tuple[list[str], list[list[str | int | None]]]:
    """Return columns and rows of the cockpit; None where a number is not known, or without bound."""
    source = "not measured" if noise is None else f"gradients of {noise.measurements} steps"
    best, why = best_images(facts, noise)
    numbers: Sequence[tuple[str, float | None, str]] = [
        ("your batch", facts.images, "batch.size"),
        ("noise scale", None if noise is None else noise.images, source),
        ("noise scale, at least", None if noise is None else noise.low, "95 % band"),
        ("noise scale, at most", None if noise is None or noise.images is None else noise.high, "95 % band"),
        ("most in memory", facts.memory.images, facts.memory.source),
        ("fewest for the network", facts.network.images, facts.network.source),
        ("best by these", best, why),
    ]
    rows: list[list[str | int | None]] = [
        [what, None if images is None else round(images), where] for what, images, where in numbers
    ]
    return ["what", "images", "from"], rows


def best_images(facts: BatchFacts, noise: NoiseScale | None) -> tuple[float | None, str]:
    """Return the batch that would be best, and what decides it; None where nothing can be said."""
    if noise is None:
        return None, "the noise scale is wanted"
    if _is_near(facts.images, noise):
        return facts.images, "your batch: near the noise scale"
    if noise.images is None:
        if facts.images * NEAR >= noise.low:
            return None, "whether another would be better cannot be told yet"
        return _target(noise), "the least that the noise scale can be"
    return _target(noise), "the noise scale"


def batch_advice(facts: BatchFacts, noise: NoiseScale) -> str:
    """Return what the noise scale is, where the batch stands, which would be best and why, in a few sentences."""
    sentences = [f"{_scale_text(noise)}.", f"{_stand_text(facts, noise)}.", *_bound_texts(facts, noise)]
    return " ".join(sentences)


def steps_ratio(images: float, other: float, *, noise_images: float) -> float:
    """Return how many times as many steps a batch of `images` takes to the same loss as one of `other`."""
    return (1 + noise_images / images) / (1 + noise_images / other)


def images_ratio(images: float, other: float, *, noise_images: float) -> float:
    """Return how many times as many images a batch of `images` takes to the same loss as one of `other`."""
    return (1 + images / noise_images) / (1 + other / noise_images)


def _scale_text(noise: NoiseScale) -> str:
    if noise.images is None and noise.low < 1:
        return f"The noise scale cannot be told yet from {noise.measurements} measurements"
    if noise.images is None:
        return f"The noise scale is over {rounded(noise.low)} images, how far over cannot be told yet"
    return f"The noise scale is about {rounded(noise.images)} images ({rounded(noise.low)} to {rounded(noise.high)})"


def _stand_text(facts: BatchFacts, noise: NoiseScale) -> str:
    yours = f"Your batch of {facts.images:,}"
    if _is_near(facts.images, noise):
        is_wide = noise.high > NEAR**2 * noise.low
        return f"{yours} is near it, {'as far as can be told yet' if is_wide else 'a good trade of steps and images'}"
    if noise.images is None and facts.images * NEAR >= noise.low:
        return "Whether another batch would be better cannot be told either"
    target = _target(noise)
    if facts.images < target:
        fewer = steps_ratio(facts.images, target, noise_images=target)
        more = images_ratio(target, facts.images, noise_images=target)
        at_least, at_most = ("at least ", "at most ") if noise.images is None else ("", "")
        return (
            f"{yours} is well below it: a batch of about {rounded(target)} would take {at_least}{rounded(fewer)} times"
            f" fewer steps for {at_most}{rounded(more)} times the images; raise the learning rate with it"
        )
    fewer = images_ratio(facts.images, target, noise_images=target)
    more = steps_ratio(target, facts.images, noise_images=target)
    return (
        f"{yours} is well above it: a batch of about {rounded(target)} would take {rounded(fewer)} times fewer images"
        f" for {rounded(more)} times the steps; lower the learning rate with it"
    )


def _bound_texts(facts: BatchFacts, noise: NoiseScale) -> list[str]:
    """Return what memory and network have to say of the best batch."""
    best, _ = best_images(facts, noise)
    wanted = facts.images if best is None else best
    texts = []
    if facts.memory.images is not None and facts.memory.images < wanted:
        most = rounded(facts.memory.images)
        texts.append(f"Memory holds about {most} in one pass; more are accumulated (batch.micro_size).")
    if facts.network.images is not None and facts.network.images > wanted:
        least = rounded(facts.network.images)
        texts.append(
            f"Below about {least}, these {facts.num_ranks} ranks exchange gradients for longer than they compute:"
            " fewer ranks would be nearly as fast."
        )
    return texts


def _target(noise: NoiseScale) -> float:
    """Return the batch to compare with: at least one image, also where all have one gradient and the scale is 0."""
    return max(1.0, noise.low if noise.images is None else noise.images)


def _is_near(images: float, noise: NoiseScale) -> bool:
    """Return whether a batch is within a factor of the band."""
    return noise.images is not None and noise.low / NEAR <= images <= noise.high * NEAR


def rounded(number: float) -> str:
    """Return two significant digits without an exponent: 1,793.2 is "1,800", 7.46 is "7.5"."""
    return f"{float(f'{number:.2g}'):,.0f}" if number >= 10 else f"{number:.2g}"
