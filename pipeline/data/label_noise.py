"""Wrong labels on purpose: a share of a training split's labels is replaced by classes drawn at random.

    noise = LabelNoise(frac=0.2, num_classes=10, seed=0)
    noise.applied(sample_ids_B, labels_B)       # the same sample has the same wrong label in every epoch, on every rank

Whether a label is replaced, and by which class, is a function of (seed, sample id) alone. The class is drawn from all,
so the true one may come again: of 10 classes a share of 0.2 makes 18 % of the labels wrong, and a share of 1 makes
labels that say nothing about the images (Zhang et al. 2017, "Understanding deep learning requires rethinking
generalization", arXiv 1611.03530). With one seed the samples of a smaller share are among those of a larger one.

Axes: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.reader import Int64Array, LabelArray
from pipeline.shards.keyed import make_key, random_bits

_HALF_BITS = np.uint64(32)
_LOW_HALF = np.uint64((1 << 32) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelNoise:
    """Replaces labels.

    Attributes:
        frac: of the samples, whose label is replaced; 0 to 1, held to a part in 2^32.
        num_classes: to draw from, each as likely as another; below 2^32.
    """

    frac: float
    num_classes: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.frac <= 1:
            raise ValueError(f"frac={self.frac}: 0 to 1 wanted")

    def applied(self, sample_ids_B: Int64Array, labels_B: LabelArray) -> Int64Array:
        """Return the labels that are trained on, int64 (B,), of these samples' true ones."""
        bits_B = random_bits(make_key("label noise", self.seed), sample_ids_B)
        is_replaced_B = (bits_B >> _HALF_BITS) < np.uint64(round(self.frac * (1 << 32)))
        drawn_B = ((bits_B & _LOW_HALF) * np.uint64(self.num_classes)) >> _HALF_BITS
        return np.where(is_replaced_B, drawn_B, labels_B).astype(np.int64)
