"""From checked configs to the Lightning module of a run.

data = open_splits(...)                                 # build_data.py
plan = plan_steps(config, steps_per_epoch=390, micro_batches=1)     # build_optimizer.py
module = build_module(config, data_set, plan, image_shape=(32, 32, 3))
"""

from __future__ import annotations

import functools
import math
from contextlib import nullcontext

import torch

from pipeline.build_model import build_model
from pipeline.build_objective import build_augmentation, build_objectives, check_best, check_labels
from pipeline.build_optimizer import build_optimizer
from pipeline.config import TrainConfig
from pipeline.shards.manifest import DataSet, Statistics
from pipeline.training.module import ClassifierModule
from pipeline.training.step_plan import StepPlan

# Where nothing was decoded in preparation there are no statistics; pixels are then scaled to -1..1.
UNMEASURED_MEAN = UNMEASURED_STD = 127.5


def build_module(
    config: TrainConfig,
    data_set: DataSet,
    plan: StepPlan,
    *,
    image_shape: tuple[int, int, int],
    holds_weights: bool = True,
) -> ClassifierModule:
    """Return the Lightning module for a data set whose reader gives images of this height, width and channels.

    Args:
        holds_weights: False: the model lies on the meta device, until a strategy gives this rank its part of it.
    """
    with nullcontext() if holds_weights else torch.device("meta"):
        model = build_model(
            config.model, in_features=math.prod(image_shape), num_classes=data_set.num_classes, seed=config.seed
        )
    check_labels(config.objective, data_set, model=config.model)
    check_best(config.checkpoint, data_set)
    mean, std = pixel_statistics(data_set.statistics, channels=image_shape[2])
    return ClassifierModule(
        model,
        objectives=build_objectives(config.objective, task=data_set.task),
        make_optimizer=functools.partial(build_optimizer, config.optimizer),
        plan=plan,
        augmentation=build_augmentation(
            config.augment, seed=config.seed, is_cropped=config.data.stream is not None or data_set.packed is None
        ),
        mean=mean,
        std=std,
        seed=config.seed,
    )


def pixel_statistics(statistics: Statistics | None, *, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, in 0..255, by which pixels are normalised."""
    if statistics is None:
        return (UNMEASURED_MEAN,) * channels, (UNMEASURED_STD,) * channels
    # A channel that never varies is left at 0 rather than divided by 0.
    return statistics.mean, tuple(value or 1.0 for value in statistics.std)
