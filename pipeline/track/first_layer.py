"""The first layer's weights as images: what each of its units looks for in the pixels.

    chosen = strongest_units(weights_UD, num_units=64)
    png, scale = draw_units(weights_UD[chosen].numpy(), image_shape=(32, 32, 3))

A unit has a weight for each pixel and channel, so its weights are an image of the input's size, signed. Of colours,
each channel is drawn as its own: grey is 0. Of grey images, blue is below 0, white is 0, red is above. The scale is one
for all units of a picture, so that strong and weak ones are seen to differ.

Axes: U units, D pixels of an image, all channels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from PIL import Image

from pipeline.data.loader import Batch
from pipeline.model.input_shuffle import at_image_places
from pipeline.model.roles import linear_layers
from pipeline.track.contact_sheet import png_of
from pipeline.track.drawing import draw_if_possible
from pipeline.track.metric_log import MetricLog
from pipeline.training.sharding import whole

NUM_UNITS = 64
# Pixels a side: smaller images are enlarged by a whole factor to at most the first, larger ones shrunk to the second.
TILE_SIDE, MAX_TILE_SIDE = 64, 128
GAP = 2
# Full colour, in root mean squares of the weights that are shown.
REACH = 3.0
# Below 0, at 0, above 0; told apart by colour-blind readers, too.
BELOW, ZERO, ABOVE = (5, 48, 97), (247, 247, 247), (178, 24, 43)
BACKGROUND = 255


def strongest_units(weights_UD: torch.Tensor, *, num_units: int) -> torch.Tensor:
    """Return the units of largest norm, largest first; all of them, as they come, where there are no more."""
    if len(weights_UD) <= num_units:
        return torch.arange(len(weights_UD), device=weights_UD.device)
    units: torch.Tensor = torch.linalg.vector_norm(weights_UD, dim=1).topk(num_units).indices
    return units


def draw_units(weights_UD: npt.NDArray[np.float32], *, image_shape: tuple[int, int, int]) -> tuple[bytes, float]:
    """Return a PNG of all units in reading order, and the weight that has full colour.

    Args:
        image_shape: height, width and channels (1 or 3) that D unfolds to.
    """
    weights_UHWC = np.nan_to_num(weights_UD, posinf=0.0, neginf=0.0).reshape(len(weights_UD), *image_shape)
    scale = REACH * math.sqrt(float(np.square(weights_UHWC, dtype=np.float64).mean()))
    shares_UHWC = np.clip(weights_UHWC / (scale or 1.0), -1.0, 1.0)
    tiles = [_tile(shares_HWC) for shares_HWC in shares_UHWC]
    height, width = tiles[0].shape[:2]
    columns = math.ceil(math.sqrt(len(tiles) * height / width))
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), BACKGROUND, np.uint8)
    for number, tile in enumerate(tiles):
        y, x = (GAP + at * (side + GAP) for at, side in zip(divmod(number, columns), (height, width), strict=True))
        sheet[y : y + height, x : x + width] = tile
    return png_of(Image.fromarray(sheet)), scale


def _tile(shares_HWC: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return an RGB image of shares between -1 and 1."""
    if shares_HWC.shape[2] == 3:
        colours = 127.5 + 127.5 * shares_HWC
    else:
        ends = np.where(shares_HWC < 0, np.array(BELOW), np.array(ABOVE))
        colours = ZERO + (ends - ZERO) * np.abs(shares_HWC)
    tile = np.round(colours).astype(np.uint8)
    longest = max(tile.shape[:2])
    if longest > MAX_TILE_SIDE:
        height, width = (max(1, side * MAX_TILE_SIDE // longest) for side in tile.shape[:2])
        return np.asarray(Image.fromarray(tile).resize((width, height), Image.Resampling.BOX))
    factor = max(1, TILE_SIDE // longest)
    return tile.repeat(factor, axis=0).repeat(factor, axis=1)


class FirstLayerPictures(pl.Callback):
    """Draws `model/first_layer` before the first step, after 10, 100, 1,000, ... and after the last; on every rank."""

    def __init__(self, *, metric_log: MetricLog | None, image_shape: tuple[int, int, int]) -> None:
        self._metric_log, self._image_shape = metric_log, image_shape

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0:  # a resumed run has drawn it
            self._draw(pl_module, step=0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step = batch.step + 1
        if batch.micro + 1 == pl_module.plan.micro_batches and is_drawn(step, total_steps=pl_module.plan.total_steps):
            self._draw(pl_module, step=step)

    def _draw(self, module: Any, *, step: int) -> None:
        first = next(iter(linear_layers(module.model).values()))
        # Of a sharded model all ranks must ask.
        weights_UD = at_image_places(module.model, whole(first.weight.detach()))
        if (metric_log := self._metric_log) is not None:
            draw_if_possible(lambda: self._log(metric_log, weights_UD, step=step))

    def _log(self, metric_log: MetricLog, weights_UD: torch.Tensor, *, step: int) -> None:
        chosen = strongest_units(weights_UD, num_units=NUM_UNITS)
        png, scale = draw_units(weights_UD[chosen].float().cpu().numpy(), image_shape=self._image_shape)
        which = f"its {len(chosen)} units"
        if len(chosen) < len(weights_UD):
            which = f"the {len(chosen)} of largest norm of its {len(weights_UD):,} units, largest first"
        zero = "grey is 0" if self._image_shape[2] == 3 else "white is 0, red above"
        caption = f"weights of the first layer after {step:,} steps: {which}; {zero}, full colour is ±{scale:.2g}"
        metric_log.picture(step=step, name="model/first_layer", png=png, caption=caption)


def is_drawn(step: int, *, total_steps: int) -> bool:
    """Return whether a picture is due after `step` updates: after powers of 10 and after the last."""
    return step == total_steps or (step >= 10 and 10 ** (len(str(step)) - 1) == step)
