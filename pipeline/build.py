"""From checked configs to the Lightning module of a run.

data = open_splits(...)                                 # build_data.py
plan = plan_steps(config, steps_per_epoch=390, micro_batches=1)     # build_optimizer.py
module = build_module(config, data_set, plan, image_shape=(32, 32, 3))
"""

from __future__ import annotations

import functools
import math

from pipeline.build_model import build_model
from pipeline.build_objective import build_augmentation, build_objective
from pipeline.build_optimizer import build_optimizer
from pipeline.config import TrainConfig
from pipeline.shards.manifest import DataSet
from pipeline.training.module import ClassifierModule, StepPlan

# Where nothing was decoded in preparation there are no statistics; pixels are then scaled to -1..1.
UNMEASURED_MEAN = UNMEASURED_STD = 127.5


def build_module(
    config: TrainConfig, data_set: DataSet, plan: StepPlan, *, image_shape: tuple[int, int, int]
) -> ClassifierModule:
    """Return the Lightning module for a data set whose reader gives images of this height, width and channels."""
    model = build_model(
        config.model, in_features=math.prod(image_shape), num_classes=data_set.num_classes, seed=config.seed
    )
    if config.trainer.compile:
        model.compile()
    objective, eval_objective = build_objective(config.objective)
    statistics = data_set.statistics
    channels = image_shape[2]
    mean = statistics.mean if statistics else (UNMEASURED_MEAN,) * channels
    # A channel that never varies is left at 0 rather than divided by 0.
    std = tuple(value or 1.0 for value in statistics.std) if statistics else (UNMEASURED_STD,) * channels
    return ClassifierModule(
        model,
        objective=objective,
        eval_objective=eval_objective,
        make_optimizer=functools.partial(build_optimizer, config.optimizer),
        plan=plan,
        augmentation=build_augmentation(config.augment),
        mean=mean,
        std=std,
        seed=config.seed,
    )
