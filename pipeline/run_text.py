"""What a run says when it begins and when it ends."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.build_optimizer import peak_rate
from pipeline.build_order import TrainingOrder
from pipeline.config import TrainConfig
from pipeline.planning.rows import flop_text
from pipeline.run_folder import CHECKPOINT_FOLDER, RUNS_FOLDER, SUMMARY_FILE
from pipeline.track.metric_log import METRICS_FILE
from pipeline.track.report.run_page import REPORT_FILE
from pipeline.world import World


def start_text(
    config: TrainConfig, world: World, folder: Path, order: TrainingOrder, module: nn.Module, *, total_steps: int
) -> str:
    """Return the lines that begin a run: what is trained, on what, by whom."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    dropped = f", {order.num_dropped} of each epoch left out" if order.num_dropped else ""
    device = "GPU" if world.cuda else "CPU"
    part = "" if config.data.train_samples is None else " of the split"
    noise = f", {100 * config.data.label_noise:g} % of their labels drawn at random" if config.data.label_noise else ""
    places = " + ".join(config.data.places)
    text = (
        f"{places}: {order.num_samples:,} images{part}{noise}, batch {order.batch_size:,}{dropped}\n"
        f"{type(config.model).__name__.removesuffix('Config')}: {parameters / 1e6:.2f} million parameters,"
        f" {total_steps:,} steps on {world.size} {device} rank{'s' if world.size > 1 else ''} -> {folder}\n"
    )
    if config.optimizer.reference_batch is not None:
        text += f"peak rate {peak_rate(config):.4g}, scaled from batch {config.optimizer.reference_batch:,}\n"
    return text


def summary_text(summary: dict[str, Any]) -> str:
    """Return the few lines that end a run."""
    folder = Path(summary["run_dir"])
    bounded = f"bounded by  {summary['bounded_by']}\n" if "bounded_by" in summary else ""
    compute = ""
    if "rate/mfu_frac" in summary:
        rate, peak = (flop_text(summary[key]) for key in ("rate/flops_per_s", "peak_flops_per_s"))
        share = f"{100 * summary['rate/mfu_frac']:.0f} % of the peak of {peak}/s"
        compute = f"compute     {rate}/s, {share} ({summary['peak_source']})\n"
    advice = ""
    if "batch_advice" in summary:
        advice = textwrap.fill(f"batch       {summary['batch_advice']}", width=110, subsequent_indent=" " * 12) + "\n"
    report = folder / REPORT_FILE
    page = f"open {report}; " if report.is_file() else ""
    where = "" if folder.resolve().is_relative_to(RUNS_FOLDER.resolve()) else f' ARGS="runs=[{folder}]"'
    ranks = "1 rank" if summary["world_size"] == 1 else f"{summary['world_size']} ranks"
    images = f"of {summary['val/samples']:,.0f} validation images"
    top5 = f"top-5 {100 * summary['val/top5_frac']:.2f} %, " if "val/top5_frac" in summary else ""
    if "val/r2_frac" in summary:
        quality = f"explained   {100 * summary['val/r2_frac']:.2f} % of the variance {images}"
    elif "val/map_frac" in summary:
        quality = f"precision   {100 * summary['val/map_frac']:.2f} %, the mean over classes of the average, {images}"
    else:
        quality = f"accuracy    {100 * summary['val/top1_frac']:.2f} % {images}"
    return (
        f"\n{quality} ({top5}loss {summary['val/loss']:.4f})\n"
        f"{_gap_text(summary)}"
        f"speed       {summary['rate/images_per_s']:,.0f} images/s on {ranks},"
        f" {100 * summary['rate/data_wait_frac']:.2f} % of the time waiting for data,"
        f" {summary['wall_s']:.0f} s in all\n"
        f"{compute}{bounded}{advice}"
        f"run         {folder} ({METRICS_FILE}, {SUMMARY_FILE}, {CHECKPOINT_FOLDER}/)\n"
        f"look        {page}make dashboard{where}\n"
        f'next        make evaluate ARGS="run={folder}"\n'
    )


def _gap_text(summary: dict[str, Any]) -> str:
    """Return the line on the generalisation gap, empty where it was not measured."""
    if "gap/loss" not in summary:
        return ""
    loss = summary["gap/loss"]
    lower = "lower" if loss >= 0 else "higher"
    if "gap/top1_frac" not in summary:
        return f"gap         on training samples loss is {abs(loss):.4g} {lower}\n"
    accuracy, error = (summary[f"gap/{name}"] for name in ("top1_frac", "top1_error_frac"))
    higher = "higher" if accuracy >= 0 else "lower"
    return (
        f"gap         on training images accuracy is {100 * abs(accuracy):.2f} % (± {100 * error:.2f}) {higher},"
        f" loss {abs(loss):.4f} {lower}\n"
    )
