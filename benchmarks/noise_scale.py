"""Is the logged gradient noise scale the true one? A real run, and at its checkpoints the gradient over all data.

    python -m benchmarks.noise_scale                                    # the embedded default data, about two minutes
    python -m benchmarks.noise_scale --plot noise_scale.png batch.size=256 model.hidden=[512]

The true terms are found at a checkpoint's weights in another way than the run's own: |G|^2 by a backward pass over
the whole training split, tr(Sigma) from `torch.func`'s per-sample gradients of some thousand images. What the run logs
is a ratio of averages over a window of steps, and the true one goes up and down from step to step; so the ratio of the
averages of the true terms over the checkpoints within that window stands beside it.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from benchmarks.measure import print_conditions, print_table
from pipeline.build import pixel_statistics
from pipeline.build_data import Wanted, build_eval_loader, open_splits
from pipeline.build_model import build_model
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.data.augment import normalise
from pipeline.shards.errors import run_entry_point
from pipeline.track.plots import Axis, Panel, Series, save_plot
from pipeline.track.run_reading import read_run
from pipeline.train import quieten_libraries, train
from pipeline.training.checkpoint import load_checkpoint, stored_checkpoints
from pipeline.training.noise_scale import WINDOW_FRAC, WINDOW_LEAST
from pipeline.world import World

ONE_RANK = World(rank=0, size=1, local_rank=0, local_size=1, cuda=False)
# Samples whose gradients are held at a time.
CHUNK = 100
DEFAULTS = (
    *("model=mlp", "model.hidden=[128]", "batch.size=64", "optimizer.rate=0.05", "schedule=constant"),
    *("trainer.device=cpu", "trainer.max_epochs=1000", "trainer.measure_bound=false", "checkpoint.keep=1000"),
    *("logger=none", "augment=none", "track.pictures=false", "track.layers_every_steps=null", "track.report=false"),
)
NAMES = ("grad/noise_scale_images", "grad/noise_scale_low_images", "grad/noise_scale_high_images")


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Both terms over all samples."""

    trace: float
    signal_sq: float

    @property
    def images(self) -> float:
        return self.trace / self.signal_sq


def main(argv: list[str]) -> int:
    summary = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise_scale", description=summary)
    parser.add_argument("--data", default="data/default", help="packed data set")
    parser.add_argument("--steps", type=int, default=2000, help="updates of the run")
    parser.add_argument("--checkpoints", type=int, default=8, help="places where the truth is found")
    parser.add_argument("--own", type=int, default=4000, help="images whose own gradients tell tr(Sigma)")
    parser.add_argument("--plot", type=Path, default=None, help="picture to draw")
    parser.add_argument("overrides", nargs="*", help="options of pipeline.train, as in batch.size=256")
    options = parser.parse_args(argv)
    every = max(1, options.steps // options.checkpoints)
    overrides = [f"data.path={options.data}", f"trainer.max_steps={options.steps}", f"checkpoint.every_steps={every}"]
    quieten_libraries()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        config: TrainConfig = compose(
            "train", TRAIN_SCHEMAS, [f"run_dir={run}", *DEFAULTS, *overrides, *options.overrides]
        )
        train(config, ONE_RANK)
        pixels_ND, labels_N, num_classes = whole_split(config)
        truths = {}
        for step, path in sorted(stored_checkpoints(run / "checkpoints")):
            if step % every == 0:
                model = build_model(config.model, in_features=pixels_ND.shape[1], num_classes=num_classes, seed=0)
                state = load_checkpoint(path)["state_dict"]
                model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
                truths[step] = true_terms(model, pixels_ND, labels_N, own=options.own)
        record = read_run(run)
        images, low, high = (record.series[name].values for name in NAMES)
        steps = record.series[NAMES[0]].steps
    estimates = {step: list(values) for step, *values in zip(steps, images, low, high, strict=True)}
    print_conditions(f"python -m benchmarks.noise_scale {' '.join(argv)}".rstrip())
    every_steps = config.track.noise_scale_every_steps or options.steps
    windows = over_windows(truths, every_steps=every_steps)
    print_table(("step", "true", "true, over the window", "logged", "band"), rows_of(truths, windows, estimates))
    if options.plot is not None:
        batch = int(config.batch.size)
        draw(options.plot, truths, windows, estimates, batch=batch, every_steps=every_steps)
    return 0


def whole_split(config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return normalised pixels (N, D) and labels (N,) of the training split, and the number of classes."""
    data_set, (reader,) = open_splits(config.data, config.cache, [Wanted(name=config.data.train_split)], ONE_RANK)
    mean, std = pixel_statistics(data_set.statistics, channels=reader.image_shape[2])
    pixels, labels = [], []
    loader = build_eval_loader(reader, slots_per_rank=1000, prefetch=2, world=ONE_RANK)
    for batch in loader:
        is_sample = batch.weights_B > 0
        pixels.append(normalise(batch.images_BHWC[is_sample], torch.tensor(mean), torch.tensor(std)).float())
        labels.append(batch.labels_B[is_sample].clone())
    loader.close()
    reader.close()
    return torch.cat(pixels), torch.cat(labels), data_set.num_classes


def true_terms(model: nn.Module, pixels_ND: torch.Tensor, labels_N: torch.Tensor, *, own: int) -> Truth:
    """Return |G|^2 over all samples, by a backward pass, and tr(Sigma) by the own gradients of the first `own`.

    Samples lie in a random order. A few thousand tell the mean of squared norms to a few percent, but not |G|, which
    is far smaller.
    """
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], pixels_D: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        logits_1K = torch.func.functional_call(model, weights, (pixels_D[None],))
        return functional.cross_entropy(logits_1K[0], label)

    gradients_of = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))
    square_sum = 0.0
    for chunk in torch.split(torch.arange(min(own, len(labels_N))), CHUNK):
        pixels_BD, labels_B = pixels_ND[chunk], labels_N[chunk]
        for gradients in gradients_of(weights, pixels_BD, labels_B).values():
            square_sum += float(gradients.square().sum(dtype=torch.float64))
    functional.cross_entropy(model(pixels_ND), labels_N).backward()  # type: ignore[no-untyped-call]
    signal_sq = sum(float(one.grad.double().square().sum()) for one in model.parameters() if one.grad is not None)
    return Truth(trace=square_sum / min(own, len(labels_N)) - signal_sq, signal_sq=signal_sq)


def over_windows(truths: dict[int, Truth], *, every_steps: int) -> dict[int, float]:
    """Return the ratio of the averages of the true terms over the window that the run has at each step."""
    found = {}
    for step in truths:
        first = min((1 - WINDOW_FRAC) * step, step - WINDOW_LEAST * every_steps)
        within = [truth for other, truth in truths.items() if first <= other <= step]
        found[step] = sum(truth.trace for truth in within) / sum(truth.signal_sq for truth in within)
    return found


def rows_of(
    truths: dict[int, Truth], windows: dict[int, float], estimates: dict[int, list[float | None]]
) -> list[list[str]]:
    """Return a row for each checkpoint, with what was logged last before."""
    rows = []
    for step, truth in truths.items():
        logged = max((other for other in estimates if other <= step), default=None)
        images, low, high = estimates[logged] if logged is not None else (None, None, None)
        rows.append(
            [
                f"{step:,}",
                f"{truth.images:,.0f}",
                f"{windows[step]:,.0f}",
                "not known" if images is None else f"{images:,.0f}",
                f"{low or 0:,.0f} to {'no end' if high is None else f'{high:,.0f}'}",
            ]
        )
    return rows


def draw(
    path: Path,
    truths: dict[int, Truth],
    windows: dict[int, float],
    estimates: dict[int, list[float | None]],
    *,
    batch: int,
    every_steps: int,
) -> None:
    """Draw what was logged, with its band, and the truth."""
    # What is not a number is left out of a plot.
    rows = [[math.nan if value is None else value for value in row] for row in estimates.values()]
    images, low, high = ([row[column] for row in rows] for column in range(3))
    logged = Series(label="logged, with its 95 % band", x=list(estimates), y=images, low=low, high=high, markers=False)
    true = Series(label="true, of single steps", line=False, x=list(truths), y=[one.images for one in truths.values()])
    averaged = Series(label="true, over the window", markers=False, x=list(windows), y=list(windows.values()))
    y = Axis(label="gradient noise scale", unit="images", log=True)
    panel = Panel(x=Axis(label="step"), y=y, series=[logged, averaged, true])
    caption = (
        f"One run with batches of {batch}, measured every {every_steps} steps from the run's own passes, averaged over"
        f" the last quarter of the steps; true: over all training images, at {len(truths)} checkpoints."
    )
    save_plot(path, [panel], title="Gradient noise scale", caption=caption)


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
