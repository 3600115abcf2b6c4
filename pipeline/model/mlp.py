"""Multi-layer perceptrons, from none to many hidden layers.

    model = mlp(in_features=3072, widths=[512], num_classes=10, activation="relu")
    logits_BK = model(pixels_BD)

Axes: B batch, D input features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pipeline.model.hidden_layer import HiddenLayer
from pipeline.model.initialise import initialise, make_units_identical
from pipeline.model.width import WidthMultiplier, scale_initial_weights


def mlp(
    *,
    in_features: int,
    widths: Sequence[int],
    num_classes: int,
    activation: str = "relu",
    norm: str = "none",
    dropout: float = 0.0,
    skip: bool = False,
    init: str = "torch",
    zero_head: bool = False,
    identical_units: bool = False,
    base_width: int | None = None,
) -> nn.Sequential:
    """Return hidden layers and then a linear layer to the logits.

    With no widths this is multinomial logistic regression.

    Args:
        in_features: D, at least 1.
        widths: of the hidden layers, first to last; may be empty.
        num_classes: K.
        activation: a key of hidden_layer.ACTIVATIONS.
        norm: "none" or a key of hidden_layer.NORMS.
        dropout: share of hidden units dropped in training, 0 <= dropout < 1.
        skip: add a hidden layer's input to its output, wherever both have one width.
        init: a name of initialise.INITS.
        zero_head: the last layer starts at zero, so that every class is equally likely.
        identical_units: all units of a hidden layer start alike; see initialise.make_units_identical.
        base_width: width of the first hidden layer, the others in proportion, of the small model whose rates are to
            hold here too; see width.py. None, or no hidden layer: off.
    """
    layers: list[nn.Module] = []
    for width in widths:
        layers.append(
            HiddenLayer(
                in_features=in_features, width=width, activation=activation, norm=norm, dropout=dropout, skip=skip
            )
        )
        in_features = width
    if base_width is not None and widths:
        layers.append(WidthMultiplier(widths[0] / base_width))
    model = nn.Sequential(*layers, nn.Linear(in_features, num_classes))
    initialise(model, init=init, zero_head=zero_head)
    scale_initial_weights(model, init=init)
    if identical_units:
        make_units_identical(model)
    return model
