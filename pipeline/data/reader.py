"""What the loader asks of a reader, and a reader of its feed.

A **reader** turns sample ids into pixels and labels. Its **feed** keeps at hand what is about to be read (downloads it,
reads it ahead) and lets go of what was read. Both are told the coming uses when an iteration starts, and that a step
is filled when it is; the rest is theirs:

    reader.start(uses)                              # (step, sample ids of this rank), in order, lazily
    labels = reader.fill(slots, epoch=3, out=images_BHWC)       # from any thread, steps in any order
    reader.finish(step)                             # in order: nothing is read for this step any more

Axes: B batch, H height, W width, C channels, K labels or targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.order import Slots
from pipeline.shards.manifest import DataSet, Split
from pipeline.shards.mapping import MappedFiles

Int64Array = npt.NDArray[np.int64]
# Class numbers (B,), several (B, K) padded with -1, or the targets of a regression, float32 (B, K).
LabelArray = npt.NDArray[np.int64] | npt.NDArray[np.float32]
# The step, counted from the start of training, and the sample ids that this rank reads in it.
Use = tuple[int, Int64Array]


class Reader(Protocol):
    """Random access to the samples of a split."""

    @property
    def data_set(self) -> DataSet:
        """The data set, the first of several."""

    @property
    def split(self) -> Split:
        """The split, of several data sets all of their shards."""

    @property
    def num_samples(self) -> int:
        """Samples in the split."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images that `fill` gives."""

    def start(self, uses: Iterator[Use]) -> None:
        """Begin an iteration; one that was going on is over."""

    def fill(self, slots: Slots, *, epoch: int, out: torch.Tensor) -> LabelArray:
        """Put images into `out`, contiguous uint8 (B, H, W, C), and return their labels or targets."""

    def finish(self, step: int) -> None:
        """Take note that all of a step is filled; called once a step, in their order."""

    def close(self) -> None:
        """Let go of everything; the reader must not be used afterwards."""


class Feed(Protocol):
    """Keeps a split's shards at hand for one reader, on one rank."""

    def start(self, uses: Iterator[Use]) -> None:
        """Begin an iteration; one that was going on is over."""

    def wait_for(self, shards: Int64Array) -> None:
        """Return when these shards (numbers in the split) can be read, until the step that uses them is finished.

        Raises:
            UserError, DamageError: one cannot be had.
        """

    def finish(self, step: int) -> None:
        """Take note that nothing is read for this step and those before any more."""

    def close(self) -> None:
        """Let go of everything."""


# Returns the feed that maps shards into their places of a range before they are read.
MakeFeed = Callable[[MappedFiles], Feed]


class AllAtHand:
    """The feed of local shards that are mapped as a whole: there is nothing to do."""

    def start(self, uses: Iterator[Use]) -> None:
        pass

    def wait_for(self, shards: Int64Array) -> None:
        pass

    def finish(self, step: int) -> None:
        pass

    def close(self) -> None:
        pass
