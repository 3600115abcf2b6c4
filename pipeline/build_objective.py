"""From the groups `objective` and `augment` to what is done to images, and to the loss of a model on them."""

from __future__ import annotations

import functools

from pipeline.data_config import AugmentConfig, ResizedCropConfig
from pipeline.objective_config import CrossEntropyConfig, MeanSquaredErrorConfig, ObjectiveConfig
from pipeline.training.module import Augmentation
from pipeline.training.objective import Objective, cross_entropy, mean_squared_error


def build_objective(config: ObjectiveConfig) -> tuple[Objective, Objective]:
    """Return the objectives of training and of evaluation, where the second smooths no labels."""
    match config:
        case CrossEntropyConfig():
            return functools.partial(cross_entropy, label_smoothing=config.label_smoothing), cross_entropy
        case MeanSquaredErrorConfig():
            return mean_squared_error, mean_squared_error
    raise TypeError(f"no objective for {type(config).__name__}")


def build_augmentation(config: AugmentConfig) -> Augmentation:
    """Return what is done to training images on their device; a resized crop and its flip are made by the decoder."""
    if isinstance(config, ResizedCropConfig):
        return Augmentation(flip=False, crop_padding=0)
    return Augmentation(flip=config.flip, crop_padding=config.crop_padding)
