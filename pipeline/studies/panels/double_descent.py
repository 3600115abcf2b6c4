"""What the study of double descent draws: errors against size, and the norm of the weights that least squares finds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.studies.measures.random_features import FeatureFit
from pipeline.studies.panels.spread import spread_series
from pipeline.track.plots import Axis, Mark, Panel, Series

# Errors of each seed, in %, by the width of the network.
Errors = dict[int, list[float]]


def network_panel(final: Errors, stopped: Errors, trained: Errors, *, just: int) -> Panel:
    """Draw a network's errors against its width.

    Args:
        final, stopped: on new images, after the last step and at the best evaluation.
        trained: on training images, by the labels that were trained on.
        just: the width that has about as many weights as there are images.
    """
    widths = list(final)
    return Panel(
        x=Axis(label="width of the hidden layer", unit="units", log=True, ticks=_powers_of_ten(widths)),
        y=Axis(label="error", unit="%", limits=(0, None)),
        series=[
            spread_series(widths, list(final.values()), label="test, trained to the end"),
            spread_series(widths, list(stopped.values()), label="test, stopped early"),
            spread_series(widths, list(trained.values()), label="training, noisy labels"),
        ],
        marks=[Mark(x=just, label="as many weights as images")],
        title="A network, two classes",
    )


def feature_panel(fits: Sequence[Sequence[FeatureFit]], counts: Sequence[int], *, samples: int, linear: float) -> Panel:
    """Draw the errors of each seed's fits against the number of features, and that of a linear classifier, in %."""
    at = list(zip(*fits, strict=True))
    return Panel(
        x=Axis(label="random features", log=True, ticks=_powers_of_ten(counts)),
        y=Axis(label="error", unit="%", limits=(0, 100)),
        series=[
            spread_series(counts, [[100 * fit.test_error for fit in found] for found in at], label="test"),
            spread_series(counts, [[100 * fit.train_error for fit in found] for found in at], label="training"),
            Series(
                label="test, linear classifier, stopped early",
                x=[counts[0], counts[-1]],
                y=[linear, linear],
                markers=False,
            ),
        ],
        marks=[Mark(x=samples, label="as many features as images")],
        title="Least squares on random features, ten classes",
    )


def norm_panel(fits: Sequence[Sequence[FeatureFit]], counts: Sequence[int], *, samples: int) -> Panel:
    """Draw the norm of each seed's fitted weights against the number of features."""
    return Panel(
        x=Axis(label="random features", log=True, ticks=_powers_of_ten(counts)),
        y=Axis(label="norm of the fitted weights", log=True),
        # At the peak seeds are up to 30 times apart, and an arithmetic mean would be that of the highest alone.
        series=[
            spread_series(
                counts,
                [[fit.norm for fit in found] for found in zip(*fits, strict=True)],
                label="norm",
                geometric=True,
            )
        ],
        marks=[Mark(x=samples, label="as many features as images")],
        title="At the peak the only solution is a huge one",
    )


def _powers_of_ten(values: Sequence[float]) -> dict[float, str]:
    """Return ticks for a logarithmic axis of whole numbers, as people write them."""
    powers = range(math.ceil(math.log10(min(values))), math.floor(math.log10(max(values))) + 1)
    return {10.0**power: f"{10**power:,}" for power in powers}
