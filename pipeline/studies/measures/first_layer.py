"""The first layer of a trained model, as a study looks at it: its weights over the image, and how smoothly they vary.

    own_UD, placed_UD = weights_of(run)
    neighbour_correlation(placed_UD, (8, 8, 3))         # 0.6: what a unit looks for has a shape

Axes: U units, D pixels of an image, all channels, H height, W width, C channels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pipeline.model.input_shuffle import at_image_places
from pipeline.model.roles import linear_layers
from pipeline.studies.study import StudyRun
from pipeline.track.plots import Axis, Field, Panel
from pipeline.trained import build_trained, open_trained

# Units that are drawn, in a square.
DRAWN_SIDE = 4

Weights = npt.NDArray[np.float32]


def weights_of(run: StudyRun) -> tuple[Weights, Weights]:
    """Return a run's first layer (U, D) as the net has it, and with each weight at the place of its pixel."""
    model = build_trained(open_trained(run.record.folder))
    weight = next(iter(linear_layers(model).values())).weight.detach()
    return _array(weight), _array(at_image_places(model, weight))


def neighbour_correlation(weights_UD: Weights, image_shape: tuple[int, int, int]) -> float:
    """Return the correlation between the weights of pixels side by side and one above the other, colour by colour.

    Pairs of all units are taken together: near 1 where weights vary smoothly over the image, 0 where they are noise.
    """
    weights_UHWC = weights_UD.reshape(len(weights_UD), *image_shape).astype(np.float64)
    pairs = (
        (weights_UHWC[:, :, :-1], weights_UHWC[:, :, 1:]),
        (weights_UHWC[:, :-1], weights_UHWC[:, 1:]),
    )
    first, second = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    return float(np.corrcoef(first, second)[0, 1])


def units(weights_UD: Weights, image_shape: tuple[int, int, int], *, scale: float, title: str) -> Panel:
    """Draw the units of largest norm, in a square, the mean of their channels."""
    height, width, _ = image_shape
    strongest = np.argsort(-np.square(weights_UD).sum(axis=1), kind="stable")[: DRAWN_SIDE**2]
    tiles_UHW = weights_UD[strongest].reshape(len(strongest), *image_shape).mean(axis=3)
    sheet = np.full((DRAWN_SIDE * (height + 1) - 1, DRAWN_SIDE * (width + 1) - 1), np.nan)
    for number, tile_HW in enumerate(tiles_UHW):
        top, left = (
            place * (side + 1) for place, side in zip(divmod(number, DRAWN_SIDE), (height, width), strict=True)
        )
        sheet[top : top + height, left : left + width] = tile_HW
    return Panel(
        x=Axis(label="", ticks={}),
        y=Axis(label="", ticks={}),
        series=[],
        # A field's first row is the lowest, an image's the highest.
        field=Field(
            values=sheet[::-1].tolist(),
            extent=(0, sheet.shape[1], 0, sheet.shape[0]),
            label="weight",
            limits=(-scale, scale),
        ),
        title=title,
    )


def _array(values: torch.Tensor) -> Weights:
    array: Weights = values.numpy().astype(np.float32)
    return array
