"""What trained models of one variable say, beside what is true and what they were trained on.

    fit = fit_of(run)                               # of a run on images of one pixel with one target
    fit.x_N, fit.targets_N, fit.outputs_N, fit.farthest
    levels_N, targets_N = samples_of(run, "train")  # the samples that it was trained on

Axes: N samples or levels, D pixels, K targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.studies.measures.models_along import stored_samples
from pipeline.studies.study import StudyRun
from pipeline.track.plots import Series
from pipeline.trained import build_trained, open_trained

FloatArray = npt.NDArray[np.float64]
LEVELS = 256
# Of the plots' palette.
BLACK = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a run's model of one variable says at each level of the validation split, and what is true there.

    Attributes:
        x_N: levels from 0 to 1, ascending.
        targets_N, outputs_N: the function's values, and the model's.
    """

    x_N: FloatArray
    targets_N: FloatArray
    outputs_N: FloatArray

    @property
    def farthest(self) -> float:
        """The largest distance between the two."""
        return float(np.abs(self.outputs_N - self.targets_N).max())


def fit_of(run: StudyRun) -> Fit:
    """Return the fit of a run on images of one pixel."""
    trained = open_trained(run.record.folder)
    levels_N, targets_N = samples_of(run, "val")
    levels, first = np.unique(levels_N, return_index=True)
    mean, std = trained.facts.mean[0], trained.facts.std[0]
    with torch.no_grad():
        pixels_ND = (torch.from_numpy(levels).float()[:, None] - mean) / std
        outputs_N = build_trained(trained)(pixels_ND)[:, 0].double().numpy()
    return Fit(x_N=levels / (LEVELS - 1), targets_N=targets_N[first], outputs_N=outputs_N)


def samples_of(run: StudyRun, split: str) -> tuple[FloatArray, FloatArray]:
    """Return levels (N,) and targets (N,) of one-pixel images: of the validation split, or of what was trained on."""
    images_BHWC, targets_NK = stored_samples(open_trained(run.record.folder).config.data, split)
    return images_BHWC[:, 0, 0, 0].double().numpy(), targets_NK[:, 0].astype(np.float64)


def fit_series(shown: dict[str, StudyRun]) -> list[Series]:
    """Return the function, in the palette's black, and what each run's model says."""
    fits = {label: fit_of(run) for label, run in shown.items()}
    first = next(iter(fits.values()))
    return [
        Series(x=first.x_N.tolist(), y=first.targets_N.tolist(), label="function", markers=False, colour=BLACK),
        *(
            Series(x=fit.x_N.tolist(), y=fit.outputs_N.tolist(), label=label, markers=False, colour=number)
            for number, (label, fit) in enumerate(fits.items(), start=1)
        ),
    ]
