"""From the groups `objective` and `augment` to what is done to images, and to the loss of a model on them."""

from __future__ import annotations

import functools

from pipeline.build_data import build_crop
from pipeline.data.crop import RandomCrop
from pipeline.data.mixup import BetaQuantiles
from pipeline.data_config import AugmentConfig
from pipeline.model_config import ModelConfig, PerceptronConfig
from pipeline.objective_config import (
    BinaryCrossEntropyConfig,
    CrossEntropyConfig,
    MeanSquaredErrorConfig,
    ObjectiveConfig,
)
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.shards.task import Task
from pipeline.trainer_config import CheckpointConfig
from pipeline.training.augmentation import Augmentation
from pipeline.training.objective import Objectives, binary_cross_entropy, cross_entropy, mean_squared_error
from pipeline.training.scores import Scores


def build_objectives(config: ObjectiveConfig, *, task: Task) -> Objectives:
    """Return the objectives of training and of evaluation, where the second smooths no labels.

    Args:
        task: of the data set, whose labels `check_labels` has found fit.
    """
    match config:
        case CrossEntropyConfig():
            smoothed = functools.partial(cross_entropy, label_smoothing=config.label_smoothing)
            return Objectives(training=smoothed, evaluation=cross_entropy, scores=Scores.softmax)
        case MeanSquaredErrorConfig():
            return Objectives(
                training=mean_squared_error,
                evaluation=mean_squared_error,
                scores=Scores.plain,
                has_classes=task is not Task.regression,
            )
        case BinaryCrossEntropyConfig():
            return Objectives(training=binary_cross_entropy, evaluation=binary_cross_entropy, scores=Scores.sigmoid)
    raise TypeError(f"no objective for {type(config).__name__}")


def check_labels(config: ObjectiveConfig, data_set: DataSet, *, model: ModelConfig) -> None:
    """Check that an objective and a model take the data set's labels.

    Raises:
        UserError: it takes one label a sample, and the data set has several, or the targets of a regression.
    """
    if data_set.task is Task.regression and isinstance(model, PerceptronConfig):
        raise UserError(
            f"{data_set.root}: its samples have targets, and model=perceptron gives nothing but 0 and 1: use another,"
            " such as model=mlp"
        )
    if data_set.task is Task.regression and not isinstance(config, MeanSquaredErrorConfig):
        raise UserError(
            f"{data_set.root}: its samples have targets, as a regression has, and this objective takes classes:"
            " use objective=mse"
        )
    if data_set.task is Task.multilabel and isinstance(config, CrossEntropyConfig):
        raise UserError(
            f"{data_set.root}: holds several labels an image, objective=cross_entropy takes one:"
            " use objective=binary_cross_entropy"
        )


def check_best(config: CheckpointConfig, data_set: DataSet) -> None:
    """Check, before anything is trained, that evaluation will give what decides the best checkpoint.

    Raises:
        UserError: the share of right answers is to decide, and a regression has none.
    """
    if config.keep_best and data_set.task is Task.regression and config.metric in ("val/top1_frac", "val/top5_frac"):
        raise UserError(
            f"checkpoint.metric={config.metric}: {data_set.root} has targets, not classes:"
            " use checkpoint.metric=val/mse"
        )


def build_augmentation(config: AugmentConfig, *, seed: int, is_cropped: bool) -> Augmentation:
    """Return what is done to training images on their device.

    Args:
        is_cropped: whether a decoder makes the resized crop and its flip, as of encoded images.
    """
    mixup = None if config.mixup_alpha is None else BetaQuantiles(config.mixup_alpha)
    crop = build_crop(config, seed=seed)
    if isinstance(crop, RandomCrop):
        return Augmentation(crop=None if is_cropped else crop, mixup=mixup)
    return Augmentation(flip=config.flip, crop_padding=config.crop_padding, mixup=mixup)
