"""What the study of scaling draws: loss against compute, against size at equal compute, and against data.

compute_panel(table, law)                   # each size while it trains, and the law of the lowest losses
size_panel(table)                           # at equal compute
best_panel(table, tables_of_seeds, exponent)
data_panel(lowest)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.studies.estimate import Estimate
from pipeline.studies.measures.power_law import Floats, Losses, PowerLaw
from pipeline.studies.panels.spread import spread_series
from pipeline.track.plots import Axis, Panel, Series

# Parameters that are best for a compute: Bachmann, Anagnostidis, Hofmann 2023, "Scaling MLPs" (arXiv 2306.13575).
PAPER_EXPONENT = 0.35
NUM_SHOWN = 5
COMPUTE, LOSS = Axis(label="compute", unit="FLOP", log=True), Axis(label="validation loss", unit="nats")
# Share of a panel that is left free below the curves, for the names of many series.
FREE_FRAC = 0.45


def compute_panel(table: Losses, law: PowerLaw) -> Panel:
    """Draw each size while it trains, and the law."""
    compute = table.compute_C.tolist()
    series = [
        Series(x=compute, y=losses.tolist(), label=f"{size:,.0f} parameters", markers=False, colour=number)
        for number, (size, losses) in enumerate(zip(table.parameters_S, table.losses_SC, strict=True))
    ]
    fitted = [law.at(value) for value in compute]
    return Panel(
        x=COMPUTE,
        y=_with_room(table.losses_SC),
        series=[*series, Series(x=compute, y=fitted, label="law", line=False, colour=len(series) - 1)],
        title=f"loss = {law.floor:.2f} + {law.scale:.3g} FLOP^-{law.exponent:.2f}",
        ordered=True,
    )


def size_panel(table: Losses) -> Panel:
    """Draw the losses of all sizes at some values of compute at which the best size is known."""
    known = np.flatnonzero(np.isfinite(table.best_sizes()))
    shown = known[np.linspace(0, len(known) - 1, min(NUM_SHOWN, len(known))).round().astype(int)]
    sizes = table.parameters_S.tolist()
    return Panel(
        x=Axis(label="parameters", log=True),
        y=_with_room(table.losses_SC[:, shown]),
        series=[
            Series(x=sizes, y=table.losses_SC[:, place].tolist(), label=f"{table.compute_C[place]:.1e} FLOP")
            for place in shown
        ],
        title="Sizes at equal compute",
        ordered=True,
    )


def best_panel(table: Losses, seeds: Sequence[Losses], exponent: Estimate) -> Panel:
    """Draw the best size against compute, its fitted line, and a line of the paper's exponent through their middle."""
    sizes = table.best_sizes()
    known = np.isfinite(sizes)
    x, y = np.log(table.compute_C[known]), np.log(sizes[known])
    places = table.compute_C[known].tolist()
    spread = np.stack([sizes, *(one.best_sizes() for one in seeds)])[:, known]

    def line(slope: float) -> list[float]:
        values: list[float] = np.exp(y.mean() + slope * (x - x.mean())).tolist()
        return values

    return Panel(
        x=replace(COMPUTE, ticks=_ticks(places)),
        y=Axis(label="best number of parameters", log=True, ticks=_ticks(sizes[known].tolist())),
        series=[
            Series(
                x=places,
                y=sizes[known].tolist(),
                low=np.nanmin(spread, axis=0).tolist(),
                high=np.nanmax(spread, axis=0).tolist(),
                label="measured",
                line=False,
            ),
            Series(x=places, y=line(exponent.value), label=f"exponent {exponent.value:.2f}, fitted", markers=False),
            Series(x=places, y=line(PAPER_EXPONENT), label=f"exponent {PAPER_EXPONENT}, paper", markers=False),
        ],
        title=f"Exponent {exponent.value:.2f} ({exponent.low:.2f} to {exponent.high:.2f}, 95 %)",
    )


def data_panel(lowest: Mapping[tuple[int, int], Mapping[int, float]]) -> Panel:
    """Draw the lowest loss, by (samples, width) one of each seed, against the number of samples: a line a width."""
    few = min(samples for samples, _ in lowest)
    series = []
    for number, width in enumerate(sorted(width for samples, width in lowest if samples == few)):
        places = sorted(samples for samples, some in lowest if some == width)
        found = [list(lowest[samples, width].values()) for samples in places]
        series.append(spread_series(places, found, label=f"width {width}", colour=number))
    counts = sorted({samples for samples, _ in lowest})
    return Panel(
        x=Axis(label="training samples", log=True, ticks={count: f"{count:,}" for count in counts}),
        y=LOSS,
        series=series,
        title="Data and width",
        ordered=True,
    )


def _with_room(losses: Floats) -> Axis:
    low, high = float(np.nanmin(losses)), float(np.nanmax(losses))
    return replace(LOSS, limits=(low - FREE_FRAC * (high - low), None))


def _ticks(values: Sequence[float]) -> dict[float, str]:
    """Return one, two and five of each power of ten from just under the values to just over them, as 5e+09."""
    decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    round_ones = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
    kept = [value for value in round_ones if min(values) / 1.5 <= value <= max(values) * 1.5]
    return {value: f"{value:,.0f}" if value < 1e6 else f"{value:.0e}" for value in kept}
