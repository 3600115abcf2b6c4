"""What is watched of samples: the first step's inputs, and evaluations, the last of which is made after training.

watching = SampleTracking(inputs=..., pictures=..., gap=..., drawing=...)
trainer = build_trainer(callbacks=[..., *watching.callbacks], ...)
metrics = watching.evaluate_last(module, lambda: metrics_of(...), step=1950)    # {"val/loss": ..., "gap/loss": ...}
watching.close()
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytorch_lightning as pl

from pipeline.track.drawing import Drawing
from pipeline.track.eval_pictures import EvaluationPictures
from pipeline.track.gap import GeneralisationGap
from pipeline.track.sample_pictures import AugmentedPicture
from pipeline.training.module import ClassifierModule


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTracking:
    """Any of the three may be None: off. `drawing` is where their pictures are drawn."""

    inputs: AugmentedPicture | None
    pictures: EvaluationPictures | None
    gap: GeneralisationGap | None
    drawing: Drawing

    @property
    def callbacks(self) -> list[pl.Callback]:
        """In their order, and before a callback that gives the model its own weights back after an evaluation."""
        return [watch for watch in (self.inputs, self.pictures, self.gap) if watch is not None]

    def evaluate_last(
        self, module: ClassifierModule, evaluate: Callable[[], dict[str, float]], *, step: int
    ) -> dict[str, float]:
        """Return the metrics of an evaluation as `val/...`, and those of the gap; what it shows is drawn after this.

        All ranks call this together.

        Args:
            evaluate: evaluates the module, asking for its report by class where there are pictures.
        """
        if self.pictures is not None:
            self.pictures.begin(module)
        metrics = evaluate()
        if self.pictures is not None:
            self.pictures.end(module, step=step)
        gap = {} if self.gap is None else self.gap.measure(module, metrics, step=step, is_last=True)
        self.drawing.finish()
        return {**{f"val/{name}": value for name, value in metrics.items()}, **gap}

    def close(self) -> None:
        """Draw what is still to be drawn, and end the thread."""
        self.drawing.close()
