"""`python -m pipeline.coord_check`: does a rate that was tuned on a narrow model hold on a wide one?

    python -m pipeline.coord_check model=mlp model.depth=3 optimizer=adamw optimizer.rate=0.001
    python -m pipeline.coord_check model=bottleneck_mlp optimizer=sgd widths=[128,256,512,1024] out=sgd.png

Models of several widths take a few updates on one batch of noise, with the model and optimiser that training would
make: once as they are, once with the smallest width as `model.base_width`. Told is, layer by layer, the slope of the
change of its outputs over the width, both as logarithms: 0 where a layer moves as far at every width.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from pipeline.build_model import build_model
from pipeline.build_optimizer import build_optimizer
from pipeline.compose import compose, help_text
from pipeline.coord_check_config import COORD_CHECK_SCHEMAS, CoordCheckConfig
from pipeline.model.coordinates import Coordinate, coordinates, slope
from pipeline.model_config import BottleneckMlpConfig, MlpConfig
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.keyed import make_key
from pipeline.track.plots import Axis, Panel, Series, save_plot

SUMMARY = """Compare how far a few updates move each layer of models of several widths, without and with muP.

  python -m pipeline.coord_check model=mlp model.depth=3 optimizer=adamw optimizer.rate=0.001
  python -m pipeline.coord_check model=bottleneck_mlp optimizer=sgd optimizer.rate=0.1 out=sgd.png"""

STANDARD, TRANSFER = "standard", "muP"
# More layers than this are drawn, but not all named in the legend.
MAX_NAMED = 8
# (parametrisation, layer, step) -> one coordinate a width
Curves = dict[tuple[str, str, int], list[Coordinate]]


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("coord_check", COORD_CHECK_SCHEMAS, summary=SUMMARY))
        return 0
    config: CoordCheckConfig = compose("coord_check", COORD_CHECK_SCHEMAS, argv)
    curves = measure(config)
    sys.stdout.write(table_of(config, curves))
    path = Path(config.out)
    try:
        draw(path, config, curves)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"out={path}: cannot be written ({error.strerror}); name a file in a folder") from None
    sys.stdout.write(f"\nplot        {path}\n")
    return 0


def measure(config: CoordCheckConfig) -> Curves:
    """Return each layer's coordinates at each width and step, the geometric mean over the seeds.

    Raises:
        UserError: the model has no single width that could be varied.
    """
    if not isinstance(config.model, MlpConfig | BottleneckMlpConfig):
        raise UserError(f"model={type(config.model).__name__}: has no width; model=mlp or model=bottleneck_mlp wanted")
    if isinstance(config.model, MlpConfig) and config.model.hidden is not None:
        raise UserError("model.hidden: null wanted, with model.depth, as the width is varied")
    curves: Curves = {}
    for name, base_width in ((STANDARD, None), (TRANSFER, min(config.widths))):
        for width in sorted(config.widths):
            model = dataclasses.replace(config.model, width=width, base_width=base_width)
            runs = [_run(dataclasses.replace(config, model=model), seed) for seed in range(config.seeds)]
            for step in range(config.steps + 1):
                for layer in runs[0][step]:
                    of_seeds = [run[step][layer] for run in runs]
                    curves.setdefault((name, layer, step), []).append(
                        Coordinate(
                            size=_geometric_mean(one.size for one in of_seeds),
                            change=_geometric_mean(one.change for one in of_seeds),
                        )
                    )
    return curves


def table_of(config: CoordCheckConfig, curves: Curves) -> str:
    """Return the slopes after the last step as text."""
    widths = sorted(config.widths)
    layers = list(dict.fromkeys(layer for _, layer, _ in curves))
    column = max(len(layer) for layer in layers)
    lines = [
        f"Slope of log size over log width, {widths[0]} to {widths[-1]}, after {config.steps} steps"
        f" ({config.seeds} seeds); change: against step 0",
        "",
        f"{'':<{column}}  {'standard':>18}  {'muP':>18}",
        f"{'layer':<{column}}  {'size':>8}  {'change':>8}  {'size':>8}  {'change':>8}",
    ]
    for layer in layers:
        slopes = []
        for name in (STANDARD, TRANSFER):
            curve = curves[name, layer, config.steps]
            slopes += [slope(widths, [one.size for one in curve]), slope(widths, [one.change for one in curve])]
        lines.append(f"{layer:<{column}}  " + "  ".join(f"{value:>+8.2f}" for value in slopes))
    steepest = [
        max(abs(value) for value in change_slopes(config, curves, name).values()) for name in (STANDARD, TRANSFER)
    ]
    lines += ["", "steepest change: standard {:.2f}, muP {:.2f} (0: the rate holds at every width)".format(*steepest)]
    return "\n".join(lines) + "\n"


def change_slopes(config: CoordCheckConfig, curves: Curves, name: str) -> dict[str, float]:
    """Return the slope of each layer's change after the last step, for one parametrisation."""
    return {
        layer: slope(sorted(config.widths), [one.change for one in curve])
        for (of, layer, step), curve in curves.items()
        if of == name and step == config.steps
    }


def draw(path: Path, config: CoordCheckConfig, curves: Curves) -> None:
    """Plot, for each parametrisation, sizes before the first update, and sizes and changes after the last."""
    widths = sorted(config.widths)
    layers = list(dict.fromkeys(layer for _, layer, _ in curves))
    panels = []
    for name in (STANDARD, TRANSFER):
        for quantity, step in (("size", 0), ("size", config.steps), ("change", config.steps)):
            series = [
                Series(x=widths, y=[getattr(one, quantity) for one in curves[name, layer, step]], label=layer)
                for layer in layers
            ]
            if len(layers) > MAX_NAMED:
                named = {0, len(layers) // 2, len(layers) - 1}
                series = [
                    one if index in named else dataclasses.replace(one, label="") for index, one in enumerate(series)
                ]
            ticks = {float(width): str(width) for width in widths}
            panels.append(
                Panel(
                    x=Axis(label="width", log=True, ticks=ticks),
                    y=Axis(label=f"{quantity} of a layer's output (RMS)", log=True),
                    series=series,
                    title=f"{name}, {'before the first step' if step == 0 else f'after {step} steps'}: {quantity}",
                    ordered=True,
                )
            )
    optimizer = type(config.optimizer).__name__.removesuffix("Config")
    save_plot(
        path,
        panels,
        title=f"Coordinates over width: {type(config.model).__name__.removesuffix('Config')}, {optimizer}",
        caption=(
            f"Rate {config.optimizer.rate:g}, one batch of {config.batch_size} samples of noise, {config.seeds} seeds"
            f" (0 to {config.seeds - 1}), geometric mean. Change: against the output before the first step."
            f" Level lines mean that what was tuned at one width holds at the others. muP: base width {widths[0]}."
        ),
    )


def _run(config: CoordCheckConfig, seed: int) -> list[dict[str, Coordinate]]:
    features = math.prod(config.image_shape)
    model = build_model(config.model, in_features=features, num_classes=config.classes, seed=seed)
    optimizer = build_optimizer(config.optimizer, model)
    for group in optimizer.param_groups:
        group["lr"] = config.optimizer.rate * group.get("rate_scale", 1.0)
    generator = torch.Generator().manual_seed(make_key("coord_check", seed) >> 1)
    inputs_BD = torch.randn(config.batch_size, features, generator=generator)
    labels_B = torch.randint(config.classes, (config.batch_size,), generator=generator)
    return list(coordinates(model, optimizer, inputs_BD, labels_B, steps=config.steps))


def _geometric_mean(values: Iterable[float]) -> float:
    listed = list(values)
    return statistics.geometric_mean(listed) if all(0 < value < math.inf for value in listed) else math.nan


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
