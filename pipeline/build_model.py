"""From the group `model` to a model."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.model.bottleneck import bottleneck_mlp
from pipeline.model.input_shuffle import InputShuffle
from pipeline.model.mlp import mlp
from pipeline.model.perceptron import perceptron
from pipeline.model_config import (
    BottleneckMlpConfig,
    LogisticRegressionConfig,
    MlpConfig,
    ModelConfig,
    PerceptronConfig,
)
from pipeline.shards.errors import UserError
from pipeline.shards.keyed import make_key


def build_model(config: ModelConfig, *, in_features: int, num_classes: int, seed: int) -> nn.Module:
    """Return the model; its initial weights are a function of the seed, whether its inputs are shuffled or not.

    Raises:
        UserError: options that do not fit images of so many values.
    """
    torch.manual_seed(make_key("weights", seed) >> 1)
    model = _unshuffled(config, in_features=in_features, num_classes=num_classes)
    if config.input_shuffle_seed is None:
        return model
    return nn.Sequential(InputShuffle(in_features=in_features, seed=config.input_shuffle_seed), *model)


def _unshuffled(config: ModelConfig, *, in_features: int, num_classes: int) -> nn.Sequential:
    match config:
        case PerceptronConfig():
            return perceptron(in_features=in_features, num_classes=num_classes)
        case LogisticRegressionConfig():
            return mlp(in_features=in_features, widths=[], num_classes=num_classes)
        case MlpConfig():
            if config.identical_units and config.skip and config.widths[:1] == [in_features]:
                raise UserError(
                    f"model.identical_units: not with model.skip where the first hidden layer has {in_features} units,"
                    " as many as an image has values, which the skip adds to them; give it another width"
                )
            return mlp(
                in_features=in_features,
                widths=config.widths,
                num_classes=num_classes,
                activation=config.activation.name,
                norm=config.norm.name,
                dropout=config.dropout,
                skip=config.skip,
                init=config.init.name,
                zero_head=config.zero_head,
                identical_units=config.identical_units,
                base_width=config.base_width,
            )
        case BottleneckMlpConfig():
            return bottleneck_mlp(
                in_features=in_features,
                depth=config.depth,
                width=config.width,
                num_classes=num_classes,
                expansion=config.expansion,
                dropout=config.dropout,
                init=config.init.name,
                zero_head=config.zero_head,
                zero_residual=config.zero_residual,
                base_width=config.base_width,
            )
    raise TypeError(f"no model for {type(config).__name__}")
